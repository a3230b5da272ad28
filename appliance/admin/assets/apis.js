// APIs and operations with live rates, errors and latency, and the backends behind them.
import { h, get, put, keyed, table, head, pill, number, decimal, percent, ms, meaning } from './lib.js';
import { spark, quantile } from './chart.js';
import { tell } from './main.js';

const keep = 30; // samples: a minute

/** The difference of the newest sample and one a while ago. */
function window_(samples, k) {
  const now = samples.at(-1), then = samples[0];
  const a = now?.rows.get(k), b = then?.rows.get(k);
  if (!a || samples.length < 2) return null;
  const d = (i) => a.answers[i] - (b?.answers[i] ?? 0);
  const calls = [0, 1, 2, 3, 4, 5].reduce((n, i) => n + d(i), 0);
  return {
    rate: calls / Math.max(now.at - then.at, 0.1), calls, client: d(4), server: d(5),
    p95: calls ? quantile(a.buckets.map((v, i) => v - (b?.buckets[i] ?? 0)), now.bounds, 0.95) * 1000 : NaN,
  };
}

function trend(samples, k) {
  const out = [];
  for (let i = 1; i < samples.length; i++) {
    const n = (x) => x.rows.get(k)?.answers.reduce((a, b) => a + b, 0) ?? 0;
    out.push((n(samples[i]) - n(samples[i - 1])) / Math.max(samples[i].at - samples[i - 1].at, 0.1));
  }
  return out;
}

const total = (r) => r?.answers.reduce((a, b) => a + b, 0) ?? 0;

function take(list, v, key) {
  if (list.length && list.at(-1).started !== v.started) list.length = 0; // the device started anew
  list.push({ at: v.at, started: v.started, bounds: v.bounds, rows: new Map(v.rows.map((r) => [key(r), r])) });
  if (list.length > keep) list.shift();
}

const apiKey = (r) => (r.api ?? r.name) + '\n' + r.version;
const opKey = (r) => r.method + ' ' + r.template;

export function apis() {
  const t = table('APIs', ['API', 'Path', ['Rate', 'num'], 'Last minute', ['Errors', 'num'], ['95 %', 'num'], ['Calls', 'num']]);
  const b = table('Backends', ['Group', 'Address', 'State', ['In flight', 'num'], ['Connections', 'num'], ['Failures in a row', 'num']]);
  const faults = h('p', { class: 'small muted' });
  const samples = [];
  const open = new Map(); // API → samples of its operations
  let described = [], describedAt = 0;

  const node = h('div', {}, head('APIs'), h('section', { class: 'card' }, t.node, faults),
    h('section', { class: 'card' }, h('h2', {}, 'Backends'), b.node));

  return {
    node, every: 2000,
    async refresh() {
      if (Date.now() - describedAt > 15000) { // what a bundle says changes seldom
        const [list, st] = await Promise.all([get('/v1/apis'), get('/v1/status')]);
        if (!described.length && list.length <= 2) for (const a of list) open.set(apiKey(a), []); // few: show all
        described = list; describedAt = Date.now(); tell(st);
      }
      const v = await get('/v1/traffic');
      take(samples, v, apiKey);
      await Promise.all([...open].map(async ([k, list]) => {
        const [api, version] = k.split('\n');
        take(list, await get('/v1/traffic', { api, version }), opKey);
      }));
      const rows = [];
      for (const a of described) {
        rows.push({ kind: 'api', k: apiKey(a), a });
        if (open.has(apiKey(a))) for (const o of a.operations) rows.push({ kind: 'op', k: apiKey(a) + '\n' + opKey(o), api: apiKey(a), o });
      }
      keyed(t.body, rows, (r) => r.k, (r) => (r.kind === 'api' ? apiRow(r) : opRow(r)));
      t.nothing(described.length ? '' : 'No bundle serves, so there are no APIs.');
      const codes = Object.entries(v.faults);
      put(faults, codes.length ? 'Refused since the start: ' + codes.map(([c, n]) => `${number(n)} × ${meaning(c)}`).join(', ') + '.' : '');
      const list = await get('/v1/backends');
      keyed(b.body, list, (x) => x.group + '\n' + x.url, backendRow);
      b.nothing(list.length ? '' : 'None.');
    },
  };

  function figures() {
    const rate = h('td', { class: 'num' }), errors = h('td', { class: 'num' }), p95 = h('td', { class: 'num' }), calls = h('td', { class: 'num' });
    return { rate, errors, p95, calls, update(w, n) {
      put(rate, w ? decimal(w.rate) + ' /s' : '–');
      const bad = w && w.calls ? (w.client + w.server) / w.calls : 0;
      put(errors, w && w.calls ? percent(bad) : '–');
      errors.className = 'num ' + (w?.server ? 'text-bad' : bad > 0.1 ? 'text-warn' : '');
      put(p95, w && w.calls ? ms(w.p95) : '–');
      put(calls, number(n));
    } };
  }

  function apiRow({ a, k }) {
    const f = figures();
    const line = spark({ w: 120, h: 26, label: (v) => `${a.name}: calls a second over the last minute, now ${decimal(v.at(-1) ?? 0)}` });
    const btn = h('button', { class: 'row', type: 'button', 'aria-expanded': String(open.has(k)), onclick: () => {
      const on = !open.has(k);
      if (on) open.set(k, []); else open.delete(k);
      btn.setAttribute('aria-expanded', String(on));
      self.refreshNow();
    } }, `${a.name} ${a.version}`);
    const node = h('tr', {}, h('td', {}, btn), h('td', { class: 'mono break' }, a.base_path), f.rate, h('td', { class: 'spare' }, line.node), f.errors, f.p95, f.calls);
    const self = { node, refreshNow() { describedAt = described.length ? describedAt : 0; viewRefresh(); }, update() {
      f.update(window_(samples, k), total(samples.at(-1)?.rows.get(k)));
      line.update(trend(samples, k).length ? trend(samples, k) : [0], 1);
    } };
    return self;
  }

  function opRow({ o, api }) {
    const f = figures();
    const k = opKey(o);
    const marks = [o.plan && pill('plain', o.plan), !o.secured && pill('warn plain', 'open to all'), o.scopes?.length && pill('plain', o.scopes.join(' or '))];
    const node = h('tr', { class: 'sub' }, h('td', { class: 'break' }, h('span', { class: 'method' }, o.method), h('span', { class: 'mono' }, o.template)), h('td', { class: 'key' }, marks), f.rate, h('td'), f.errors, f.p95, f.calls);
    return { node, update() { const list = open.get(api) ?? []; f.update(window_(list, k), total(list.at(-1)?.rows.get(k))); } };
  }

  function backendRow(first) {
    const cells = [0, 1, 2, 3].map((i) => h('td', { class: i ? 'num' : '' }));
    const node = h('tr', {}, h('td', {}, first.group), h('td', { class: 'mono break' }, first.url), cells);
    return { node, update(x) {
      put(cells[0], pill(x.state === 'up' ? 'good' : x.state === 'half-open' ? 'warn' : 'bad', x.state));
      put(cells[1], number(x.in_flight)); put(cells[2], number(x.connections)); put(cells[3], number(x.failures_in_a_row));
    } };
  }

  function viewRefresh() { dispatchEvent(new Event('tidegate-refresh')); }
}
