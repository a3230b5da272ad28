// The overview: what serves, since when, and everything that could need a hand.
import { h, get, put, facts, pill, number, decimal, percent, bytes, span, ms, time } from './lib.js';
import { spark } from './chart.js';
import { tell, mark } from './main.js';

function card(title) {
  const lamp = h('span', { class: 'pill', hidden: true });
  const body = h('div');
  const node = h('section', { class: 'card', 'aria-label': title }, h('h2', {}, title, lamp), body);
  return { node, body, lamp(cls, text) { lamp.hidden = !text; lamp.className = 'pill ' + cls; put(lamp, text ?? ''); } };
}

const gauge = (value, max, label) => h('meter', { value, max, low: max * 0.75, high: max * 0.9, optimum: 0, 'aria-label': label });

export function overview() {
  const title = h('h1', {}, 'Asking the device…');
  const text = h('p', {}, '');
  const lamps = h('div', { class: 'lamps' });
  const tide = spark({ cls: 'tide', w: 1000, h: 100, label: (v) => `calls in the last hour, at most ${decimal(Math.max(0, ...v))} a second` });
  const scale = h('span', { class: 'scale' });
  const hero = h('section', { class: 'hero', 'aria-label': 'State' }, title, text, lamps, tide.node, scale);

  const c = Object.fromEntries(['Calls', 'Errors', 'Latency', 'Bundle', 'Trust', 'Clock', 'Link', 'Events', 'Limits', 'Disk', 'Memory', 'Device'].map((t) => [t, card(t)]));
  const sparks = {
    Calls: spark({ label: (v) => `calls a second, now ${decimal(v.at(-1) ?? 0)}` }),
    Errors: spark({ cls: 'spark hot', label: (v) => `share of errors, now ${percent(v.at(-1) ?? 0)}` }),
    Latency: spark({ label: (v) => `milliseconds at the 95th percentile, now ${decimal(v.at(-1) ?? 0)}` }),
  };
  const heads = {};
  for (const k of Object.keys(sparks)) {
    heads[k] = [h('div', { class: 'big' }), h('div', { class: 'muted small' })];
    c[k].body.append(...heads[k], sparks[k].node);
  }
  const node = h('div', {}, hero, h('div', { class: 'cards' }, Object.values(c).map((x) => x.node)));
  let before = null;

  return {
    node, every: 2000,
    async refresh() {
      const [st, series] = await Promise.all([get('/v1/status'), get('/v1/series')]);
      tell(st);
      say(st);
      const p = series.points;
      const perSecond = p.map((x) => x.calls / series.step_seconds);
      tide.update(perSecond.length > 1 ? perSecond : [0, 0], 1);
      put(scale, p.length > 1 ? `calls of the last ${span(p.length * series.step_seconds)}` : 'calls of the last hour appear here');
      traffic(st, p, perSecond);
      cards(st);
      before = st;
    },
  };

  function say(st) {
    const b = st.bundle;
    const words = { none: 'Waiting for a bundle', 'safe-mode': 'Safe mode: nothing serves', trial: 'Open, on trial', confirmed: 'Open' };
    put(title, st.ready ? words[b.state] ?? b.state : 'Not ready');
    const s = b.serving;
    put(text, s ? `${s.name || s.product}${s.version ? ' ' + s.version : ''}, bundle ${s.seq} of ${s.product}/${s.channel}, serves on ${[st.listen.http, st.listen.https].filter(Boolean).join(' and ') || 'no listener'} since ${span(st.uptime_seconds)}.`
      : 'Every call is answered 503 until a bundle is applied: see Bundles.');
    const list = [];
    if (b.state === 'trial') list.push(pill('warn', b.waits_for_confirmation ? 'waits for a confirmation' : `trial: ${span(b.trial_seconds_left ?? 0)} left`));
    else if (b.state === 'confirmed') list.push(pill('good', 'bundle confirmed'));
    list.push(pill(st.trust.root_version ? 'good' : 'bad', st.trust.root_version ? 'trust root ' + st.trust.root_version : 'no trust root'));
    list.push(pill(st.clock.state === 'UNSYNCED' ? 'warn' : 'good', 'clock ' + st.clock.state.toLowerCase()));
    if (st.mode !== 'normal') list.push(pill('bad', st.mode));
    for (const a of st.alarms ?? []) list.push(pill('bad', a.code));
    put(lamps, ...list);
    const worst = (st.alarms?.length || st.trust.locked || st.mode !== 'normal') ? 'bad' : (st.findings?.length || st.warnings?.length || st.clock.state === 'UNSYNCED') ? 'warn' : '';
    mark('doctor', worst || undefined, worst ? 'needs a look' : undefined);
    mark('bundles', b.state === 'trial' ? 'warn' : b.state === 'confirmed' ? undefined : 'bad', 'needs a look');
  }

  function traffic(st, p, perSecond) {
    let rate = perSecond.at(-1), failed = p.at(-1)?.server_errors ?? 0;
    if (before && st.since === before.since) {
      rate = (st.calls.answered - before.calls.answered) / Math.max(st.uptime_seconds - before.uptime_seconds, 0.1);
      failed = st.calls.failed - before.calls.failed;
    }
    const last = p.at(-1);
    put(heads.Calls[0], decimal(rate ?? 0), ' ', h('small', {}, 'per second'));
    put(heads.Calls[1], `${number(st.calls.answered)} since the start, ${number(st.calls.in_flight)} in flight, ${number(st.calls.connections)} connections`);
    sparks.Calls.update(perSecond.length ? perSecond : [0], 1);
    const share = p.map((x) => (x.calls ? (x.client_errors + x.server_errors) / x.calls : 0));
    put(heads.Errors[0], percent(share.at(-1) ?? 0), ' ', h('small', {}, '4xx and 5xx'));
    const sum = (k) => p.reduce((n, x) => n + x[k], 0);
    put(heads.Errors[1], `last hour: ${number(sum('server_errors'))} × 5xx, ${number(sum('client_errors'))} × 4xx, ${number(sum('throttled'))} limited`);
    sparks.Errors.update(share.length ? share : [0], 0.05);
    c.Errors.lamp('bad', failed > 0 ? '5xx now' : '');
    put(heads.Latency[0], last?.calls ? ms(last.p95_ms) : '–', ' ', h('small', {}, '95th percentile'));
    put(heads.Latency[1], last?.calls ? `mean ${ms(last.mean_ms)}, of the last 10 s` : 'no calls in the last 10 s');
    sparks.Latency.update(p.length ? p.map((x) => x.p95_ms) : [0], 1);
  }

  function cards(st) {
    const b = st.bundle, s = b.serving;
    c.Bundle.lamp(b.state === 'confirmed' ? 'good' : b.state === 'trial' ? 'warn' : 'bad', b.state);
    put(c.Bundle.body, s ? facts([['number', number(s.seq)], ['name', s.name], ['version', s.version], ['expires', s.expires ? s.expires.slice(0, 10) : 'never'],
      ['before it', b.last_known_good && b.last_known_good.digest !== s.digest ? number(b.last_known_good.seq) : b.older ? number(b.older.seq) : 'none']])
      : h('p', {}, 'None installed. ', h('a', { href: '#/bundles' }, 'Apply one')));

    c.Trust.lamp(st.trust.root_version && !st.trust.locked ? 'good' : 'bad', st.trust.locked ? 'locked' : st.trust.root_version ? 'root ' + st.trust.root_version : 'none');
    const rel = st.trust.roles?.find((r) => r.name === 'release');
    put(c.Trust.body, st.trust.locked ? h('p', { class: 'text-bad' }, st.trust.locked) : facts([['domain', st.trust.trust_domain?.slice(0, 12)],
      ['release needs', rel && `${rel.threshold} of ${rel.keys?.length ?? 0} keys`], ['for', [st.trust.product, st.trust.channel].filter(Boolean).join('/')], ['labels', st.trust.labels?.join(', ')]]));

    c.Clock.lamp(st.clock.state === 'UNSYNCED' ? 'warn' : 'good', st.clock.state.toLowerCase());
    put(c.Clock.body, facts([['system', time(st.clock.system)], ['surely past', time(st.clock.floor)], ['proof', st.clock.source]]), st.clock.doubt && h('p', { class: 'text-warn small' }, st.clock.doubt));

    const l = st.link;
    c.Link.lamp(!l ? 'plain' : l.state === 'connected' ? 'good' : 'warn', !l ? 'not configured' : l.state);
    put(c.Link.body, l ? facts([['broker', l.broker], ['next try', l.next_try_seconds ? 'in ' + span(l.next_try_seconds) : ''], ['to be acknowledged', number(l.batches_in_flight)], ['fetching', l.fetching && `${bytes(l.fetching.bytes)} of ${bytes(l.fetching.of_bytes)}`], ['error', l.error]])
      : h('p', { class: 'muted' }, 'Bundles come by file or stick, events go by stick or export.'));

    const lost = Object.values(st.events.lost ?? {}).reduce((a, n) => a + n, 0);
    c.Events.lamp(st.events.error ? 'bad' : lost ? 'warn' : 'good', st.events.error ? 'not written' : lost ? number(lost) + ' lost' : 'whole');
    put(c.Events.body, gauge(st.events.bytes, st.events.cap_bytes, 'room used by events'), facts([['stored', number(st.events.calls)], ['in memory', number(st.events.in_memory)],
      ['room', `${bytes(st.events.bytes)} of ${bytes(st.events.cap_bytes)}`]]), st.events.error && h('p', { class: 'text-bad small' }, st.events.error));

    c.Limits.lamp(st.counters.error ? 'bad' : 'good', st.counters.error ? 'memory only' : 'durable');
    put(c.Limits.body, facts([['counts', number(st.counters.keys)], ['written every', span(st.counters.flush_seconds)], ['waited for the flash', number(st.counters.stalls)]]),
      st.counters.error ? h('p', { class: 'text-bad small' }, st.counters.error) : h('p', { class: 'small muted' }, 'They survive a power cut.'));

    const m = st.machine;
    const used = m.disk_bytes - m.disk_free_bytes;
    c.Disk.lamp(st.mode !== 'normal' ? 'bad' : m.disk_free_bytes < 134217728 ? 'warn' : 'good', st.mode !== 'normal' ? st.mode : 'writable');
    put(c.Disk.body, gauge(used, m.disk_bytes || 1, 'disk in use'), facts([['free', `${bytes(m.disk_free_bytes)} of ${bytes(m.disk_bytes)}`],
      ['written', `${bytes(m.written_bytes)}${m.written_bytes_per_day ? `, ${bytes(m.written_bytes_per_day)} a day` : ''}`], ['flash life used', m.worn_percent >= 0 ? m.worn_percent + ' %' : 'not told']]));

    const limit = st.process.memory_limit_bytes || 0;
    put(c.Memory.body, limit ? gauge(m.resident_bytes, limit, 'memory in use') : '', facts([['resident', bytes(m.resident_bytes)], ['heap', bytes(st.process.heap_bytes)], ['soft limit', limit ? bytes(limit) : 'none']]));

    put(c.Device.body, facts([['id', h('span', { class: 'mono small' }, st.device || 'none')], ['version', st.build.version], ['platform', st.build.platform], ['kernel', m.kernel], ['up', span(st.uptime_seconds)]]));
  }
}
