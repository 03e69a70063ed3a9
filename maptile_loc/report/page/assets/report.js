"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const canvas = byId("map"), context = canvas.getContext("2d"), tip = byId("tip");
  const count = data.t.length, LIMITS = [1, 2, 5, 10], NAMES = ["≤ 1 m", "≤ 2 m", "≤ 5 m", "≤ 10 m", "> 10 m"];
  const state = { stage: data.final, hover: null };
  let colours = {}, tinted = null, view = null, errors = [], headings = [];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const stage = () => data.stages[state.stage];
  const shown = (name) => { const box = document.querySelector(`input[name=layer][value=${name}]`); return box !== null && box.checked; };
  const shift = () => (shown("bias") && data.bias ? data.bias : [0, 0]);
  const level = (error) => { const i = LIMITS.findIndex((limit) => error <= limit); return i < 0 ? 4 : i; };
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  const metres = (v) => (v === null ? "–" : v < 10 ? `${v.toFixed(2)} m` : v < 1000 ? `${v.toFixed(1)} m` : `${(v / 1000).toFixed(2)} km`);

  function readColours() {
    for (const name of ["map", "building", "road", "path", "edge", "truth", "halo", "plain", "ring", "soft", "text", "e0", "e1", "e2", "e3", "e4"]) colours[name] = css(`--${name}`);
  }
  const colour = (i) => (errors[i] === null ? colours.plain : colours[`e${level(errors[i])}`]);

  // Null without a pose or without truth.
  function errorsOf(name) {
    const s = data.stages[name], [bx, by] = shift();
    return s.x.map((x, i) => (x === null || !data.truth || data.truth.x[i] === null ? null
      : Math.hypot(x - data.truth.x[i] - bx, s.y[i] - data.truth.y[i] - by)));
  }
  function measure() {
    errors = errorsOf(state.stage);
    headings = stage().h.map((h, i) => (h === null || !data.truth || data.truth.h[i] === null ? null
      : Math.abs(((h - data.truth.h[i]) % 360 + 540) % 360 - 180)));
  }

  // --- the map -------------------------------------------------------------------------------
  function tint(image) {
    const sheet = document.createElement("canvas");
    sheet.width = image.naturalWidth; sheet.height = image.naturalHeight;
    const pen = sheet.getContext("2d");
    pen.drawImage(image, 0, 0);
    const picture = pen.getImageData(0, 0, sheet.width, sheet.height), p = picture.data;
    const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
    const ground = rgb(colours.map), layers = [rgb(colours.path), rgb(colours.road), rgb(colours.building)];
    for (let i = 0; i < p.length; i += 4) {
      const cover = [p[i + 2], p[i + 1], p[i]];
      let r = ground[0], g = ground[1], b = ground[2];
      for (let k = 0; k < 3; k++) {
        const a = cover[k] / 255;
        if (a > 0) { r += a * (layers[k][0] - r); g += a * (layers[k][1] - g); b += a * (layers[k][2] - b); }
      }
      p[i] = r; p[i + 1] = g; p[i + 2] = b;
    }
    pen.putImageData(picture, 0, 0);
    return sheet;
  }
  function bounds() {
    const xs = [], ys = [], s = data.stages[data.final];
    s.x.forEach((x, i) => { if (x !== null && s.ok[i]) { xs.push(x); ys.push(s.y[i]); } });
    if (data.truth) data.truth.x.forEach((x, i) => { if (x !== null && data.counted[i]) { xs.push(x); ys.push(data.truth.y[i]); } });
    const m = data.map;
    if (!xs.length) return [m.west, m.south, m.east, m.north];
    return [Math.min(...xs) - 25, Math.min(...ys) - 25, Math.max(...xs) + 25, Math.max(...ys) + 25];
  }
  function fit() {
    const [x0, y0, x1, y1] = bounds(), w = canvas.clientWidth, h = canvas.clientHeight;
    view = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, scale: Math.min((w - 50) / (x1 - x0), (h - 50) / (y1 - y0)) };
    draw();
  }
  const toScreen = (x, y) => [canvas.clientWidth / 2 + (x - view.x) * view.scale, canvas.clientHeight / 2 - (y - view.y) * view.scale];
  function zoomAt(px, py, factor) {
    const scale = Math.min(200, Math.max(0.005, view.scale * factor)), k = 1 / view.scale - 1 / scale;
    view = { x: view.x + (px - canvas.clientWidth / 2) * k, y: view.y - (py - canvas.clientHeight / 2) * k, scale };
    draw();
  }
  function line(xs, ys, breaks, style, width, offset = [0, 0], dash = []) {
    for (const [strokeStyle, lineWidth] of [[colours.halo, width + 2.5], [style, width]]) {
      context.beginPath();
      let pen = false;
      for (let i = 0; i < xs.length; i++) {
        if (xs[i] === null || breaks(i)) { pen = false; continue; }
        const [px, py] = toScreen(xs[i] + offset[0], ys[i] + offset[1]);
        if (pen) context.lineTo(px, py); else context.moveTo(px, py);
        pen = true;
      }
      context.setLineDash(strokeStyle === style ? dash : []);
      context.strokeStyle = strokeStyle; context.lineWidth = lineWidth; context.lineJoin = "round"; context.stroke();
    }
    context.setLineDash([]);
  }
  function ellipse(i) {
    const s = stage(), e = s.ellipse[i];
    if (e === null || s.x[i] === null) return;
    const [px, py] = toScreen(s.x[i], s.y[i]);
    context.beginPath();
    context.ellipse(px, py, Math.min(1e5, Math.max(e[0] * view.scale, 1)), Math.min(1e5, Math.max(e[1] * view.scale, 1)), -e[2], 0, 2 * Math.PI);
    context.globalAlpha = 0.18; context.fillStyle = colour(i); context.fill();
    context.globalAlpha = 1; context.strokeStyle = colours.ring; context.lineWidth = 1; context.stroke();
  }
  function dot(i, radius) {
    const s = stage(), [px, py] = toScreen(s.x[i], s.y[i]);
    context.beginPath(); context.arc(px, py, radius, 0, 2 * Math.PI);
    if (s.ok[i]) { context.fillStyle = colour(i); context.fill(); context.strokeStyle = colours.ring; context.lineWidth = 0.8; } else { context.strokeStyle = colours.soft; context.lineWidth = 1.5; }
    context.stroke();
  }
  // No line is drawn across gaps in the truth and jumps between positions.
  function jumps(xs, ys) {
    const steps = xs.map((x, i) => (i && x !== null && xs[i - 1] !== null ? Math.hypot(x - xs[i - 1], ys[i] - ys[i - 1]) : null));
    const sorted = steps.filter((v) => v !== null).sort((a, b) => a - b);
    const limit = Math.max(30, 4 * (sorted[sorted.length >> 1] || 0));
    return steps.map((v) => v !== null && v > limit);
  }
  function split(xs, ys, keep) {
    const cut = jumps(xs, ys), ax = [], ay = [];
    xs.forEach((x, i) => { if (cut[i]) { ax.push(null); ay.push(null); } ax.push(keep(i) ? x : null); ay.push(ys[i]); });
    return [ax, ay];
  }
  function draw() {
    if (!view) return;
    const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight, s = stage(), m = data.map;
    canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.halo; context.fillRect(0, 0, w, h);
    const [left, top] = toScreen(m.west, m.north), mw = (m.east - m.west) * view.scale, mh = (m.north - m.south) * view.scale;
    if (tinted) {
      context.imageSmoothingEnabled = mw < 3 * tinted.width * ratio;
      context.imageSmoothingQuality = "high";
      context.drawImage(tinted, left, top, mw, mh);
    }
    const [ex, ey] = toScreen(data.extent[0], data.extent[3]);
    context.setLineDash([6, 5]); context.strokeStyle = colours.edge; context.lineWidth = 1;
    context.strokeRect(ex, ey, (data.extent[2] - data.extent[0]) * view.scale, (data.extent[3] - data.extent[1]) * view.scale);
    context.setLineDash([]);
    const offset = shift(), never = () => false;
    if (data.truth && shown("truth")) {
      const [tx, ty] = split(data.truth.x, data.truth.y, () => true);
      line(tx, ty, never, colours.truth, 2, offset);
    }
    if (shown("path")) {
      const [ex2, ey2] = split(s.x, s.y, (i) => s.ok[i]);
      line(ex2, ey2, never, colours.plain, 1.5, [0, 0], data.truth ? [5, 4] : []);
    }
    if (data.truth && shown("links")) {
      context.strokeStyle = colours.e4; context.lineWidth = 1.2; context.beginPath();
      s.x.forEach((x, i) => {
        if (x === null || data.truth.x[i] === null || !s.ok[i]) return;
        context.moveTo(...toScreen(x, s.y[i]));
        context.lineTo(...toScreen(data.truth.x[i] + offset[0], data.truth.y[i] + offset[1]));
      });
      context.stroke();
    }
    if (shown("ellipses")) s.x.forEach((x, i) => { if (s.ok[i]) ellipse(i); });
    const radius = Math.min(6, Math.max(2.5, 4 * Math.sqrt(view.scale)));
    s.x.forEach((x, i) => { if (x !== null && !s.ok[i] && shown("unsure")) dot(i, radius); });
    s.x.forEach((x, i) => { if (x !== null && s.ok[i]) dot(i, radius); });
    if (state.hover !== null) highlight(state.hover, offset);
    scalebar();
  }
  function highlight(i, offset) {
    const s = stage();
    if (data.truth && data.truth.x[i] !== null) {
      const [tx, ty] = toScreen(data.truth.x[i] + offset[0], data.truth.y[i] + offset[1]);
      context.strokeStyle = colours.truth; context.lineWidth = 2; context.beginPath();
      context.moveTo(tx - 7, ty); context.lineTo(tx + 7, ty); context.moveTo(tx, ty - 7); context.lineTo(tx, ty + 7); context.stroke();
    }
    if (s.x[i] === null) return;
    ellipse(i);
    dot(i, 6);
    const [px, py] = toScreen(s.x[i], s.y[i]), angle = s.h[i] === null ? null : (s.h[i] * Math.PI) / 180;
    context.beginPath(); context.arc(px, py, 10, 0, 2 * Math.PI); context.strokeStyle = colours.ring; context.lineWidth = 2; context.stroke();
    if (angle !== null) { context.beginPath(); context.moveTo(px + 10 * Math.cos(angle), py - 10 * Math.sin(angle)); context.lineTo(px + 24 * Math.cos(angle), py - 24 * Math.sin(angle)); context.stroke(); }
  }
  function scalebar() {
    const target = 110 / view.scale, power = 10 ** Math.floor(Math.log10(target));
    const length = [5, 2, 1].map((k) => k * power).find((v) => v <= target) || power, bar = byId("scalebar");
    bar.style.width = `${length * view.scale}px`;
    bar.textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
  }
  function legend() {
    const s = stage(), items = [];
    const swatch = (inner) => `<svg width="18" height="14" aria-hidden="true">${inner}</svg>`;
    const disc = (fill) => swatch(`<circle cx="9" cy="7" r="5" fill="${fill}" stroke="${colours.ring}" stroke-width=".8"/>`);
    if (data.truth) {
      items.push(`<li>${swatch(`<path d="M1 7H17" stroke="${colours.truth}" stroke-width="2"/>`)}truth</li>`);
      const counts = [0, 0, 0, 0, 0];
      errors.forEach((e, i) => { if (e !== null && s.ok[i]) counts[level(e)]++; });
      NAMES.forEach((name, k) => items.push(`<li>${disc(colours[`e${k}`])}${name} <span class="count">${counts[k]}</span></li>`));
      if (s.x.some((x, i) => x !== null && s.ok[i] && errors[i] === null)) items.push(`<li>${disc(colours.plain)}truth unknown</li>`);
    } else items.push(`<li>${disc(colours.plain)}localized <span class="count">${s.ok.filter((v) => v).length}</span></li>`);
    const unsure = s.x.filter((x, i) => x !== null && !s.ok[i]).length, none = s.x.filter((x) => x === null).length;
    if (unsure) items.push(`<li>${swatch(`<circle cx="9" cy="7" r="4.5" fill="none" stroke="${colours.soft}" stroke-width="1.5"/>`)}not localized <span class="count">${unsure}</span></li>`);
    if (none) items.push(`<li>no pose <span class="count">${none}</span></li>`);
    items.push(`<li>${swatch(`<path d="M1 7H17" stroke="${colours.edge}" stroke-dasharray="4 3"/>`)}edge of the map</li>`);
    byId("legend").innerHTML = items.join("");
  }

  // --- the curves ----------------------------------------------------------------------------
  const marginLeft = 52, marginRight = 14;
  const xLabel = data.every_m > 0 ? `query (one per ${data.every_m} m of travel)` : "query (one per scan)";
  const logScale = (low, high, y0, y1) => (v) => y0 + ((Math.log10(Math.max(v, low)) - Math.log10(low)) / (Math.log10(high) - Math.log10(low))) * (y1 - y0);
  function niceStep(range, most) {
    const raw = Math.max(range / most, 1e-9), power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 5, 10].map((k) => k * power).find((v) => v >= raw);
  }
  function timeline(id, options) {
    const host = byId(id), width = host.clientWidth, height = options.height, bottom = height - (options.axis ? 40 : 14), top = 24, s = stage();
    const right = width - marginRight, at = (i) => marginLeft + (count > 1 ? i / (count - 1) : 0.5) * (right - marginLeft);
    const y = options.scale(bottom, top), out = [];
    let start = null;
    for (let i = 0; i <= count; i++) {
      const bad = i < count && !s.ok[i];
      if (bad && start === null) start = i;
      if (!bad && start !== null) { out.push(`<rect class="band" x="${at(start - 0.5)}" y="${top}" width="${Math.max(at(i - 0.5) - at(start - 0.5), 2)}" height="${bottom - top}"/>`); start = null; }
    }
    for (const [value, text] of options.ticks) out.push(`<line class="grid" x1="${marginLeft}" x2="${right}" y1="${y(value)}" y2="${y(value)}"/><text x="${marginLeft - 8}" y="${y(value) + 4}" text-anchor="end">${text}</text>`);
    const step = Math.max(1, niceStep(count - 1, Math.max(2, width / 110)));
    if (options.axis) {
      for (let i = 0; i < count; i += step) out.push(`<text x="${at(i)}" y="${bottom + 16}" text-anchor="middle">${i}</text>`);
      out.push(`<text class="label" x="${(marginLeft + right) / 2}" y="${bottom + 34}" text-anchor="middle">${xLabel}</text>`);
    }
    out.push(`<text class="label" x="0" y="12">${options.label}</text>`);
    if (options.line) {
      let path = "", pen = false;
      options.line.forEach((v, i) => { if (v === null) { pen = false; return; } path += `${pen ? "L" : "M"}${at(i).toFixed(1)} ${y(v).toFixed(1)}`; pen = true; });
      out.push(`<path d="${path}" fill="none" stroke="${colours.soft}" stroke-width="1" opacity=".55"/>`);
    }
    const r = count > 400 ? 2 : 3;
    if (options.dots) options.dots.forEach((v, i) => {
      if (v !== null) out.push(s.ok[i] ? `<circle cx="${at(i).toFixed(1)}" cy="${y(v).toFixed(1)}" r="${r}" fill="${options.fill(i)}" stroke="${colours.ring}" stroke-width=".5"/>` : `<circle cx="${at(i).toFixed(1)}" cy="${y(v).toFixed(1)}" r="${r}" fill="none" stroke="${colours.soft}"/>`);
      else if (options.missing(i)) out.push(`<path d="M${at(i) - 3} ${top - 3}l6 6m0 -6l-6 6" stroke="${colours.e4}" fill="none"/>`);
    });
    if (state.hover !== null) out.push(`<line class="cursor" x1="${at(state.hover)}" x2="${at(state.hover)}" y1="${top}" y2="${bottom}"/>`);
    host.innerHTML = `<svg viewBox="0 0 ${width} ${height}" height="${height}" role="img" aria-label="${options.label}">${out.join("")}</svg>`;
    host.at = (px) => Math.min(count - 1, Math.max(0, Math.round(((px - marginLeft) / (right - marginLeft)) * (count - 1))));
  }
  const decades = (low, high) => { const out = []; for (let v = low; v <= high * 1.0001; v *= 10) out.push(Number(v.toPrecision(1))); return out; };
  const top10 = (values, least) => { const peak = Math.max(least, ...values.filter((v) => v !== null && Number.isFinite(v))); return 10 ** Math.ceil(Math.log10(peak) - 1e-9); };
  function charts() {
    const s = stage(), claimed = s.ellipse.map((e) => (e === null ? null : e[0]));
    if (data.truth) {
      const high = top10(errors, 10);
      timeline("chart-main", {
        height: 270, axis: false, label: "position error, m", scale: (a, b) => logScale(0.1, high, a, b), dots: errors, fill: colour,
        ticks: [...decades(0.1, high), 2, 5].sort((a, b) => a - b).map((v) => [v, String(v)]), line: claimed.map((v) => (v === null ? null : Math.min(v, high))), missing: (i) => s.x[i] === null && data.truth.x[i] !== null,
      });
      const steep = Math.min(180, top10(headings, 10));
      timeline("chart-second", {
        height: 190, axis: true, label: "heading error, degrees", scale: (a, b) => logScale(0.1, steep, a, b), dots: headings, fill: () => colours.plain,
        ticks: [...decades(0.1, steep), 5, ...(steep === 180 ? [180] : [])].sort((a, b) => a - b).map((v) => [v, String(v)]), missing: () => false,
      });
      recall();
    } else {
      const high = top10(claimed, 10);
      timeline("chart-main", {
        height: 240, axis: false, label: "claimed 95 % radius, m", scale: (a, b) => logScale(0.1, high, a, b), dots: claimed, fill: () => colours.plain,
        ticks: decades(0.1, high).map((v) => [v, String(v)]), missing: (i) => s.x[i] === null,
      });
      timeline("chart-second", {
        height: 190, axis: true, label: "score, 0 to 1", scale: (a, b) => (v) => a + v * (b - a), dots: s.score, fill: () => colours.plain,
        ticks: [0, 0.25, 0.5, 0.75, 1].map((v) => [v, String(v)]), missing: () => false,
      });
    }
  }
  const DASH = { regressed: "1 3", pgo: "4 2 1 2", coarse: "2 4", aligned: "", fused: "7 4", smoothed: "12 3 2 3" };
  function recall() {
    const host = byId("chart-recall"), width = host.clientWidth, height = 300, top = 24, bottom = height - 40, right = width - marginRight;
    const counted = data.counted.filter((v) => v).length, names = Object.keys(data.stages), all = {};
    for (const name of names) all[name] = errorsOf(name).filter((e, i) => e !== null && data.counted[i]).sort((a, b) => a - b);
    const high = top10(names.map((name) => all[name][all[name].length - 1] || 0), 10);
    const x = logScale(0.1, high, marginLeft, right), y = (v) => bottom + v * (top - bottom), out = [];
    for (const v of [0, 0.25, 0.5, 0.75, 1]) out.push(`<line class="grid" x1="${marginLeft}" x2="${right}" y1="${y(v)}" y2="${y(v)}"/><text x="${marginLeft - 8}" y="${y(v) + 4}" text-anchor="end">${100 * v}</text>`);
    for (const v of [...decades(0.1, high), 2, 5]) out.push(`<line class="grid" x1="${x(v)}" x2="${x(v)}" y1="${top}" y2="${bottom}"/><text x="${x(v)}" y="${bottom + 16}" text-anchor="middle">${v}</text>`);
    out.push(`<text class="label" x="0" y="12">queries within this error, %</text><text class="label" x="${(marginLeft + right) / 2}" y="${bottom + 34}" text-anchor="middle">position error, m</text>`);
    let curve = "";
    for (let k = 0; k <= 60; k++) { const v = 0.1 * (high / 0.1) ** (k / 60); curve += `${k ? "L" : "M"}${x(v).toFixed(1)} ${y(Math.min(1, (Math.PI * v * v) / (data.area_km2 * 1e6))).toFixed(1)}`; }
    out.push(`<path d="${curve}" fill="none" stroke="${colours.soft}" stroke-width="1" stroke-dasharray="1 3"/>`);
    for (const name of names) {
      let path = `M${marginLeft} ${y(all[name].filter((e) => e <= 0.1).length / Math.max(counted, 1)).toFixed(1)}`;
      all[name].forEach((e, k) => { if (e > 0.1) path += `H${x(e).toFixed(1)}V${y((k + 1) / counted).toFixed(1)}`; });
      out.push(`<path d="${path}H${right}" fill="none" stroke="var(--s-${name})" stroke-width="${name === state.stage ? 3 : 1.8}" stroke-dasharray="${DASH[name]}"/>`);
    }
    host.innerHTML = `<svg viewBox="0 0 ${width} ${height}" height="${height}" role="img" aria-label="Share of the queries within an error, per stage">${out.join("")}</svg>`;
    byId("recall-legend").innerHTML = [...names.map((name) => `<li><svg width="34" height="10" aria-hidden="true"><path d="M1 5H33" stroke="var(--s-${name})" stroke-width="2.5" stroke-dasharray="${DASH[name]}"/></svg>${name}</li>`),
      `<li><svg width="34" height="10" aria-hidden="true"><path d="M1 5H33" stroke="${colours.soft}" stroke-dasharray="1 3"/></svg>chance</li>`].join("");
  }

  // --- pointing ------------------------------------------------------------------------------
  function hover(i, event) {
    if (i !== state.hover) { state.hover = i; draw(); charts(); }
    if (i === null || !event) { tip.hidden = true; return; }
    const s = stage(), e = s.ellipse[i], rows = [];
    if (data.truth) rows.push(["position error", s.x[i] === null ? "no pose" : metres(errors[i])], ["heading error", headings[i] === null ? "–" : `${headings[i].toFixed(2)}°`]);
    if (e !== null) rows.push(["95 % ellipse", `${metres(e[0])} × ${metres(e[1])}`]);
    rows.push(["score", s.score[i] === null ? "–" : s.score[i].toFixed(2)], ["localized", s.ok[i] ? "yes" : `no: ${s.reason[i]}`], ["protection level", s.level[i] === null ? "–" : `${s.level[i].toFixed(1)} m`]);
    tip.innerHTML = `<b>Query ${i}</b> · frame ${data.frame[i]} · ${clock(data.t[i])}` + rows.map(([a, b]) => `<div><span>${a}</span><span>${b}</span></div>`).join("");
    tip.hidden = false;
    const x = Math.min(event.pageX + 16, window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8);
    const y = event.clientY + 16 + tip.offsetHeight > window.innerHeight ? event.pageY - tip.offsetHeight - 12 : event.pageY + 16;
    tip.style.left = `${Math.max(8, x)}px`; tip.style.top = `${y}px`;
  }
  function nearest(px, py) {
    let best = null, least = 20 * 20;
    const s = stage(), offset = shift();
    const look = (x, y, i) => { const [sx, sy] = toScreen(x, y), d = (sx - px) ** 2 + (sy - py) ** 2; if (d < least) { least = d; best = i; } };
    for (let i = 0; i < count; i++) if (s.x[i] !== null && (s.ok[i] || shown("unsure"))) look(s.x[i], s.y[i], i);
    if (best === null && data.truth && shown("truth")) for (let i = 0; i < count; i++) if (data.truth.x[i] !== null) look(data.truth.x[i] + offset[0], data.truth.y[i] + offset[1], i);
    return best;
  }
  function goTo(i) {
    const s = stage(), x = s.x[i] === null && data.truth ? data.truth.x[i] : s.x[i], y = s.x[i] === null && data.truth ? data.truth.y[i] : s.y[i];
    if (x === null) return;
    state.hover = i;
    view = { x, y, scale: Math.max(view.scale, 4) };
    draw(); charts();
  }
  const fingers = new Map();
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, place(event)); canvas.classList.add("dragging"); });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event), before = fingers.get(event.pointerId);
    if (!before) { hover(nearest(...now), event); return; }
    if (fingers.size === 1) { view.x -= (now[0] - before[0]) / view.scale; view.y += (now[1] - before[1]) / view.scale; draw(); } else {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1], gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, gap(now) / Math.max(gap(before), 1));
    }
    fingers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId); canvas.classList.remove("dragging");
    if (kind === "pointerup" && event.pointerType !== "mouse") hover(nearest(...place(event)), event);
  });
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hover(null); });
  // The wheel scrolls the page unless the map has the focus; browsers report a pinch as a wheel with ctrlKey.
  canvas.addEventListener("wheel", (event) => { if (!event.ctrlKey && document.activeElement !== canvas) return; event.preventDefault(); zoomAt(...place(event), 2 ** (-event.deltaY / (event.deltaMode ? 8 : 240))); }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoomAt(...place(event), 2));
  canvas.addEventListener("keydown", (event) => {
    const step = 60 / view.scale, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; draw(); } else if (event.key === "+" || event.key === "=") zoomMiddle(1.5);
    else if (event.key === "-") zoomMiddle(1 / 1.5);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  const zoomMiddle = (factor) => zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, factor);
  byId("zoom-in").addEventListener("click", () => zoomMiddle(1.6));
  byId("zoom-out").addEventListener("click", () => zoomMiddle(1 / 1.6));
  byId("zoom-fit").addEventListener("click", fit);
  for (const id of ["chart-main", "chart-second"]) {
    const host = byId(id), at = (event) => host.at(event.clientX - host.getBoundingClientRect().left);
    host.addEventListener("pointermove", (event) => { if (count) hover(at(event), event); });
    host.addEventListener("pointerleave", () => hover(null));
    host.addEventListener("click", (event) => { if (count) goTo(at(event)); });
  }
  for (const button of document.querySelectorAll("button[data-query]")) button.addEventListener("click", () => { goTo(Number(button.dataset.query)); byId("map-title").scrollIntoView({ behavior: "smooth" }); });

  function refresh() { state.stage = document.querySelector("input[name=stage]:checked").value; measure(); legend(); draw(); charts(); }
  byId("controls").addEventListener("change", refresh);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", () => { draw(); charts(); });
  const image = new Image();
  function theme() { readColours(); if (image.complete && image.naturalWidth) tinted = tint(image); refresh(); }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  readColours();
  measure();
  fit();
  image.onload = theme;
  image.src = data.map.src;
  refresh();
})();
