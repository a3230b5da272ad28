// The last lines of the log, and what doctor finds.
import { h, get, put, head, table, pill, clock, time, number } from './lib.js';
import { tell, mark } from './main.js';

export function logs() {
  const level = h('select', { id: 'level' }, [['', 'All'], ['WARN', 'Warnings and errors'], ['ERROR', 'Errors']].map(([v, t]) => h('option', { value: v }, t)));
  const t = table('Lines of the log, newest first', ['Time', 'Level', 'Line'], 'log');
  level.addEventListener('change', () => dispatchEvent(new Event('tidegate-refresh')));
  const node = h('div', {}, head('Log'), h('section', { class: 'card' }, h('div', { class: 'tools' }, h('div', { class: 'field' }, h('label', { for: 'level' }, 'Show'), level)), t.node,
    h('p', { class: 'small muted' }, 'The last lines in memory. Older ones: ', h('code', {}, 'journalctl -u tidegate'))));
  return {
    node, every: 3000,
    async refresh() {
      const list = (await get('/v1/logs', { limit: 512 })).filter((l) => !level.value || l.level === 'ERROR' || l.level === level.value);
      t.body.replaceChildren(...list.reverse().map((l) => h('tr', {}, h('td', { title: time(l.time) }, clock(l.time)), h('td', { class: l.level === 'ERROR' ? 'text-bad' : l.level === 'WARN' ? 'text-warn' : 'muted' }, l.level), h('td', { class: 'break' }, l.text))));
      t.nothing(list.length ? '' : 'No lines.');
    },
  };
}

export function doctor() {
  const sum = h('span', { class: 'pill' });
  const list = h('section', { class: 'card', 'aria-label': 'Findings' });
  const node = h('div', {}, head('Doctor', sum), list);
  const order = { fault: 0, warning: 1, ok: 2 };
  return {
    node, every: 10000,
    async refresh() {
      const [found, st] = await Promise.all([get('/v1/doctor'), get('/v1/status')]);
      tell(st);
      const n = (s) => found.filter((f) => f.state === s).length;
      sum.className = 'pill ' + (n('fault') ? 'bad' : n('warning') ? 'warn' : 'good');
      put(sum, n('fault') ? `${number(n('fault'))} to mend` : n('warning') ? `${number(n('warning'))} to look at` : 'all is well');
      mark('doctor', n('fault') ? 'bad' : n('warning') ? 'warn' : undefined, 'needs a look');
      found.sort((a, b) => order[a.state] - order[b.state]);
      put(list, ...found.map((f) => h('div', { class: 'finding' }, h('div', {}, pill(f.state === 'fault' ? 'bad' : f.state === 'warning' ? 'warn' : 'good', f.state)),
        h('div', { class: 'break' }, h('b', {}, f.what), ' ', f.detail), f.remedy && h('div', { class: 'remedy small break' }, '→ ', f.remedy))));
    },
  };
}
