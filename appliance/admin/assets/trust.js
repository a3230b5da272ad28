// Trust: keys, thresholds, floor. Sync: the link, what waits, what was lost.
import { h, get, put, head, facts, table, pill, number, bytes, time, span } from './lib.js';
import { tell } from './main.js';

export function trust() {
  const top = h('section', { class: 'card wide' });
  const t = table('Roles and their keys', ['Role', 'Needs', ['Epoch', 'num'], 'Keys']);
  const floor = h('section', { class: 'card wide' });
  const node = h('div', {}, head('Trust'), top, h('section', { class: 'card' }, h('h2', {}, 'Who may sign what'), t.node), floor);
  return {
    node, every: 10000,
    async refresh() {
      const st = await get('/v1/status');
      tell(st);
      const tr = st.trust;
      put(top, h('h2', {}, 'Trust root', pill(tr.locked ? 'bad' : tr.root_version ? 'good' : 'bad', tr.locked ? 'locked' : tr.root_version ? 'version ' + tr.root_version : 'none')),
        tr.locked && h('p', { class: 'note bad' }, tr.locked),
        tr.root_version ? facts([['trust domain', h('span', { class: 'mono break' }, tr.trust_domain)], ['takes bundles of', [tr.product, tr.channel].filter(Boolean).join('/') || 'the first that comes'], ['labels', (tr.labels ?? []).join(', ') || 'none']])
          : h('p', {}, 'Without a root no bundle can be verified. At the device: ', h('code', {}, 'tidegate trust install FILE.tideroot'), ', with the fingerprint that tidectl trust show prints.'),
        h('p', { class: 'small' }, h('a', { href: '/v1/enrol', download: (st.device || 'device') + '.tideenroll' }, 'Enrolment request'), ' of this device, to be signed by the fleet.'));
      t.body.replaceChildren(...(tr.roles ?? []).map((r) => h('tr', {}, h('td', {}, r.name), h('td', {}, `${r.threshold} of ${r.keys?.length ?? 0}`), h('td', { class: 'num' }, number(r.epoch)), h('td', { class: 'mono small break' }, (r.keys ?? []).map((k) => h('div', {}, k))))));
      t.nothing(tr.roles?.length ? '' : 'No root, no keys.');
      put(floor, h('h2', {}, 'Time that has surely passed', pill(st.clock.state === 'UNSYNCED' ? 'warn' : 'good', st.clock.state.toLowerCase())),
        facts([['floor', time(st.clock.floor)], ['given by', st.clock.source], ['best guess', time(st.clock.estimate)], ['system clock', time(st.clock.system)]]),
        h('p', { class: 'small muted' }, 'Tokens and bundles are judged by the floor: it never goes back, whatever the system clock says.'));
    },
  };
}

export function sync() {
  const link = h('section', { class: 'card wide' });
  const queue = h('section', { class: 'card wide' });
  const t = table('Losses', ['Reason', ['Calls', 'num'], 'What it means']);
  const node = h('div', {}, head('Sync'), link, queue, h('section', { class: 'card' }, h('h2', {}, 'Lost, and declared as lost'), t.node));
  const words = { cap: 'the queue was full: the oldest went', corrupt: 'the flash gave back damaged data', quarantine: 'the file of the queue was set aside', unclean: 'in memory at a power cut', buffer: 'calls came faster than the flash' };
  return {
    node, every: 5000,
    async refresh() {
      const st = await get('/v1/status');
      tell(st);
      const l = st.link;
      put(link, h('h2', {}, 'Link to the fleet', pill(!l ? 'plain' : l.state === 'connected' ? 'good' : 'warn', !l ? 'not configured' : l.state)),
        l ? facts([['broker', l.broker], ['so since', time(l.since)], ['last contact', l.state === 'connected' ? 'now' : l.last_contact ? time(l.last_contact) : 'none since the start'], ['next try', l.next_try_seconds ? 'in ' + span(l.next_try_seconds) : ''], ['last error', l.error], ['what helps', l.hint],
          ['bundles', l.publisher_answers ? 'somebody answers' : 'nobody answers'], ['events', l.collector_answers ? 'somebody acknowledges' : 'nobody acknowledges'],
          ['fetching', l.fetching && `${l.fetching.digest.slice(0, 12)}: ${bytes(l.fetching.bytes)} of ${bytes(l.fetching.of_bytes)}`],
          ['batches', `${number(l.batches_sent)} sent, ${number(l.batches_acknowledged)} acknowledged, ${number(l.batches_in_flight)} in flight`], ['today', bytes(l.bytes_today)],
          ['dropped', Object.entries(l.dropped ?? {}).map(([k, n]) => `${number(n)} ${k}`).join(', ')]])
          : h('p', {}, 'mqtt.brokers is empty. Bundles come by file or stick; events leave by stick or ', h('code', {}, 'tidegate events export'), '.'));
      const e = st.events;
      put(queue, h('h2', {}, 'Recorded calls that wait', pill(e.error ? 'bad' : 'good', e.error ? 'not written' : 'written')),
        h('meter', { value: e.bytes, max: e.cap_bytes || 1, low: e.cap_bytes * 0.75, high: e.cap_bytes * 0.9, optimum: 0, 'aria-label': 'room used' }),
        facts([['stored', number(e.calls)], ['batches', number(e.batches)], ['in memory, not yet on disk', number(e.in_memory)], ['room', `${bytes(e.bytes)} of ${bytes(e.cap_bytes)}`],
          ['oldest', e.oldest ? `${time(e.oldest)}, ${span((Date.parse(st.clock.estimate) - Date.parse(e.oldest)) / 1000)} ago` : 'none'], ['error', e.error]]));
      const lost = Object.entries(e.lost ?? {}).filter(([, n]) => n > 0);
      t.body.replaceChildren(...lost.map(([k, n]) => h('tr', {}, h('td', {}, k), h('td', { class: 'num' }, number(n)), h('td', {}, words[k] ?? ''))));
      t.nothing(lost.length ? '' : 'Nothing was lost.');
    },
  };
}
