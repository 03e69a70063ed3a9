"use strict";
// The data of the page: packed numbers become arrays, NaN where one is missing.
const byId = (id) => document.getElementById(id);
const INTEGERS = { i4: Int32Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array };
const MISSING = { i4: -(2 ** 31), u4: 2 ** 32 - 1, u2: 2 ** 16 - 1, u1: 2 ** 8 - 1 };

function unpack({ kind, step, data: text }) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const whole = new INTEGERS[kind](bytes.buffer), numbers = new Float64Array(whole.length);
  for (let i = 0; i < whole.length; i++) numbers[i] = whole[i] === MISSING[kind] ? NaN : whole[i] * step;
  return numbers;
}
const unpackAll = (packed) => Object.fromEntries(Object.entries(packed).map(([name, value]) => [name, value && value.kind ? unpack(value) : value]));

// A row of a series stands until half-way to the next row; nothing is drawn across a break before a row.
function makeSeries(packed, t) {
  const series = { ...unpackAll(packed), t };
  series.breaks = breaks(series.x, series.y, t);
  return series;
}
// Gaps in time and jumps between positions.
function breaks(xs, ys, t) {
  const steps = new Float64Array(xs.length).fill(NaN), waits = new Float64Array(xs.length).fill(NaN);
  for (let i = 1; i < xs.length; i++) { steps[i] = Math.hypot(xs[i] - xs[i - 1], ys[i] - ys[i - 1]); waits[i] = t[i] - t[i - 1]; }
  const median = (values) => { const known = values.filter((v) => v === v).sort(); return known[known.length >> 1] || 0; };
  const longest = Math.max(30, 4 * median(steps)), slowest = Math.max(20, 10 * median(waits));
  return Uint8Array.from(steps, (step, i) => (step > longest || (waits[i] > slowest && step > 5) ? 1 : 0));
}

const data = (() => {
  const packed = JSON.parse(byId("data").textContent), t = unpack(packed.t), scans = packed.scans && makeSeries(packed.scans, unpack(packed.scans.t));
  const all = scans ? scans.t : t;
  const stages = Object.fromEntries(Object.entries(packed.stages).map(([name, stage]) => [name, makeSeries(stage, t)]));
  return {
    ...packed, t, stages, count: t.length, frame: unpack(packed.frame), counted: unpack(packed.counted),
    truth: packed.truth && makeSeries(packed.truth, t), candidates: packed.candidates && unpackAll(packed.candidates),
    tiles: packed.tiles.each, tileSide: packed.tiles.side_m, tileQuery: Float64Array.from(packed.tiles.each, (tile) => tile.query),
    scans, begin: t.length ? Math.min(t[0], all[0]) : 0, end: t.length ? Math.max(t[t.length - 1], all[all.length - 1]) : 0,
  };
})();

// A stage's rows: of the final one every scan, where the result holds them, else every query.
const rowsOf = (name) => (data.scans && name === data.final ? data.scans : data.stages[name]);
const hasPose = (series, i) => series.x[i] === series.x[i];
const isSure = (series, i) => series.reason[i] === 0;
const reasonText = (series, i) => data.reasons[series.reason[i] - 1] || "";

// Index of the last row at or before a time; 0 before all of them.
function rowBefore(t, times) {
  let low = 0, high = times.length - 1;
  while (low < high) { const middle = (low + high + 1) >> 1; if (times[middle] <= t) low = middle; else high = middle - 1; }
  return low;
}
function nearestRow(t, times) {
  const i = rowBefore(t, times);
  return i + 1 < times.length && times[i + 1] - t < t - times[i] ? i + 1 : i;
}
// The pose at a time, on the straight line between two rows; null where there is none.
function poseAt(series, t) {
  if (!series.t.length) return null;
  const i = rowBefore(t, series.t), j = i + 1;
  if (!hasPose(series, i)) return null;
  const row = { x: series.x[i], y: series.y[i], h: series.h[i] };
  if (j >= series.t.length || t <= series.t[i] || !hasPose(series, j) || series.breaks[j]) return row;
  const share = (t - series.t[i]) / (series.t[j] - series.t[i]), turn = ((series.h[j] - row.h + 540) % 360) - 180;
  return { x: row.x + share * (series.x[j] - row.x), y: row.y + share * (series.y[j] - row.y), h: row.h + share * turn };
}
// Latitude and longitude of metres from the map's centre.
function degreesAt(x, y) {
  const { unit_m: unit, latitude, longitude } = data.degrees;
  let k = 0, lat = 0, lon = 0;
  for (let i = 0; i <= 3; i++) for (let j = 0; j <= 3 - i; j++, k++) { const term = (x / unit) ** i * (y / unit) ** j; lat += latitude[k] * term; lon += longitude[k] * term; }
  return [lat, lon];
}

const clock = (s) => {
  const whole = Math.max(0, Math.floor(s + 1e-6)), two = (v) => String(v).padStart(2, "0");
  return whole < 3600 ? `${Math.floor(whole / 60)}:${two(whole % 60)}` : `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
};
const metres = (v) => (!Number.isFinite(v) ? "–" : v < 10 ? `${v.toFixed(2)} m` : v < 1000 ? `${v.toFixed(1)} m` : `${(v / 1000).toFixed(2)} km`);
