// Bundles: what is stored, what a new one would change, and the decisions on a trial.
import { h, get, post, put, upload, head, table, facts, pill, ask, toast, number, bytes, span, time, short, isAdmin, session } from './lib.js';
import { tell } from './main.js';

export function bundles() {
  const places = h('div', { class: 'cards' });
  const work = h('section', { class: 'card', 'aria-label': 'Apply a bundle' });
  const t = table('History', ['Nr', 'Time', 'What', 'Code', 'By', 'Reason']);
  const node = h('div', {}, head('Bundles'), places, work, h('section', { class: 'card' }, h('h2', {}, 'History'), t.node,
    h('p', { class: 'small' }, h('a', { href: '/v1/history/export', download: 'history.tideaudit' }, 'Export'), ' the log with its chain and checkpoints; tidegate history --verify checks it.')));
  let busy = false;
  let lastPlaces = '', lastHistory = 0;
  idle();

  return {
    node, every: 1500,
    async refresh() {
      const [st, list] = await Promise.all([get('/v1/status'), get('/v1/history', { limit: 60 })]);
      tell(st);
      drawPlaces(st);
      if (list.at(-1)?.n !== lastHistory) {
        lastHistory = list.at(-1)?.n;
        t.body.replaceChildren(...list.reverse().map((e) => h('tr', {}, h('td', { class: 'num' }, number(e.n)), h('td', { class: 'small' }, time(e.system && !e.system.startsWith('0001') && e.system > e.floor ? e.system : e.floor)),
          h('td', { class: 'key' }, e.event), h('td', { class: 'mono small' }, e.code ?? ''), h('td', { class: 'small break' }, e.source || ''), h('td', { class: 'small break' }, e.detail ?? '', e.digest && h('span', { class: 'mono muted' }, ' ' + short(e.digest))))));
        t.nothing(list.length ? '' : 'Nothing has happened.');
      }
    },
  };

  function drawPlaces(st) {
    const b = st.bundle;
    const left = Math.round(b.trial_seconds_left ?? 0);
    const now = JSON.stringify([b.state, b.serving, b.last_known_good, b.older, b.waits_for_confirmation, isAdmin()]);
    if (now !== lastPlaces) {
      lastPlaces = now;
      const place = (title, x, cls, text) => x && h('section', { class: 'card', 'aria-label': title }, h('h2', {}, title, text && pill(cls, text)), h('div', { class: 'big' }, String(x.seq), ' ', h('small', {}, [x.name, x.version].filter(Boolean).join(' '))),
        facts([['for', `${x.product}/${x.channel}`], ['digest', h('span', { class: 'mono' }, short(x.digest))], ['expires', x.expires ? x.expires.slice(0, 10) : 'never']]), x.damaged && h('p', { class: 'text-bad' }, 'damaged on disk'));
      const s = b.serving, good = b.last_known_good;
      const older = b.older?.digest !== s?.digest ? b.older : undefined;
      const trial = b.state === 'trial';
      const first = place('Serving', s, trial ? 'warn' : 'good', trial ? 'on trial' : 'confirmed');
      if (first && trial) {
        first.append(h('p', { class: 'note warn' }, b.waits_for_confirmation ? 'It goes back unless somebody confirms it: ' : 'Confirmed by itself if healthy: ', h('b', { id: 'left' }, span(left)), ' left.'));
      }
      if (first && isAdmin()) {
        first.append(h('div', { class: 'actions' }, trial && h('button', { type: 'button', id: 'confirm', onclick: () => decide('confirm', 'Confirm this bundle?', `Bundle ${s.seq} stays from now on, without waiting for the end of its trial.`, 'Confirm') }, 'Confirm now'),
          (trial ? good : older) && h('button', { type: 'button', id: 'rollback', class: 'danger', onclick: () => decide('rollback', 'Go back to the bundle before?', `Bundle ${(trial ? good : older).seq} serves at once. Calls in flight finish; limits and records stay.`, 'Roll back') }, 'Roll back')));
      }
      put(places, first ?? h('section', { class: 'card' }, h('h2', {}, 'Serving'), h('p', {}, b.state === 'none' ? 'No bundle yet: every call is answered 503.' : 'Safe mode: no stored bundle loads.')),
        trial && place('Last known good', good), place('Before it', older));
    }
    const el = document.getElementById('left');
    if (el) put(el, span(left));
  }

  async function decide(what, title, text, yes) {
    if (!await ask(title, text, yes)) return;
    try {
      const o = await post('/v1/' + what);
      result('good', what === 'confirm' ? `Bundle ${o.seq} is confirmed.` : 'Rolled back: the bundle before serves again.');
    } catch (e) { toast(e.message + (e.hint ? '. ' + e.hint : '')); }
    dispatchEvent(new Event('tidegate-refresh'));
  }

  function idle(message) {
    busy = false;
    const file = h('input', { type: 'file', id: 'file', accept: '.tide,.tideroot,.tideupd,.tideenroll', 'aria-describedby': 'file-help', onchange: () => file.files[0] && plan(file.files[0]) });
    const drop = h('div', { class: 'drop', ondragover: (e) => { e.preventDefault(); drop.classList.add('over'); }, ondragleave: () => drop.classList.remove('over'),
      ondrop: (e) => { e.preventDefault(); drop.classList.remove('over'); if (e.dataTransfer.files[0] && !busy) plan(e.dataTransfer.files[0]); } },
    h('div', { class: 'field' }, h('label', { for: 'file' }, 'Choose a bundle, a trust root or an enrolment'), file), h('p', { class: 'small muted', id: 'file-help' }, 'Or drop it here. You see what would change before anything does.'));
    put(work, h('h2', {}, 'Apply a bundle'), message ?? '', isAdmin() ? drop : h('p', { class: 'note' }, session.signed_in ? 'You may look, not change.' : 'Sign in as an administrator to apply, confirm and roll back.', ' Or at the device: ', h('code', {}, 'tidegate apply FILE')));
  }

  function result(cls, text, hint) { idle(h('div', { class: 'note ' + cls, role: 'status', id: 'result' }, h('p', {}, text), hint && h('p', { class: 'small' }, hint))); }

  function sending(title, file) {
    const bar = h('progress', { max: 1, value: 0, 'aria-label': title });
    const text = h('p', { class: 'small muted', role: 'status' }, bytes(file.size));
    put(work, h('h2', {}, title), bar, text);
    return (share) => { bar.value = share; put(text, share < 1 ? `${bytes(file.size * share)} of ${bytes(file.size)} sent` : 'the device is checking it…'); };
  }

  function refused(o) { return `${o.code ? o.code + ': ' : ''}${o.detail || o.error || 'refused'}`; }

  /** What changes for callers: APIs, operations, limits, keys. */
  function rules(list, more) {
    if (!list.length) return h('p', { class: 'muted' }, 'Nothing changes for callers.');
    const marks = { added: ['add', '+', 'new'], removed: ['del', '−', 'gone'], changed: ['chg', '~', 'changed'] };
    const counts = ['added', 'changed', 'removed'].map((k) => [list.filter((r) => r.change === k).length, marks[k]]).filter(([n]) => n);
    return h('div', {}, h('h3', {}, 'What changes for callers ', counts.map(([n, [, sign, word]]) => h('span', { class: 'tally' }, `${sign}${number(n)} ${word}`))),
      h('ul', { class: 'changes', id: 'rules', 'aria-label': 'What changes for callers', tabindex: '0' }, list.map((r) => h('li', { class: marks[r.change]?.[0] },
        h('span', { class: 'mark', 'aria-hidden': 'true' }, marks[r.change]?.[1]), h('span', { class: 'unseen' }, r.change + ': '), h('span', { class: 'what' }, r.what), ' ', h('b', { class: 'mono' }, r.name), r.detail && h('span', { class: 'detail' }, r.detail.join(' · '))))),
      more ? h('p', { class: 'muted small' }, `${number(more)} more are not listed here; tidectl bundle diff lists all.`) : '');
  }

  async function plan(file) {
    busy = true;
    try {
      const o = await upload('/v1/plan?name=' + encodeURIComponent(file.name), file, { sent: sending('Looking into ' + file.name, file) });
      if (o.code) { result('bad', `${file.name} is refused. ${refused(o)}`, o.hint); return; }
      const c = o.changes ?? {};
      const files = [...(c.added ?? []).map((x) => ['add', '+ ' + x]), ...(c.removed ?? []).map((x) => ['del', '− ' + x]), ...(c.changed ?? []).map((x) => ['chg', '~ ' + x]), ...(c.fields ?? []).map((x) => ['chg', '~ manifest: ' + x])];
      const go = h('button', { type: 'button', id: 'apply', onclick: () => apply(file) }, o.already ? 'Apply again' : 'Apply');
      put(work, h('h2', {}, 'Plan for ' + file.name), h('div', { class: 'wide' }, facts([['kind', { manifest: 'bundle', root: 'trust root', device: 'enrolment' }[o.kind] ?? o.kind], ['number', o.seq ? number(o.seq) : ''], ['name', [o.name, o.version].filter(Boolean).join(' ')], ['for', o.product && `${o.product}/${o.channel}`], ['digest', o.digest && h('span', { class: 'mono' }, short(o.digest))], ['new on disk', bytes(c.new_bytes ?? 0)]])),
        h('p', { class: 'note good', role: 'status', id: 'plan-verdict' }, o.already ? 'Signed and for this device; it is in force already.' : 'Signed, newer, and for this device.'), (o.warnings ?? []).map((w) => h('p', { class: 'note warn' }, w)),
        rules(c.rules ?? [], c.rules_more ?? 0),
        files.length ? h('details', {}, h('summary', {}, files.length === 1 ? '1 change of files and manifest' : `${number(files.length)} changes of files and manifest`), h('ul', { class: 'changes mono' }, files.map(([cls, x]) => h('li', { class: cls }, x)))) : '',
        h('div', { class: 'actions' }, go, h('button', { type: 'button', class: 'quiet', onclick: () => idle() }, 'Cancel')));
      go.focus();
    } catch (e) { result('bad', e.message, e.hint); }
  }

  async function apply(file) {
    try {
      const o = await upload('/v1/apply?wait=true&name=' + encodeURIComponent(file.name), file, { sent: sending('Applying ' + file.name, file), line: (x) => {
        if (x.final) return;
        dispatchEvent(new Event('tidegate-refresh')); // it serves from now on
        put(work, h('h2', {}, 'On trial'), h('div', { class: 'note warn', role: 'status', id: 'trial-note' }, h('p', {}, x.seq ? `Bundle ${x.seq} serves on trial. It is confirmed by itself if it stays healthy for ${span(x.trial_seconds_left)}.` : 'On trial.'), h('p', { class: 'small' }, 'You may leave this page: the trial goes on.')));
      } });
      if (o.code) result('bad', `${file.name}: ${refused(o)}`, o.hint);
      else if (o.phase === 'trial') result('warn', `Bundle ${o.seq} serves on trial and waits for you to confirm it.`);
      else result('good', o.already ? `${file.name} was in force already.` : o.seq && o.kind === 'manifest' ? `Bundle ${o.seq} is ${o.phase}.` : `${file.name} is ${o.phase}.`);
    } catch (e) { result('bad', e.message, e.hint); }
    dispatchEvent(new Event('tidegate-refresh'));
  }
}
