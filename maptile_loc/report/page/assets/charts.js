// The curves: values along the drive on canvases, and recall.
const MARGIN = { left: 52, right: 14 };
const DASH = { regressed: "1 3", pgo: "4 2 1 2", coarse: "2 4", aligned: "", fused: "7 4", smoothed: "12 3 2 3" };
const logScale = (low, high, y0, y1) => (v) => y0 + ((Math.log10(Math.max(v, low)) - Math.log10(low)) / (Math.log10(high) - Math.log10(low))) * (y1 - y0);
const decades = (low, high) => { const out = []; for (let v = low; v <= high * 1.0001; v *= 10) out.push(Number(v.toPrecision(1))); return out; };
const peak = (values, least) => { let most = least; for (const v of values) if (Number.isFinite(v) && v > most) most = v; return 10 ** Math.ceil(Math.log10(most) - 1e-9); };
const span = () => Math.max(data.end - data.begin, 1e-3);

// A canvas that fills its host; returns its brush, cleared, and its width.
function sheet(host, height, label) {
  let canvas = host.querySelector("canvas");
  if (!canvas) { canvas = document.createElement("canvas"); canvas.setAttribute("role", "img"); host.prepend(canvas); }
  const ratio = window.devicePixelRatio || 1, width = host.clientWidth;
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  canvas.setAttribute("aria-label", label);
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.font = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif';
  return [brush, width];
}
// Ticks of time: whole seconds, minutes or hours.
function timeTicks(most) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].find((v) => span() / v <= most) || 7200, out = [];
  for (let t = 0; t <= span() + 1e-6; t += step) out.push([data.begin + t, step < 1 ? t.toFixed(1) : clock(t)]);
  return out;
}
function timeline(id, options) {
  const host = byId(id), [brush, width] = sheet(host, options.height, options.label), s = stage();
  const bottom = options.height - (options.axis ? 40 : 14), top = 24, right = width - MARGIN.right;
  const at = (t) => MARGIN.left + ((t - data.begin) / span()) * (right - MARGIN.left), y = options.scale(bottom, top);
  const edge = (i) => (i <= 0 ? data.begin : i >= data.count ? data.end : (data.t[i - 1] + data.t[i]) / 2);
  const text = (words, x, py, align, fill = colours.soft) => { brush.textAlign = align; brush.fillStyle = fill; brush.fillText(words, x, py); };
  let start = null;
  for (let i = 0; i <= data.count; i++) {
    const bad = i < data.count && !isSure(s, i);
    if (bad && start === null) start = i;
    if (!bad && start !== null) { brush.fillStyle = colours.band; brush.fillRect(at(edge(start)), top, Math.max(at(edge(i)) - at(edge(start)), 2), bottom - top); start = null; }
  }
  brush.lineWidth = 1; brush.strokeStyle = colours.line;
  for (const [value, words] of options.ticks) {
    brush.beginPath(); brush.moveTo(MARGIN.left, y(value)); brush.lineTo(right, y(value)); brush.stroke();
    text(words, MARGIN.left - 8, y(value) + 4, "right");
  }
  if (options.axis) {
    for (const [t, words] of timeTicks(Math.max(2, width / 90))) text(words, at(t), bottom + 16, "center");
    text("time from the start, minutes", (MARGIN.left + right) / 2, bottom + 34, "center", colours.text);
  }
  text(options.label, 0, 12, "left", colours.text);
  if (options.line) {
    brush.beginPath(); brush.globalAlpha = 0.6; brush.strokeStyle = colours.soft;
    let open = false;
    options.line.forEach((v, i) => { if (v !== v) { open = false; return; } if (open) brush.lineTo(at(data.t[i]), y(v)); else brush.moveTo(at(data.t[i]), y(v)); open = true; });
    brush.stroke(); brush.globalAlpha = 1;
  }
  const r = data.count > 400 ? 2 : 3;
  options.dots.forEach((v, i) => {
    const x = at(data.t[i]);
    brush.beginPath();
    if (v === v) {
      brush.arc(x, y(v), r, 0, 2 * Math.PI);
      if (isSure(s, i)) { brush.fillStyle = options.fill(i); brush.fill(); brush.lineWidth = 0.5; brush.strokeStyle = colours.ring; } else { brush.lineWidth = 1; brush.strokeStyle = colours.soft; }
      brush.stroke();
    } else if (options.missing(i)) { brush.moveTo(x - 3, top - 3); brush.lineTo(x + 3, top + 3); brush.moveTo(x + 3, top - 3); brush.lineTo(x - 3, top + 3); brush.lineWidth = 1; brush.strokeStyle = colours.e4; brush.stroke(); }
  });
  host.at = at;
  host.time = (px) => Math.min(data.end, Math.max(data.begin, data.begin + ((px - MARGIN.left) / (right - MARGIN.left)) * span()));
}
function charts() {
  const s = stage(), claimed = s.long;
  const tick = (values) => values.sort((a, b) => a - b).map((v) => [v, String(v)]);
  if (data.truth) {
    const high = peak(errors, 10), steep = Math.min(180, peak(headings, 10));
    timeline("chart-main", {
      height: 270, axis: false, label: "position error, m", scale: (a, b) => logScale(0.1, high, a, b), dots: errors, fill: colour,
      ticks: tick([...decades(0.1, high), 2, 5]), line: claimed.map((v) => Math.min(v, high)), missing: (i) => !hasPose(s, i) && hasPose(data.truth, i),
    });
    timeline("chart-second", {
      height: 190, axis: true, label: "heading error, degrees", scale: (a, b) => logScale(0.1, steep, a, b), dots: headings, fill: () => colours.plain,
      ticks: tick([...decades(0.1, steep), 5, ...(steep === 180 ? [180] : [])]), missing: () => false,
    });
    recall();
  } else {
    const high = peak(claimed, 10);
    timeline("chart-main", {
      height: 240, axis: false, label: "claimed 95 % radius, m", scale: (a, b) => logScale(0.1, high, a, b), dots: claimed, fill: () => colours.plain,
      ticks: tick(decades(0.1, high)), missing: (i) => !hasPose(s, i),
    });
    timeline("chart-second", {
      height: 190, axis: true, label: "score, 0 to 1", scale: (a, b) => (v) => a + v * (b - a), dots: s.score, fill: () => colours.plain,
      ticks: tick([0, 0.25, 0.5, 0.75, 1]), missing: () => false,
    });
  }
}
function recall() {
  const host = byId("chart-recall"), width = host.clientWidth, height = 300, top = 24, bottom = height - 40, right = width - MARGIN.right;
  const counted = data.counted.reduce((sum, v) => sum + v, 0), names = Object.keys(data.stages), all = {};
  for (const name of names) all[name] = errorsOf(name).filter((e, i) => e === e && data.counted[i]).sort();
  const high = peak(names.map((name) => all[name][all[name].length - 1] || 0), 10);
  const x = logScale(0.1, high, MARGIN.left, right), y = (v) => bottom + v * (top - bottom), out = [];
  for (const v of [0, 0.25, 0.5, 0.75, 1]) out.push(`<line class="grid" x1="${MARGIN.left}" x2="${right}" y1="${y(v)}" y2="${y(v)}"/><text x="${MARGIN.left - 8}" y="${y(v) + 4}" text-anchor="end">${100 * v}</text>`);
  for (const v of [...decades(0.1, high), 2, 5]) out.push(`<line class="grid" x1="${x(v)}" x2="${x(v)}" y1="${top}" y2="${bottom}"/><text x="${x(v)}" y="${bottom + 16}" text-anchor="middle">${v}</text>`);
  out.push(`<text class="label" x="0" y="12">queries within this error, %</text><text class="label" x="${(MARGIN.left + right) / 2}" y="${bottom + 34}" text-anchor="middle">position error, m</text>`);
  let curve = "";
  for (let k = 0; k <= 60; k++) { const v = 0.1 * (high / 0.1) ** (k / 60); curve += `${k ? "L" : "M"}${x(v).toFixed(1)} ${y(Math.min(1, (Math.PI * v * v) / (data.area_km2 * 1e6))).toFixed(1)}`; }
  out.push(`<path d="${curve}" fill="none" stroke="${colours.soft}" stroke-width="1" stroke-dasharray="1 3"/>`);
  for (const name of names) {
    const sorted = all[name], every = Math.max(1, Math.floor(sorted.length / 500));
    let path = `M${MARGIN.left} ${y(sorted.filter((e) => e <= 0.1).length / Math.max(counted, 1)).toFixed(1)}`;
    sorted.forEach((e, k) => { if (e > 0.1 && ((k + 1) % every === 0 || k === sorted.length - 1)) path += `H${x(e).toFixed(1)}V${y((k + 1) / counted).toFixed(1)}`; });
    out.push(`<path d="${path}H${right}" fill="none" stroke="var(--s-${name})" stroke-width="${name === state.stage ? 3 : 1.8}" stroke-dasharray="${DASH[name]}"/>`);
  }
  host.innerHTML = `<svg viewBox="0 0 ${width} ${height}" height="${height}" role="img" aria-label="Share of the queries within an error, per stage">${out.join("")}</svg>`;
  byId("recall-legend").innerHTML = [...names.map((name) => `<li><svg width="34" height="10" aria-hidden="true"><path d="M1 5H33" stroke="var(--s-${name})" stroke-width="2.5" stroke-dasharray="${DASH[name]}"/></svg>${name}</li>`),
    `<li><svg width="34" height="10" aria-hidden="true"><path d="M1 5H33" stroke="${colours.soft}" stroke-dasharray="1 3"/></svg>chance</li>`].join("");
}

// --- the strips below the slider -------------------------------------------------------------
// Seconds in each state, by stage; state 0 is localized, -1 no pose, the others are reasons.
const stateOf = (s, i) => (hasPose(s, i) || !isSure(s, i) ? s.reason[i] : -1);
function strip(host, s) {
  const [brush, width] = sheet(host, 14, host.dataset.label);
  const n = s.t.length, at = (t) => ((t - data.begin) / span()) * width;
  brush.fillStyle = colours.line; brush.fillRect(0, 0, width, 14);
  let start = 0;
  for (let i = 1; i <= n; i++) {
    if (i < n && stateOf(s, i) === stateOf(s, start)) continue;
    const x0 = start ? at((s.t[start - 1] + s.t[start]) / 2) : 0, x1 = i < n ? at((s.t[i - 1] + s.t[i]) / 2) : width, code = stateOf(s, start);
    brush.fillStyle = code === 0 ? colours.plain : colours[`lost${code}`];
    brush.globalAlpha = hasPose(s, start) ? 1 : 0.55;
    brush.fillRect(x0, 0, Math.max(x1 - x0, 1.5), 14);
    brush.globalAlpha = 1;
    start = i;
  }
}
function spark(host) {
  const s = stage(), values = data.truth ? errors : s.long, label = data.truth ? "position error" : "95 % half-axis";
  const [brush, width] = sheet(host, 44, `${label} along the drive`), high = peak(values, 10), y = logScale(0.1, high, 42, 3);
  const at = (t) => ((t - data.begin) / span()) * width;
  brush.strokeStyle = colours.line; brush.lineWidth = 1;
  for (const v of decades(1, high)) { brush.beginPath(); brush.moveTo(0, y(v)); brush.lineTo(width, y(v)); brush.stroke(); }
  for (let i = 0; i < data.count; i++) if (values[i] === values[i]) {
    const x0 = i ? at((data.t[i - 1] + data.t[i]) / 2) : 0, x1 = i + 1 < data.count ? at((data.t[i + 1] + data.t[i]) / 2) : width, top = Math.min(y(values[i]), 40);
    brush.fillStyle = data.truth ? colours[`e${level(values[i])}`] : colours.plain;
    brush.globalAlpha = isSure(s, i) ? 1 : 0.4;
    brush.fillRect(x0, top, Math.max(x1 - x0, 1), 44 - top);
  }
  brush.globalAlpha = 1; brush.textAlign = "right"; brush.font = brush.font.replace("12px", "10.5px");
  let lower = 1e9;
  for (const v of decades(1, high)) if (y(v) > 8 && lower - y(v) > 13) { lower = y(v); brush.lineWidth = 3; brush.strokeStyle = colours.panel; brush.strokeText(`${v} m`, width - 2, y(v) - 2); brush.fillStyle = colours.soft; brush.fillText(`${v} m`, width - 2, y(v) - 2); }
}
function strips() {
  spark(byId("strip-error"));
  for (const host of document.querySelectorAll(".strip[data-stage]")) strip(host, rowsOf(host.dataset.stage));
  const seen = new Set();
  for (const host of document.querySelectorAll(".strip[data-stage]")) rowsOf(host.dataset.stage).reason.forEach((code) => seen.add(code));
  byId("strip-legend").innerHTML = [...seen].sort((a, b) => a - b).map((code) => `<li><span class="chip" style="background:${code === 0 ? colours.plain : colours[`lost${code}`]}"></span>${code === 0 ? "localized" : data.reasons[code - 1] || "not localized"}</li>`).join("");
}
