// The map: its pictures, the whole drive on it, and how the view moves.
const still = byId("map"), moving = byId("vehicle"), pen = still.getContext("2d"), ink = moving.getContext("2d"), tip = byId("tip");
const LIMITS = [1, 2, 5, 10], NAMES = ["≤ 1 m", "≤ 2 m", "≤ 5 m", "≤ 10 m", "> 10 m"];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const state = { stage: data.final, hover: null, marks: [], whole: true, changed: { map: true, vehicle: true } };
let colours = {}, view = { x: 0, y: 0, scale: 1 }, size = { w: 1, h: 1, ratio: 1 }, errors = [], headings = [];

const stage = () => data.stages[state.stage];
const shown = (name) => { const box = document.querySelector(`input[name=layer][value=${name}]`); return box !== null && box.checked; };
const shift = () => (shown("bias") && data.bias ? data.bias : [0, 0]);
const level = (error) => { const i = LIMITS.findIndex((limit) => error <= limit); return i < 0 ? 4 : i; };
const colour = (i) => (errors[i] === errors[i] ? colours[`e${level(errors[i])}`] : colours.plain);

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["panel", "map", "building", "road", "path", "edge", "truth", "halo", "plain", "ring", "soft", "text", "line", "good", "bad", "band", "vehicle", "wall", "seen", "e0", "e1", "e2", "e3", "e4", "lost1", "lost2", "lost3", "lost4", "lost5", "lost6", "lost7"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
  for (const name of Object.keys(data.stages)) colours[`s-${name}`] = style.getPropertyValue(`--s-${name}`).trim();
}
// NaN without a pose or without truth.
function errorsOf(name) {
  const s = data.stages[name], [bx, by] = shift();
  return data.truth ? s.x.map((x, i) => Math.hypot(x - data.truth.x[i] - bx, s.y[i] - data.truth.y[i] - by)) : s.x.map(() => NaN);
}
function measure() {
  errors = errorsOf(state.stage);
  headings = stage().h.map((h, i) => (data.truth ? Math.abs(((h - data.truth.h[i]) % 360 + 540) % 360 - 180) : NaN));
}
// Where the vehicle is lost and where it is found: the first row of each stretch, after the first stretch.
function findMarks(series) {
  const marks = [];
  for (let i = 1; i < series.t.length; i++) {
    const sure = isSure(series, i);
    if (sure === isSure(series, i - 1)) continue;
    const at = sure || !hasPose(series, i) ? (sure ? i : i - 1) : i;
    if (hasPose(series, at)) marks.push({ x: series.x[at], y: series.y[at], t: series.t[i], found: sure });
  }
  return marks;
}

// --- pictures --------------------------------------------------------------------------------
const parts = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
// A picture whose red, green and blue are covers becomes one in the page's colours.
function tint(image, paint) {
  const sheet = document.createElement("canvas");
  sheet.width = image.naturalWidth; sheet.height = image.naturalHeight;
  const brush = sheet.getContext("2d");
  brush.drawImage(image, 0, 0);
  const picture = brush.getImageData(0, 0, sheet.width, sheet.height);
  paint(picture.data);
  brush.putImageData(picture, 0, 0);
  return sheet;
}
function paintMap(p) {
  const ground = parts(colours.map), layers = [parts(colours.path), parts(colours.road), parts(colours.building)];
  for (let i = 0; i < p.length; i += 4) {
    let [r, g, b] = ground;
    for (let k = 0; k < 3; k++) {
      const share = p[i + 2 - k] / 255, [lr, lg, lb] = layers[k];
      if (share > 0) { r += share * (lr - r); g += share * (lg - g); b += share * (lb - b); }
    }
    p[i] = r; p[i + 1] = g; p[i + 2] = b;
  }
}
// Pictures are decoded when they are first needed, and tinted anew when the colours change.
function sheetOf(entry, paint, done) {
  if (!entry.image) {
    const image = entry.image = new Image();
    image.onload = () => { entry.ready = entry.image === image; done(); };
    image.src = entry.src;
  }
  if (entry.ready && !entry.sheet) entry.sheet = tint(entry.image, paint);
  return entry.sheet;
}

// --- the view --------------------------------------------------------------------------------
const toScreen = (x, y) => [size.w / 2 + (x - view.x) * view.scale, size.h / 2 - (y - view.y) * view.scale];
function bounds() {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  const add = (xs, ys) => { for (let i = 0; i < xs.length; i++) if (xs[i] === xs[i]) { box[0] = Math.min(box[0], xs[i]); box[1] = Math.min(box[1], ys[i]); box[2] = Math.max(box[2], xs[i]); box[3] = Math.max(box[3], ys[i]); } };
  for (const series of [data.stages[data.final], rowsOf(data.final)]) add(series.x, series.y);
  if (data.truth) add(data.truth.x, data.truth.y);
  if (box[0] > box[2]) return data.extent;
  return [box[0] - 25, box[1] - 25, box[2] + 25, box[3] + 25];
}
// The middle of a view that shows low to high, and as little as possible of what is beyond the map.
function middle(low, high, mapLow, mapHigh, half) {
  const onMap = mapHigh - mapLow > 2 * half ? Math.min(Math.max((low + high) / 2, mapLow + half), mapHigh - half) : (mapLow + mapHigh) / 2;
  return Math.min(Math.max(onMap, high - half), low + half);
}
function fit() {
  const [x0, y0, x1, y1] = bounds();
  const scale = Math.min((size.w - 60) / (x1 - x0), (size.h - 60) / (y1 - y0)), [west, south, east, north] = data.extent;
  view = { x: middle(x0, x1, west, east, size.w / 2 / scale), y: middle(y0, y1, south, north, size.h / 2 / scale), scale };
  moved();
}
// The middle of the view stays on the map.
function moved() {
  const [west, south, east, north] = data.extent, box = bounds();
  view.x = Math.min(Math.max(view.x, Math.min(west, box[0])), Math.max(east, box[2]));
  view.y = Math.min(Math.max(view.y, Math.min(south, box[1])), Math.max(north, box[3]));
  redraw({ map: true, vehicle: true });
}
function zoomAt(px, py, factor) {
  const scale = Math.min(60, Math.max(0.005, view.scale * factor)), k = 1 / view.scale - 1 / scale;
  view = { x: view.x + (px - size.w / 2) * k, y: view.y - (py - size.h / 2) * k, scale };
  moved();
}
function panBy(px, py) { view.x -= px / view.scale; view.y += py / view.scale; moved(); }

// --- the whole drive -------------------------------------------------------------------------
// A line through the rows that are kept; points closer than a pixel are left out, and so is what is out of sight.
function trace(brush, series, keep, offset = [0, 0], from = 0, to = series.x.length) {
  const far = 60;
  let open = false, lx = 0, ly = 0, waiting = null;
  for (let i = from; i < to; i++) {
    if (series.x[i] !== series.x[i] || !keep(i) || (i > from && series.breaks[i])) { if (waiting) brush.lineTo(...waiting); waiting = null; open = false; if (series.x[i] !== series.x[i] || !keep(i)) continue; }
    const px = size.w / 2 + (series.x[i] + offset[0] - view.x) * view.scale, py = size.h / 2 - (series.y[i] + offset[1] - view.y) * view.scale;
    if (open && Math.abs(px - lx) < 1 && Math.abs(py - ly) < 1) { waiting = [px, py]; continue; }
    const away = (px < -far && lx < -far) || (px > size.w + far && lx > size.w + far) || (py < -far && ly < -far) || (py > size.h + far && ly > size.h + far);
    if (!open || away) brush.moveTo(px, py); else brush.lineTo(px, py);
    open = true; lx = px; ly = py; waiting = null;
  }
  if (waiting) brush.lineTo(...waiting);
}
function line(series, keep, style, width, offset = [0, 0], dash = []) {
  const path = new Path2D();
  trace(path, series, keep, offset);
  pen.lineJoin = "round";
  for (const [strokeStyle, lineWidth] of [[colours.halo, width + 2.5], [style, width]]) {
    pen.setLineDash(strokeStyle === style ? dash : []);
    pen.strokeStyle = strokeStyle; pen.lineWidth = lineWidth; pen.stroke(path);
  }
  pen.setLineDash([]);
}
function ellipse(brush, series, i, x, y, fill, alpha = 0.18) {
  if (series.long[i] !== series.long[i]) return;
  const [px, py] = toScreen(x, y);
  brush.beginPath();
  brush.ellipse(px, py, Math.max(series.long[i] * view.scale, 1), Math.max(series.short[i] * view.scale, 1), (-series.turn[i] * Math.PI) / 180, 0, 2 * Math.PI);
  brush.globalAlpha = alpha; brush.fillStyle = fill; brush.fill();
  brush.globalAlpha = 1; brush.strokeStyle = fill; brush.lineWidth = 1.5; brush.stroke();
}
// Dots that would cover each other are drawn once, unless they differ in what they say.
function dots(s, radius) {
  const wanted = new Map();
  let lx = -1e9, ly = -1e9, last = null;
  for (let i = 0; i < data.count; i++) {
    if (!hasPose(s, i)) continue;
    const sure = isSure(s, i), px = size.w / 2 + (s.x[i] - view.x) * view.scale, py = size.h / 2 - (s.y[i] - view.y) * view.scale;
    if ((!sure && !shown("unsure")) || px < -9 || py < -9 || px > size.w + 9 || py > size.h + 9) continue;
    const style = sure ? colour(i) : "";
    if (style === last && Math.abs(px - lx) < radius && Math.abs(py - ly) < radius) continue;
    lx = px; ly = py; last = style;
    if (!wanted.has(style)) wanted.set(style, new Path2D());
    wanted.get(style).moveTo(px + radius, py);
    wanted.get(style).arc(px, py, radius, 0, 2 * Math.PI);
  }
  for (const [style, path] of [...wanted].sort(([a], [b]) => (a === "" ? -1 : b === "" ? 1 : 0))) {
    if (style) { pen.fillStyle = style; pen.fill(path); pen.strokeStyle = colours.ring; pen.lineWidth = 0.8; } else { pen.strokeStyle = colours.soft; pen.lineWidth = 1.5; }
    pen.stroke(path);
  }
}
function drawMap() {
  const s = stage(), offset = shift(), always = () => true, [west, south, east, north] = data.extent;
  pen.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
  pen.fillStyle = colours.halo; pen.fillRect(0, 0, size.w, size.h);
  const [ex, ey] = toScreen(west, north), ew = (east - west) * view.scale, eh = (north - south) * view.scale;
  pen.fillStyle = colours.map; pen.fillRect(ex, ey, ew, eh);
  for (const entry of data.map) {
    const [x0, y0, x1, y1] = entry.box, [left, top] = toScreen(x0, y1), w = (x1 - x0) * view.scale, h = (y1 - y0) * view.scale;
    const needed = left < size.w && top < size.h && left + w > 0 && top + h > 0 && (entry === data.map[0] || entry.pixel_m * view.scale * size.ratio > 0.4);
    const sheet = needed && sheetOf(entry, paintMap, () => redraw({ map: true }));
    if (!needed && data.map.length > 60) entry.sheet = entry.image = entry.ready = null;
    if (!sheet) continue;
    pen.imageSmoothingEnabled = w < 3 * sheet.width * size.ratio;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(sheet, left, top, w, h);
  }
  pen.setLineDash([6, 5]); pen.strokeStyle = colours.edge; pen.lineWidth = 1;
  pen.strokeRect(ex, ey, ew, eh);
  pen.setLineDash([]);
  if (data.truth && shown("truth")) line(data.truth, always, colours.truth, 2, offset);
  const rows = rowsOf(state.stage);
  if (shown("path")) line(rows, (i) => isSure(rows, i), colours.plain, 1.5, [0, 0], data.truth ? [5, 4] : []);
  if (data.truth && shown("links")) {
    pen.strokeStyle = colours.e4; pen.lineWidth = 1.2; pen.beginPath();
    for (let i = 0; i < data.count; i++) if (isSure(s, i) && data.truth.x[i] === data.truth.x[i]) {
      pen.moveTo(...toScreen(s.x[i], s.y[i]));
      pen.lineTo(...toScreen(data.truth.x[i] + offset[0], data.truth.y[i] + offset[1]));
    }
    pen.stroke();
  }
  if (shown("ellipses")) for (let i = 0; i < data.count; i++) if (isSure(s, i)) ellipse(pen, s, i, s.x[i], s.y[i], colour(i));
  dots(s, Math.min(6, Math.max(2.5, 4 * Math.sqrt(view.scale))));
  if (shown("marks")) for (const mark of state.marks) flag(mark);
  scalebar();
}
// A flag where the vehicle is lost (cross) or found again (tick).
function flag(mark) {
  const [px, py] = toScreen(mark.x, mark.y), y = py - 20;
  if (px < -20 || py < -20 || px > size.w + 20 || py > size.h + 40) return;
  pen.lineWidth = 2; pen.strokeStyle = mark.found ? colours.good : colours.bad; pen.fillStyle = colours.panel;
  pen.beginPath(); pen.moveTo(px, py); pen.lineTo(px, y + 8); pen.stroke();
  pen.beginPath(); pen.arc(px, y, 8, 0, 2 * Math.PI); pen.fill(); pen.stroke();
  pen.beginPath();
  if (mark.found) { pen.moveTo(px - 3.5, y); pen.lineTo(px - 1, y + 3); pen.lineTo(px + 4, y - 3); } else { pen.moveTo(px - 3, y - 3); pen.lineTo(px + 3, y + 3); pen.moveTo(px + 3, y - 3); pen.lineTo(px - 3, y + 3); }
  pen.stroke();
}
function scalebar() {
  const target = 110 / view.scale, power = 10 ** Math.floor(Math.log10(target));
  const length = [5, 2, 1].map((k) => k * power).find((v) => v <= target) || power, bar = byId("scalebar");
  bar.style.width = `${length * view.scale}px`;
  bar.textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
}
function resize() {
  const ratio = window.devicePixelRatio || 1, w = still.clientWidth, h = still.clientHeight;
  if (w === size.w && h === size.h && ratio === size.ratio) return;
  size = { w, h, ratio };
  for (const canvas of [still, moving]) { canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio); }
  if (state.whole) fit(); else moved();
}

function legend() {
  const s = stage(), items = [], rows = [...s.x.keys()];
  const swatch = (inner) => `<svg width="18" height="14" aria-hidden="true">${inner}</svg>`;
  const disc = (fill) => swatch(`<circle cx="9" cy="7" r="5" fill="${fill}" stroke="${colours.ring}" stroke-width=".8"/>`);
  if (data.truth) {
    items.push(`<li>${swatch(`<path d="M1 7H17" stroke="${colours.truth}" stroke-width="2"/>`)}truth</li>`);
    const counts = [0, 0, 0, 0, 0];
    rows.forEach((i) => { if (errors[i] === errors[i] && isSure(s, i)) counts[level(errors[i])]++; });
    NAMES.forEach((name, k) => items.push(`<li>${disc(colours[`e${k}`])}${name} <span class="count">${counts[k]}</span></li>`));
    if (rows.some((i) => isSure(s, i) && errors[i] !== errors[i])) items.push(`<li>${disc(colours.plain)}truth unknown</li>`);
  } else items.push(`<li>${disc(colours.plain)}localized <span class="count">${rows.filter((i) => isSure(s, i)).length}</span></li>`);
  const unsure = rows.filter((i) => hasPose(s, i) && !isSure(s, i)).length, none = rows.filter((i) => !hasPose(s, i)).length;
  if (unsure) items.push(`<li>${swatch(`<circle cx="9" cy="7" r="4.5" fill="none" stroke="${colours.soft}" stroke-width="1.5"/>`)}not localized <span class="count">${unsure}</span></li>`);
  if (none) items.push(`<li>no pose <span class="count">${none}</span></li>`);
  items.push(`<li>${swatch(`<path d="M16 7L3 12L6 7L3 2Z" fill="${colours.vehicle}"/>`)}vehicle</li>`);
  items.push(`<li>${swatch(`<ellipse cx="9" cy="7" rx="8" ry="4" fill="${colours.vehicle}" fill-opacity=".2" stroke="${colours.vehicle}"/>`)}95 % ellipse</li>`);
  items.push(`<li>${swatch(`<circle cx="9" cy="7" r="6" fill="none" stroke="${colours.vehicle}" stroke-dasharray="3 2"/>`)}protection level</li>`);
  if (data.tiles.length) items.push(`<li>${swatch(`<path d="M2 12V4H9V9H16" fill="none" stroke="${colours.wall}" stroke-width="2"/>`)}walls seen</li>`);
  items.push(`<li>${swatch(`<path d="M1 7H17" stroke="${colours.edge}" stroke-dasharray="4 3"/>`)}edge of the map</li>`);
  byId("legend").innerHTML = items.join("");
}
