// Pointing, touching, keys and buttons.
function hover(i, event) {
  if (i !== state.hover) { state.hover = i; redraw({ vehicle: true }); }
  if (i === null || !event) { tip.hidden = true; return; }
  const s = stage(), rows = [];
  if (data.truth) rows.push(["position error", hasPose(s, i) ? metres(errors[i]) : "no pose"], ["heading error", headings[i] === headings[i] ? `${headings[i].toFixed(2)}°` : "–"]);
  if (s.long[i] === s.long[i]) rows.push(["95 % ellipse", `${metres(s.long[i])} × ${metres(s.short[i])}`]);
  rows.push(["score", s.score[i] === s.score[i] ? s.score[i].toFixed(2) : "–"], ["localized", isSure(s, i) ? "yes" : `no: ${reasonText(s, i) || "no pose"}`], ["protection level", metres(s.level[i])]);
  showTip(`<b>Query ${i}</b> · frame ${data.frame[i]} · ${clock(data.t[i] - data.begin)}` + rows.map(([a, b]) => `<div><span>${a}</span><span>${b}</span></div>`).join(""), event);
}
function showTip(html, event) {
  tip.innerHTML = html;
  tip.hidden = false;
  const x = Math.min(event.pageX + 16, window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8);
  const y = event.clientY + 16 + tip.offsetHeight > window.innerHeight ? event.pageY - tip.offsetHeight - 12 : event.pageY + 16;
  tip.style.left = `${Math.max(8, x)}px`; tip.style.top = `${y}px`;
}
function nearest(px, py) {
  let best = null, least = 20 * 20;
  const s = stage(), offset = shift();
  const look = (x, y, i) => { const [sx, sy] = toScreen(x, y), d = (sx - px) ** 2 + (sy - py) ** 2; if (d < least) { least = d; best = i; } };
  for (let i = 0; i < data.count; i++) if (hasPose(s, i) && (isSure(s, i) || shown("unsure"))) look(s.x[i], s.y[i], i);
  if (best === null && data.truth && shown("truth")) for (let i = 0; i < data.count; i++) if (hasPose(data.truth, i)) look(data.truth.x[i] + offset[0], data.truth.y[i] + offset[1], i);
  return best;
}
function goTo(i) {
  const s = hasPose(stage(), i) || !data.truth ? stage() : data.truth;
  if (hasPose(s, i)) { state.whole = false; view = { x: s.x[i], y: s.y[i], scale: Math.max(view.scale, 4) }; moved(); }
  seek(data.t[i]);
}
function freely(move) { state.whole = false; if (replay.follow) setFollow(false); move(); }
const zoomMiddle = (factor) => { state.whole = false; zoomAt(size.w / 2, size.h / 2, factor); };
const showAll = () => { setFollow(false); state.whole = true; fit(); };

const fingers = new Map();
let pressed = null;
const spot = (event) => { const box = moving.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
moving.addEventListener("pointerdown", (event) => {
  moving.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, spot(event));
  pressed = fingers.size === 1 ? spot(event) : null;
  moving.classList.add("dragging");
});
moving.addEventListener("pointermove", (event) => {
  const now = spot(event), before = fingers.get(event.pointerId);
  if (!before) { hover(nearest(...now), event); return; }
  if (pressed && Math.hypot(now[0] - pressed[0], now[1] - pressed[1]) < 6) return;
  pressed = null;
  if (fingers.size === 1) freely(() => panBy(now[0] - before[0], now[1] - before[1]));
  else {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1], gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
    freely(() => { panBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2); zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, gap(now) / Math.max(gap(before), 1)); });
  }
  fingers.set(event.pointerId, now);
});
for (const kind of ["pointerup", "pointercancel"]) moving.addEventListener(kind, (event) => {
  fingers.delete(event.pointerId);
  if (!fingers.size) moving.classList.remove("dragging");
  if (kind === "pointerup" && pressed) { const i = nearest(...spot(event)); hover(i, event); if (i !== null) seek(data.t[i]); }
  pressed = null;
});
moving.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hover(null); });
// The wheel scrolls the page unless the map has the focus; browsers report a pinch as a wheel with ctrlKey.
moving.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && document.activeElement !== moving) return;
  event.preventDefault();
  state.whole = false;
  zoomAt(...(replay.follow ? [size.w / 2, size.h / 2] : spot(event)), 2 ** (-event.deltaY / (event.deltaMode ? 8 : 240)));
}, { passive: false });
moving.addEventListener("dblclick", (event) => { state.whole = false; zoomAt(...spot(event), 2); });
byId("zoom-in").addEventListener("click", () => zoomMiddle(1.6));
byId("zoom-out").addEventListener("click", () => zoomMiddle(1 / 1.6));
byId("zoom-fit").addEventListener("click", showAll);

// --- keys ------------------------------------------------------------------------------------
function nextQuery(by) { const i = nearestRow(replay.time, data.t); seek(data.t[Math.min(data.count - 1, Math.max(0, i + by))]); }
const changeSpeed = (by) => setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, SPEEDS.indexOf(replay.speed) + by))]);
const pan = 60;
const KEYS = {
  " ": () => setPlaying(!replay.playing), k: () => setPlaying(!replay.playing),
  ArrowLeft: () => seek(replay.time - step()), ArrowRight: () => seek(replay.time + step()), ArrowUp: () => changeSpeed(1), ArrowDown: () => changeSpeed(-1),
  Home: () => seek(data.begin), End: () => seek(data.end), ",": () => nextQuery(-1), ".": () => nextQuery(1),
  "+": () => zoomMiddle(1.5), "=": () => zoomMiddle(1.5), "-": () => zoomMiddle(1 / 1.5), 0: showAll, f: () => setFollow(!replay.follow),
};
const MOVES = { ArrowLeft: [pan, 0], ArrowRight: [-pan, 0], ArrowUp: [0, pan], ArrowDown: [0, -pan] };
// Keys work in the player, and on the page while the player is in sight and nothing else has the focus.
let inSight = false;
new IntersectionObserver(([entry]) => { inSight = entry.isIntersecting; }, { threshold: 0.2 }).observe(byId("player"));
document.addEventListener("keydown", (event) => {
  const at = document.activeElement, inside = byId("player").contains(at);
  if (event.ctrlKey || event.metaKey || event.altKey || (!inside && !(at === document.body && inSight))) return;
  if ((at.tagName === "SELECT" && event.key !== " ") || (event.key === " " && (at.tagName === "BUTTON" || at.tagName === "SELECT" || at.tagName === "SUMMARY"))) return;
  if (event.shiftKey && MOVES[event.key]) freely(() => panBy(...MOVES[event.key]));
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

// --- buttons, slider, strips -----------------------------------------------------------------
byId("play").addEventListener("click", () => setPlaying(!replay.playing));
byId("back").addEventListener("click", () => seek(replay.time - step()));
byId("on").addEventListener("click", () => seek(replay.time + step()));
byId("follow").addEventListener("click", () => setFollow(!replay.follow));
byId("speed").addEventListener("change", (event) => setSpeed(Number(event.target.value)));
slider.addEventListener("input", () => seek(Number(slider.value)));
for (const host of document.querySelectorAll(".strip")) {
  const time = (event) => { const box = host.getBoundingClientRect(); return data.begin + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * span(); };
  host.addEventListener("pointerdown", (event) => { host.setPointerCapture(event.pointerId); seek(time(event)); });
  host.addEventListener("pointermove", (event) => {
    if (host.hasPointerCapture(event.pointerId)) seek(time(event));
    const name = host.dataset.stage || state.stage, s = rowsOf(name), t = time(event), i = nearestRow(t, s.t), query = nearestRow(t, data.t);
    if (!data.count) return;
    const words = isSure(s, i) ? "localized" : hasPose(s, i) ? reasonText(s, i) || "not localized" : `no position: ${reasonText(s, i)}`;
    showTip(`<b>${clock(t - data.begin)}</b> · ${name}<div><span>${words}</span></div>${data.truth ? `<div><span>position error</span><span>${metres(errorsAt(name, query))}</span></div>` : ""}`, event);
  });
  host.addEventListener("pointerleave", () => { tip.hidden = true; });
}
for (const id of ["chart-main", "chart-second"]) {
  const host = byId(id), at = (event) => nearestRow(host.time(event.clientX - host.getBoundingClientRect().left), data.t);
  host.addEventListener("pointermove", (event) => { if (data.count) hover(at(event), event); });
  host.addEventListener("pointerleave", () => hover(null));
  host.addEventListener("click", (event) => { if (data.count) goTo(at(event)); });
}
for (const button of document.querySelectorAll("button[data-query]")) button.addEventListener("click", () => {
  goTo(Number(button.dataset.query));
  byId("map-title").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
  moving.focus({ preventScroll: true });
});

// --- start -----------------------------------------------------------------------------------
function refresh() {
  state.stage = document.querySelector("input[name=stage]:checked").value;
  measure();
  state.marks = findMarks(track());
  legend(); strips(); charts();
  redraw({ map: true, vehicle: true });
}
function theme() {
  readColours();
  for (const entry of [...data.map, ...data.tiles]) entry.sheet = null;
  refresh();
}
byId("controls").addEventListener("change", refresh);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
let lastWidth = 0;
new ResizeObserver(() => {
  resize();
  if (document.documentElement.clientWidth !== lastWidth) { lastWidth = document.documentElement.clientWidth; strips(); charts(); redraw({ map: true, vehicle: true }); }
}).observe(byId("frame"));
if (document.documentElement.clientWidth < 1500) byId("layers").open = false;
slider.min = data.begin; slider.max = data.end; slider.step = "any";
setSpeed(SPEEDS.find((speed) => span() / speed <= 90) || 60);
byId("total-time").textContent = clock(span());
readColours();
resize();
theme();
