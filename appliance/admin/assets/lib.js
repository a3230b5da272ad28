// What every view uses: elements, requests, and how things are written for people.
// Text from the device only ever becomes a text node: nothing here parses HTML.

const SVG = 'http://www.w3.org/2000/svg';

function fill(e, attrs, kids) {
  for (const [k, v] of Object.entries(attrs ?? {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? '' : String(v));
  }
  e.append(...kids.flat().filter((k) => k !== undefined && k !== null && k !== false));
  return e;
}

/** An element: h('p', {class: 'x'}, 'text', child). */
export const h = (tag, attrs, ...kids) => fill(document.createElement(tag), attrs, kids);

/** An SVG element. */
export const s = (tag, attrs, ...kids) => fill(document.createElementNS(SVG, tag), attrs, kids);

/** Replaces the content of an element, unless it says the same already. */
export function put(e, ...kids) {
  const only = kids.length === 1 && typeof kids[0] !== 'object' ? String(kids[0]) : null;
  if (only !== null) {
    if (e.textContent !== only || e.children.length) e.textContent = only;
    return e;
  }
  e.replaceChildren(...kids.flat().filter((k) => k !== undefined && k !== null && k !== false));
  return e;
}

/** Brings the children of parent in line with items, keeping the elements of known keys, so that
 * focus and selection survive a refresh. make(item) returns {node, update(item)}. */
export function keyed(parent, items, key, make) {
  const known = parent.keyed ??= new Map();
  const seen = new Set();
  let at = parent.firstElementChild;
  for (const item of items) {
    const k = key(item);
    seen.add(k);
    let row = known.get(k);
    if (!row) known.set(k, row = make(item));
    row.update?.(item);
    if (row.node === at) at = at.nextElementSibling;
    else parent.insertBefore(row.node, at);
  }
  for (const [k, row] of known) {
    if (!seen.has(k)) { row.node.remove(); known.delete(k); }
  }
}

/** An answer that is not 2xx. */
export class Refused extends Error {
  constructor(status, fault) {
    super(fault?.error ?? `the device answers ${status}`);
    this.status = status;
    this.hint = fault?.hint;
    this.code = fault?.code;
  }
}

export const session = { name: '', role: '', signed_in: false, accounts: false, csrf: '' };
export const isAdmin = () => session.signed_in && session.role === 'admin';

async function fault(r) {
  let f;
  try { f = await r.json(); } catch { /* not from the device's API */ }
  return new Refused(r.status, f);
}

/** GET of JSON. */
export async function get(path, query) {
  const q = new URLSearchParams(Object.entries(query ?? {}).filter(([, v]) => v !== '' && v !== undefined));
  const r = await fetch(path + (q.size ? '?' + q : ''), { headers: { Accept: 'application/json' } });
  if (!r.ok) throw await fault(r);
  return r.json();
}

/** POST of JSON or nothing. */
export async function post(path, body) {
  const headers = { 'X-Tidegate-Csrf': session.csrf };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const r = await fetch(path, { method: 'POST', headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!r.ok) throw await fault(r);
  return r.json();
}

/** Sends a file; sent(share) tells how far it is, line(o) gets each line of the answer. */
export function upload(path, file, { sent, line }) {
  return new Promise((resolve, reject) => {
    const x = new XMLHttpRequest();
    let read = 0, last;
    const lines = (end) => {
      for (;;) {
        const i = x.responseText.indexOf('\n', read);
        if (i < 0 && !(end && read < x.responseText.length)) return;
        const text = x.responseText.slice(read, i < 0 ? undefined : i);
        read = i < 0 ? x.responseText.length : i + 1;
        if (!text.trim()) continue;
        last = JSON.parse(text);
        line?.(last);
      }
    };
    x.upload.onprogress = (e) => e.lengthComputable && sent?.(e.loaded / e.total);
    x.onprogress = () => x.status === 200 && lines(false);
    x.onerror = () => reject(new Error('the device did not answer; what it has taken is safe'));
    x.onload = () => {
      if (x.status !== 200) {
        let f;
        try { f = JSON.parse(x.responseText); } catch { /* no fault */ }
        return reject(new Refused(x.status, f));
      }
      lines(true);
      resolve(last);
    };
    x.open('POST', path);
    x.setRequestHeader('X-Tidegate-Csrf', session.csrf);
    x.setRequestHeader('Content-Type', 'application/octet-stream');
    x.send(file);
  });
}

/* Words for people. */

const nf = (d) => new Intl.NumberFormat('en', { maximumFractionDigits: d, minimumFractionDigits: 0 });
const [n0, n1, n2] = [nf(0), nf(1), nf(2)];
export const number = (v) => n0.format(v ?? 0);
export const decimal = (v) => (Math.abs(v) >= 100 ? n0 : Math.abs(v) >= 10 ? n1 : n2).format(v);
export const percent = (v) => (v > 0 && v < 0.001 ? '<0.1' : n1.format(v * 100)) + ' %';

export function bytes(v) {
  for (const [u, f] of [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]]) if (v >= f) return n1.format(v / f) + '\u00a0' + u;
  return n0.format(v ?? 0) + '\u00a0B';
}

export function span(sec) {
  sec = Math.max(0, Math.round(sec));
  const d = Math.floor(sec / 86400), hr = Math.floor(sec / 3600) % 24, m = Math.floor(sec / 60) % 60;
  if (d) return `${d} d ${hr} h`;
  if (hr) return `${hr} h ${m} min`;
  if (m) return `${m} min ${sec % 60} s`;
  return `${sec} s`;
}

export const ms = (v) => (v === undefined || Number.isNaN(v) ? '–' : v >= 1000 ? decimal(v / 1000) + ' s' : v >= 1 ? decimal(v) + ' ms' : n0.format(v * 1000) + ' µs');
export const time = (t) => (t && !t.startsWith('0001') ? t.replace('T', ' ').replace(/(\.\d+)?Z$/, '') + ' UTC' : '–');
export const clock = (t) => t?.slice(11, 19) ?? '–';
export const short = (d) => (d ? d.slice(0, 12) : '–');

/** What the commonest codes of refusals mean. */
const codes = { 404: 'no such path', 405: 'no such method', 413: 'too large', 900800: 'limit of the API', 900802: 'limit of the operation', 900803: 'limit of the application', 900804: 'limit of the subscription',
  900806: 'custom limit', 900900: 'authentication failed', 900901: 'invalid credentials', 900902: 'no credentials', 900903: 'token expired', 900904: 'token inactive', 900905: 'wrong kind of key', 900907: 'API blocked',
  900908: 'no subscription', 900909: 'subscription blocked', 900910: 'scope missing', 900911: 'wrong login', 101503: 'backend unreachable', 101504: 'backend too slow', 303001: 'no backend takes calls' };
export const meaning = (code) => (codes[code] ? `${code} (${codes[code]})` : String(code));

/** A table with a caption for screen readers; returns its parts. */
export function table(caption, heads, cls) {
  const body = h('tbody');
  const names = heads.map((t) => (Array.isArray(t) ? t[0] : t));
  // On a phone a row becomes a block whose cells carry the names of their columns.
  new MutationObserver((all) => {
    for (const m of all) for (const row of m.addedNodes) [...row.children].forEach((cell, i) => { cell.dataset.name = names[i]; });
  }).observe(body, { childList: true });
  const node = h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h('table', { class: cls ?? 'stack' }, h('thead', {}, h('tr', {}, heads.map((t) => {
      const [text, c] = Array.isArray(t) ? t : [t];
      return h('th', { scope: 'col', class: c }, text);
    }))), body));
  const empty = h('p', { class: 'nothing', hidden: true }, 'Nothing yet.');
  node.append(empty);
  return { node, body, nothing(text) { empty.hidden = !text; if (text) put(empty, text); } };
}

export const pill = (cls, text) => h('span', { class: 'pill ' + cls }, text);
export const head = (title, ...more) => h('div', { class: 'head' }, h('h1', {}, title), h('span', { class: 'grow' }), ...more);

/** Pairs of a name and what it is. */
export function facts(list) {
  const parts = [];
  for (const [k, v] of list) if (v !== undefined && v !== null && v !== '') parts.push(h('dt', {}, k), h('dd', {}, v));
  return h('dl', { class: 'facts' }, parts);
}

/** Says something to everybody, screen readers too. */
export function toast(text) {
  const t = document.getElementById('toast');
  put(t, text);
  t.hidden = false;
  clearTimeout(t.timer);
  t.timer = setTimeout(() => { t.hidden = true; }, 8000);
}

/** Asks before something is done that cannot be taken back at once. */
export function ask(title, text, yes) {
  return new Promise((resolve) => {
    const d = h('dialog', { 'aria-labelledby': 'ask-title' },
      h('h2', { id: 'ask-title' }, title), h('p', {}, text),
      h('form', { method: 'dialog', class: 'actions' }, h('button', { value: 'yes', class: 'danger' }, yes), h('button', { value: 'no', class: 'quiet' }, 'Cancel')));
    d.addEventListener('close', () => { d.remove(); resolve(d.returnValue === 'yes'); });
    document.body.append(d);
    d.showModal();
  });
}
