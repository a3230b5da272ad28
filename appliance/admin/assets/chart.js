// Sparklines: a line and the area below it, in SVG, drawn anew when values come.
import { s } from './lib.js';

/** A chart of w × h units that update(values) draws; label(values) is what a screen reader says. */
export function spark({ cls = 'spark', w = 240, h = 40, label }) {
  const area = s('path', { class: 'area' });
  const line = s('path', { class: 'line' });
  const node = s('svg', { class: cls, viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': 'no data yet' }, area, line);
  return {
    node,
    update(values, top) {
      node.setAttribute('aria-label', label ? label(values) : 'chart');
      const max = Math.max(top ?? 0, ...values) || 1;
      if (values.length < 2) { line.setAttribute('d', `M0 ${h - 1}H${w}`); area.setAttribute('d', ''); return; }
      const step = w / (values.length - 1);
      let d = '';
      values.forEach((v, i) => { d += (i ? 'L' : 'M') + (i * step).toFixed(1) + ' ' + (h - 2 - (v / max) * (h - 5)).toFixed(1); });
      line.setAttribute('d', d);
      area.setAttribute('d', `${d}L${w} ${h}L0 ${h}Z`);
    },
  };
}

/** Calls below which a share q lies, in seconds, as the device computes it. */
export function quantile(buckets, bounds, q) {
  const n = buckets.reduce((a, b) => a + b, 0);
  if (!n) return NaN;
  let seen = 0;
  for (let i = 0; i < buckets.length; i++) {
    if (buckets[i] && seen + buckets[i] >= q * n) {
      const low = i ? bounds[i - 1] : 0;
      return i === bounds.length ? low : low + (bounds[i] - low) * ((q * n - seen) / buckets[i]);
    }
    seen += buckets[i];
  }
  return bounds[bounds.length - 1];
}
