// The frame of the page: which view is shown, who has signed in, and when to ask again.
import { h, s, get, post, put, session, toast, Refused } from './lib.js';
import { overview } from './overview.js';

// The other views are loaded when they are first opened.
const views = [
  ['overview', 'Overview', 'M3 12h4l3-7 4 14 3-7h4', async () => overview],
  ['apis', 'APIs', 'M4 6h16M4 12h16M4 18h10', async () => (await import('./apis.js')).apis],
  ['limits', 'Limits', 'M4 18a8 8 0 1 1 16 0M12 18l4-6', async () => (await import('./limits.js')).limits],
  ['calls', 'Calls', 'M4 5h16v14H4zM4 10h16M9 10v9', async () => (await import('./calls.js')).calls],
  ['bundles', 'Bundles', 'M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9', async () => (await import('./bundles.js')).bundles],
  ['trust', 'Trust', 'M12 3l8 3v6c0 5-3.5 8-8 9-4.5-1-8-4-8-9V6zM9 12l2 2 4-4', async () => (await import('./trust.js')).trust],
  ['sync', 'Sync', 'M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5', async () => (await import('./trust.js')).sync],
  ['logs', 'Log', 'M5 4h14v16H5zM8 8h8M8 12h8M8 16h5', async () => (await import('./logs.js')).logs],
  ['doctor', 'Doctor', 'M12 5v14M5 12h14', async () => (await import('./logs.js')).doctor],
];

const main = document.getElementById('main');
const nav = document.getElementById('nav');
const sign = document.getElementById('sign');
let current = null;
let timer = 0;

for (const [name, title, path] of views) {
  nav.append(h('li', {}, h('a', { href: '#/' + name, id: 'nav-' + name },
    s('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true' }, s('path', { d: path })), title, h('span', { class: 'dot', hidden: true }))));
}

/** Marks a section that needs a look. */
export function mark(name, cls, text) {
  const dot = document.querySelector(`#nav-${name} .dot`);
  dot.hidden = !cls;
  dot.className = 'dot ' + (cls ?? '');
  if (text) { dot.setAttribute('role', 'img'); dot.setAttribute('aria-label', text); }
}

async function readSession() {
  Object.assign(session, { csrf: '' }, await get('/v1/session'));
  sign.hidden = false;
  put(sign, session.signed_in ? 'Sign out' : 'Sign in');
  put(document.getElementById('who'), session.signed_in ? `${session.name} (${session.role})` : session.role ? 'looking only' : '');
}

sign.addEventListener('click', async () => {
  if (!session.signed_in) { location.hash = '#/sign-in'; return; }
  try { await post('/v1/logout'); } catch (e) { toast(e.message); }
  await readSession();
  show();
});

/** Shows the view that the address names, with the focus on it. */
async function show() {
  clearTimeout(timer);
  current?.end?.();
  current = null;
  const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/');
  if (location.hash === '#main') { main.focus(); return; }
  if (name === 'sign-in' || !session.role) { signIn(); return; }
  const found = views.find((v) => v[0] === name) ?? views[0];
  for (const [n] of views) document.getElementById('nav-' + n).toggleAttribute('aria-current', n === found[0]);
  document.getElementById('nav-' + found[0]).setAttribute('aria-current', 'page');
  document.title = found[1] + ' · Tidegate';
  get('/v1/status').then(tell, () => {});
  const view = (await found[3]())(rest.map(decodeURIComponent));
  current = view;
  put(main, view.node);
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
  await tick(view);
}

/** Asks for new data while the view is shown and the page is seen. */
async function tick(view) {
  if (!document.hidden) {
    try {
      await view.refresh();
      header.lost = 0;
    } catch (e) {
      if (e instanceof Refused && e.status === 401) { await readSession().catch(() => {}); if (!session.role) return show(); }
      if (++header.lost === 2) state('bad', 'no answer');
      if (e instanceof Refused) toast(e.message); else if (!(e instanceof TypeError)) console.error(e);
    }
  }
  if (view !== current) return;
  clearTimeout(timer);
  timer = setTimeout(tick, view.every ?? 3000, view);
}

const header = { lost: 0 };
function state(cls, text) {
  const e = document.getElementById('state');
  e.className = 'pill ' + cls;
  put(e, text);
}

/** What the header tells, from any status that a view has fetched. */
export function tell(st) {
  put(document.getElementById('device'), st.device ? st.device.slice(0, 12) : '');
  document.getElementById('device').title = st.device;
  const b = st.bundle;
  if (st.alarms?.length) state('bad', st.alarms.length === 1 ? '1 alarm' : st.alarms.length + ' alarms');
  else if (!st.ready || b.state === 'none' || b.state === 'safe-mode') state('bad', b.state === 'none' ? 'no bundle' : b.state);
  else if (b.state === 'trial') state('warn', `bundle ${b.serving.seq} on trial`);
  else state('good', `bundle ${b.serving?.seq} serves`);
}

function signIn() {
  document.title = 'Sign in · Tidegate';
  const note = h('p', { class: 'note bad', role: 'alert', hidden: true });
  const name = h('input', { id: 'name', autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false', required: true });
  const password = h('input', { id: 'password', type: 'password', autocomplete: 'current-password', required: true });
  const go = h('button', {}, 'Sign in');
  const form = h('form', { onsubmit: async (e) => {
    e.preventDefault();
    go.disabled = true;
    try {
      Object.assign(session, await post('/v1/login', { name: name.value, password: password.value }));
      await readSession();
      location.hash = '#/overview';
      if (location.hash === '#/overview') show();
    } catch (err) {
      put(note, err.message + (err.hint ? '. ' + err.hint : ''));
      note.hidden = false;
      password.value = '';
      password.focus();
    }
    go.disabled = false;
  } }, h('div', { class: 'field' }, h('label', { for: 'name' }, 'Name'), name), h('div', { class: 'field' }, h('label', { for: 'password' }, 'Password'), password), note,
  h('div', { class: 'actions' }, go));
  put(main, h('div', { class: 'sign card' }, h('h1', {}, 'Sign in'),
    session.accounts ? form : h('div', { class: 'note warn' }, h('p', {}, 'No administrator is set on this device yet. Somebody at the device sets one:'), h('p', {}, h('code', {}, 'tidegate admin passwd'))),
    h('p', { class: 'muted small' }, 'Password lost? Whoever stands at the device sets a new one the same way.')));
  (session.accounts ? name : main).focus();
}

document.getElementById('skip').addEventListener('click', (e) => { e.preventDefault(); main.focus(); });
addEventListener('hashchange', show);
addEventListener('tidegate-refresh', () => { if (current) { clearTimeout(timer); tick(current); } });
document.addEventListener('visibilitychange', () => { if (!document.hidden && current) { clearTimeout(timer); tick(current); } });
readSession().then(show, (e) => put(main, h('p', { class: 'note bad' }, e.message + (e.hint ? '. ' + e.hint : ''))));
