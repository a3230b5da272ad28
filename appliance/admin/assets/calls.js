// The newest calls, and a search in those that the device still has.
import { h, get, put, table, head, number, clock, ms, time, bytes, facts, meaning } from './lib.js';

export function calls() {
  const q = h('input', { id: 'q', type: 'search', placeholder: 'user, application, path, request id…', size: 32 });
  const status = h('select', { id: 'status' }, [['', 'Any answer'], ['2xx', '2xx fine'], ['4xx', '4xx refused'], ['401', '401 who are you'], ['403', '403 not allowed'], ['429', '429 over a limit'], ['5xx', '5xx broken']].map(([v, t]) => h('option', { value: v }, t)));
  const t = table('Calls, newest first', ['Time', 'Call', ['Status', 'num'], 'Why', ['Took', 'num'], 'Who', 'Client']);
  const note = h('p', { class: 'small muted' });
  const detail = h('section', { class: 'card wide', hidden: true, tabindex: '-1' });
  const exports_ = h('p', { class: 'small' }, 'All that is stored: ', h('a', { href: '/v1/events?format=ndjson', download: 'events.ndjson' }, 'NDJSON'), ' · ',
    h('a', { href: '/v1/events?format=csv', download: 'events.csv' }, 'CSV'), ' · ', h('a', { href: '/v1/events?format=wso2', download: 'events.zip' }, 'WSO2'));
  const again = () => dispatchEvent(new Event('tidegate-refresh'));
  let wait = 0;
  q.addEventListener('input', () => { clearTimeout(wait); wait = setTimeout(again, 300); });
  status.addEventListener('change', again);
  const node = h('div', {}, head('Calls'), h('section', { class: 'card' },
    h('form', { class: 'tools', role: 'search', onsubmit: (e) => { e.preventDefault(); again(); } }, h('div', { class: 'field' }, h('label', { for: 'q' }, 'Search'), q), h('div', { class: 'field' }, h('label', { for: 'status' }, 'Answer'), status)),
    t.node, note, exports_), detail);

  return {
    node, every: 2500,
    async refresh() {
      if (t.body.contains(document.activeElement)) return; // somebody is reading by keyboard
      const v = await get('/v1/calls', { q: q.value.trim(), status: status.value, limit: innerWidth < 760 ? 30 : 100 });
      t.body.replaceChildren(...v.calls.map(row));
      t.nothing(v.calls.length ? '' : q.value || status.value ? 'Nothing fits.' : 'No calls yet.');
      put(note, `${number(v.calls.length)} shown of ${number(v.scanned)} looked at${v.more ? '; older ones are in the export' : ''}. A call shows at once while this page is open, else when its batch is written.`);
    },
  };

  function row(c) {
    const bad = c.status >= 500 || c.status === 0;
    return h('tr', {}, h('td', { class: 'mono small', title: time(c.time) }, clock(c.time)),
      h('td', { class: 'break key' }, h('button', { class: 'row', type: 'button', onclick: () => show(c) }, h('span', { class: 'method' }, c.method || '?'), h('span', { class: 'mono' }, c.template || '(no operation)')), c.api && h('div', { class: 'small muted' }, `${c.api} ${c.version}`)),
      h('td', { class: 'num ' + (bad ? 'text-bad' : c.status >= 400 ? 'text-warn' : '') }, String(c.status || 'cut')),
      h('td', {}, c.refused_by ? `${c.refused_by}${c.fault ? ' ' + c.fault : ''}` : ''), h('td', { class: 'num' }, ms(c.total_us / 1000)),
      h('td', { class: 'break' }, [c.application, c.user].filter(Boolean).join(' · ')), h('td', { class: 'mono small' }, c.client || ''));
  }

  function show(c) {
    put(detail, h('h2', {}, `${c.method ?? ''} ${c.template ?? ''}`), facts([['time', time(c.time)], ['API', c.api && `${c.api} ${c.version}`], ['status', String(c.status)], ['refused by', c.refused_by], ['code', c.fault && meaning(c.fault)],
      ['application', c.application], ['user', c.user], ['plan', c.plan], ['client', c.client], ['protocol', c.protocol], ['backend', c.upstream], ['tries after the first', c.retries && String(c.retries)],
      ['took', ms(c.total_us / 1000)], ['of it the backend', ms(c.backend_us / 1000)], ['bytes', `${bytes(c.bytes_in)} in, ${bytes(c.bytes_out)} out`], ['request id', c.request_id], ['trace id', c.trace_id]]));
    detail.hidden = false;
    detail.scrollIntoView({ block: 'nearest' });
    detail.focus();
  }
}
