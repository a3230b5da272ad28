// Plans and who is near a limit.
import { h, get, put, keyed, table, head, post, ask, toast, number, span, isAdmin, percent } from './lib.js';

export function limits() {
  const plan = h('select', { id: 'plan' }, h('option', { value: '' }, 'All plans'));
  const t = table('Counters, the fullest first', ['Plan', 'Level', 'Used', ['', 'num'], 'Starts again', 'Key', '']);
  const note = h('p', { class: 'small muted' });
  const node = h('div', {}, head('Limits'), h('section', { class: 'card' },
    h('div', { class: 'tools' }, h('div', { class: 'field' }, h('label', { for: 'plan' }, 'Plan'), plan)), t.node, note));
  plan.addEventListener('change', () => dispatchEvent(new Event('tidegate-refresh')));
  const known = new Set();

  return {
    node, every: 3000,
    async refresh() {
      const rows = await get('/v1/counters', { plan: plan.value, sort: 'share', limit: 100 });
      for (const r of rows) if (r.plan && !known.has(r.plan)) { known.add(r.plan); plan.append(h('option', { value: r.plan }, r.plan)); }
      keyed(t.body, rows, (r) => r.key + r.plan + r.level + r.kind, row);
      t.nothing(rows.length ? '' : 'No call has come under a plan since the start.');
      put(note, rows.length ? `The ${number(rows.length)} fullest counts. A caller is known by the hash of its name; tidegate counters reset takes the name itself.` : '');
    },
  };

  function row(first) {
    const used = h('td'), text = h('td', { class: 'num' }), until = h('td'), act = h('td');
    const bar = h('meter', { min: 0, 'aria-label': `used of ${first.plan || 'a plan'}` });
    used.append(bar);
    if (isAdmin()) act.append(h('button', { class: 'quiet', type: 'button', 'aria-label': 'Set to zero: ' + first.plan + ' ' + first.key, onclick: async () => {
      if (!await ask('Set this count to zero?', `The caller may use the whole of ${first.plan || 'the plan'} again in this window. It is audited.`, 'Set to zero')) return;
      try { await post('/v1/counters/reset?key=' + encodeURIComponent(first.key)); } catch (e) { toast(e.message); }
      dispatchEvent(new Event('tidegate-refresh'));
    } }, 'Reset'));
    const node = h('tr', {}, h('td', {}, first.plan || '–'), h('td', {}, first.level || '–', first.kind === 'burst' ? ' burst' : ''), used, text, until, h('td', { class: 'mono small', title: first.key }, first.key.slice(0, 12) + '…'), act);
    return { node, update(r) {
      const share = r.limit ? r.used / r.limit : 0;
      bar.max = Math.max(r.limit, 1); bar.low = bar.max * 0.75; bar.high = bar.max * 0.95; bar.optimum = 0; bar.value = r.used;
      put(text, h('span', { class: share >= 1 ? 'text-bad' : share >= 0.8 ? 'text-warn' : '' }, `${number(r.used)} of ${number(r.limit)}, ${percent(share)}`));
      put(until, r.window_end ? (Date.parse(r.window_end) > Date.now() ? 'in ' + span((Date.parse(r.window_end) - Date.now()) / 1000) : 'now') : '–');
    } };
  }
}
