// The replay: the vehicle at a time, what is believed of it, and the controls.
const slider = byId("slider"), SPEEDS = [0.5, 1, 2, 5, 10, 20, 60];
const replay = { time: data.begin, playing: false, speed: 1, follow: false, last: 0, said: null, panelAt: 0, queued: false };
const track = () => rowsOf(state.stage);
const step = () => Math.min(5, Math.max(span() / 20, 0.1));

function redraw(what) {
  Object.assign(state.changed, what);
  if (!replay.queued) { replay.queued = true; requestAnimationFrame(frame); }
}
function frame(now) {
  replay.queued = false;
  if (replay.playing) {
    const passed = Math.min(0.2, Math.max(0, (now - replay.last) / 1000));
    replay.last = now;
    replay.time = Math.min(data.end, replay.time + passed * replay.speed);
    if (replay.time >= data.end) setPlaying(false);
    follow(passed);
    state.changed.vehicle = true;
  }
  if (state.changed.map) drawMap();
  if (state.changed.vehicle || state.changed.map) { drawVehicle(); showTime(now); }
  state.changed = { map: false, vehicle: false };
  if (replay.playing) redraw({ vehicle: true });
}
// The view glides after the vehicle; with reduced motion it jumps when the vehicle leaves the middle.
function follow(passed) {
  const pose = replay.follow ? poseAt(track(), replay.time) : null;
  if (!pose) return;
  const [px, py] = toScreen(pose.x, pose.y), far = Math.max(Math.abs(px / size.w - 0.5), Math.abs(py / size.h - 0.5));
  if (far < 0.001 || (calm.matches && far < 0.3)) return;
  const share = calm.matches || far > 1 || passed === null ? 1 : 1 - Math.exp(-6 * passed);
  view.x += share * (pose.x - view.x); view.y += share * (pose.y - view.y);
  state.changed.map = true;
}
function seek(t) {
  replay.time = Math.min(data.end, Math.max(data.begin, t));
  follow(null);
  redraw({ vehicle: true });
}
function setPlaying(on) {
  if (on && replay.time >= data.end) replay.time = data.begin;
  replay.playing = on && data.count > 0;
  replay.last = performance.now();
  byId("play").classList.toggle("playing", replay.playing);
  byId("play").setAttribute("aria-label", replay.playing ? "Pause" : "Play");
  redraw({ vehicle: true });
}
function setFollow(on) {
  replay.follow = on;
  byId("follow").setAttribute("aria-pressed", String(on));
  if (!on) return;
  state.whole = false;
  view.scale = Math.max(view.scale, Math.min(size.w, size.h) / 190);
  seek(replay.time);
  redraw({ map: true });
}
function setSpeed(speed) { replay.speed = speed; byId("speed").value = String(speed); }

// --- drawing ---------------------------------------------------------------------------------
// The query whose tile and candidates are shown: the nearest one, and its tile if that is kept.
const apart = data.tiles.length > 1 ? (data.tileQuery[data.tiles.length - 1] - data.tileQuery[0]) / (data.tiles.length - 1) : 1;
function tileAt(query) {
  if (!data.tiles.length) return null;
  const tile = data.tiles[nearestRow(query, data.tileQuery)];
  return Math.abs(tile.query - query) <= Math.max(1, apart > 4 && data.tiles.length < 100 ? 1 : apart) ? tile : null;
}
// The codes of a tile's pixels as colours: unobserved, free, ground, road, and walls from faint to clear.
function paintTile(p) {
  const wall = parts(colours.wall), seen = parts(colours.seen), open = [0, 0.16, 0.26, 0.4];
  for (let i = 0; i < p.length; i += 4) {
    const code = Math.round(p[i] / 20), rgb = code > 3 ? wall : seen;
    p[i + 3] = 255 * (code > 3 ? 0.25 + 0.75 * ((code - 3) / 7) : open[code]);
    for (let k = 0; k < 3; k++) p[i + k] = rgb[k];
  }
}
function drawTile(tile, s) {
  const sheet = sheetOf(tile, paintTile, () => redraw({ vehicle: true })), i = tile.query;
  if (!sheet || !hasPose(s, i)) return;
  const [px, py] = toScreen(s.x[i], s.y[i]), side = data.tileSide * view.scale;
  ink.save();
  ink.translate(px, py);
  ink.rotate(((tile.rotation_deg - s.h[i]) * Math.PI) / 180);
  ink.imageSmoothingEnabled = side < 4 * sheet.width;
  ink.drawImage(sheet, -side / 2, -side / 2, side, side);
  ink.globalAlpha = 0.6; ink.strokeStyle = colours.wall; ink.lineWidth = 1; ink.setLineDash([4, 4]);
  ink.strokeRect(-side / 2, -side / 2, side, side);
  ink.restore();
}
// Candidates that the vehicle's own mark would hide are left out.
function drawCandidates(query, here) {
  const c = data.candidates;
  for (let k = c.each - 1; k >= 0; k--) {
    const i = query * c.each + k;
    if (c.x[i] !== c.x[i]) continue;
    const [px, py] = toScreen(c.x[i], c.y[i]);
    if (here && Math.hypot(px - here[0], py - here[1]) < 14) continue;
    const r = 5 + 7 * Math.sqrt(c.share[i]), angle = (-c.h[i] * Math.PI) / 180;
    ink.beginPath(); ink.arc(px, py, r, 0, 2 * Math.PI);
    ink.globalAlpha = 0.1 + 0.35 * c.share[i]; ink.fillStyle = colours.vehicle; ink.fill();
    ink.globalAlpha = 0.45 + 0.55 * c.share[i]; ink.strokeStyle = colours.vehicle; ink.lineWidth = 1.5;
    ink.moveTo(px + r * Math.cos(angle), py + r * Math.sin(angle)); ink.lineTo(px + (r + 7) * Math.cos(angle), py + (r + 7) * Math.sin(angle));
    ink.stroke(); ink.globalAlpha = 1;
  }
}
// The last metres, fading.
function drawTrail(s, pose) {
  const i = rowBefore(replay.time, s.t), from = rowBefore(replay.time - Math.max(10, span() / 60), s.t), cuts = 6;
  ink.strokeStyle = colours.vehicle; ink.lineWidth = 4; ink.lineCap = "round"; ink.lineJoin = "round";
  for (let k = 0; k < cuts; k++) {
    const a = from + Math.floor(((i - from) * k) / cuts), b = from + Math.floor(((i - from) * (k + 1)) / cuts);
    ink.beginPath();
    trace(ink, s, () => true, [0, 0], a, b + 1);
    if (k === cuts - 1 && hasPose(s, i)) { ink.moveTo(...toScreen(s.x[i], s.y[i])); ink.lineTo(...toScreen(pose.x, pose.y)); }
    ink.globalAlpha = (0.5 * (k + 1)) / cuts; ink.stroke();
  }
  ink.globalAlpha = 1; ink.lineCap = "butt";
}
function drawVehicle() {
  ink.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
  ink.clearRect(0, 0, size.w, size.h);
  if (!data.count) return;
  const s = track(), row = nearestRow(replay.time, s.t), query = nearestRow(replay.time, data.t), pose = poseAt(s, replay.time), tile = tileAt(query);
  if (tile && shown("tile")) drawTile(tile, stage());
  if (data.candidates && shown("candidates")) drawCandidates(query, pose && toScreen(pose.x, pose.y));
  if (data.truth && shown("truth") && hasPose(data.truth, query)) cross(data.truth.x[query] + shift()[0], data.truth.y[query] + shift()[1]);
  if (pose) {
    drawTrail(s, pose);
    ellipse(ink, s, row, pose.x, pose.y, colours.vehicle);
    const [px, py] = toScreen(pose.x, pose.y), sure = isSure(s, row);
    if (s.level[row] === s.level[row]) {
      ink.beginPath(); ink.arc(px, py, s.level[row] * view.scale, 0, 2 * Math.PI);
      ink.setLineDash([6, 5]); ink.strokeStyle = colours.vehicle; ink.lineWidth = 1.5; ink.stroke(); ink.setLineDash([]);
    }
    drawStages(query);
    ink.save();
    ink.translate(px, py);
    ink.rotate((-pose.h * Math.PI) / 180);
    ink.beginPath(); ink.moveTo(16, 0); ink.lineTo(-10, 10); ink.lineTo(-5, 0); ink.lineTo(-10, -10); ink.closePath();
    ink.lineJoin = "round"; ink.strokeStyle = colours.halo; ink.lineWidth = 5; ink.stroke();
    ink.fillStyle = sure ? colours.vehicle : colours.halo; ink.fill();
    if (!sure) { ink.strokeStyle = colours.bad; ink.lineWidth = 2.5; ink.stroke(); }
    ink.restore();
  }
  if (state.hover !== null && hasPose(stage(), state.hover)) {
    const [px, py] = toScreen(stage().x[state.hover], stage().y[state.hover]);
    ellipse(ink, stage(), state.hover, stage().x[state.hover], stage().y[state.hover], colours.ring, 0.08);
    ink.beginPath(); ink.arc(px, py, 9, 0, 2 * Math.PI); ink.strokeStyle = colours.ring; ink.lineWidth = 2; ink.stroke();
  }
}
// Where each stage believes the vehicle to be at the nearest query.
function drawStages(query) {
  if (!shown("beliefs")) return;
  for (const [name, s] of Object.entries(data.stages)) {
    if (!hasPose(s, query)) continue;
    const [px, py] = toScreen(s.x[query], s.y[query]);
    ink.beginPath(); ink.rect(px - 4, py - 4, 8, 8);
    ink.fillStyle = colours[`s-${name}`]; ink.fill(); ink.strokeStyle = colours.halo; ink.lineWidth = 1.5; ink.stroke();
  }
}
function cross(x, y) {
  const [px, py] = toScreen(x, y);
  for (const [style, width] of [[colours.halo, 4.5], [colours.truth, 2]]) {
    ink.strokeStyle = style; ink.lineWidth = width; ink.beginPath();
    ink.moveTo(px - 7, py); ink.lineTo(px + 7, py); ink.moveTo(px, py - 7); ink.lineTo(px, py + 7); ink.stroke();
  }
}

// --- the panel -------------------------------------------------------------------------------
function showTime(now) {
  const share = (replay.time - data.begin) / span();
  slider.value = String(replay.time);
  for (const head of document.querySelectorAll(".head")) {
    const host = head.parentElement;
    head.style.transform = `translateX(${host.at ? host.at(replay.time) : share * host.clientWidth}px)`;
  }
  byId("now-time").textContent = clock(replay.time - data.begin);
  if (replay.playing && now - replay.panelAt < 120) return;
  replay.panelAt = now;
  panel();
}
const COMPASS = ["east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east"];
const towards = (dx, dy) => COMPASS[((Math.round(Math.atan2(dy, dx) / (Math.PI / 4)) % 8) + 8) % 8];
function speedAt(s, row) {
  const i = Math.max(1, Math.min(row, s.t.length - 1));
  return s.t.length > 1 && !s.breaks[i] ? Math.hypot(s.x[i] - s.x[i - 1], s.y[i] - s.y[i - 1]) / (s.t[i] - s.t[i - 1]) : NaN;
}
function panel() {
  if (!data.count) { byId("now-state").textContent = "No query"; return; }
  const s = track(), row = nearestRow(replay.time, s.t), query = nearestRow(replay.time, data.t), pose = poseAt(s, replay.time);
  const sure = isSure(s, row), words = sure ? "Localized" : hasPose(s, row) ? "Not localized" : "No position", why = sure ? "" : reasonText(s, row);
  byId("now-state").textContent = words;
  byId("now-state").className = sure ? "good" : "bad";
  byId("now-why").textContent = why;
  const said = `${words}${why && `: ${why}`}`;
  slider.setAttribute("aria-valuetext", `${clock(replay.time - data.begin)} of ${clock(span())}, ${said}`);
  if (said !== replay.said) { if (replay.said !== null) byId("say").textContent = said; replay.said = said; }
  const speed = speedAt(s, row);
  const fill = {
    "now-query": `${query} · frame ${data.frame[query]}`,
    "now-error": data.truth ? metres(errors[query]) : null,
    "now-ellipse": s.long[row] === s.long[row] ? `${metres(s.long[row]).replace(/ m$/, "")} × ${metres(s.short[row])}` : "–",
    "now-level": metres(s.level[row]),
    "now-score": s.score[row] === s.score[row] ? s.score[row].toFixed(2) : "–",
    "now-heading": pose ? `${(((pose.h % 360) + 360) % 360).toFixed(1)}°` : "–",
    "now-speed": Number.isFinite(speed) ? `${(3.6 * speed).toFixed(0)} km/h` : "–",
  };
  for (const [id, text] of Object.entries(fill)) if (text !== null) byId(id).textContent = text;
  showLink(pose);
  byId("now-stages").innerHTML = Object.entries(data.stages).map(([name, one]) => {
    const there = hasPose(one, query), ok = isSure(one, query), off = data.truth ? metres(errorsAt(name, query)) : one.score[query] === one.score[query] ? one.score[query].toFixed(2) : "–";
    return `<tr class="${name === state.stage ? "final" : ""}"><th scope="row"><span class="chip" style="background:var(--s-${name})"></span>${name}</th><td class="${ok ? "good" : "bad"}">${ok ? "localized" : there ? reasonText(one, query) || "not localized" : "no position"}</td><td>${off}</td></tr>`;
  }).join("");
  showCandidates(query);
  showTile(tileAt(query));
}
// The tile as it was made: the vehicle in its middle.
function showTile(tile) {
  const canvas = byId("now-tile"), brush = canvas.getContext("2d"), sheet = tile && sheetOf(tile, paintTile, () => redraw({ vehicle: true }));
  byId("now-tile-of").textContent = tile ? `Tile of query ${tile.query}` : "No tile kept of this query";
  brush.clearRect(0, 0, 256, 256);
  if (!sheet) return;
  brush.imageSmoothingEnabled = false;
  brush.drawImage(sheet, 0, 0, 256, 256);
  brush.translate(128, 128); brush.rotate((-tile.rotation_deg * Math.PI) / 180);
  brush.beginPath(); brush.moveTo(11, 0); brush.lineTo(-7, 7); brush.lineTo(-3, 0); brush.lineTo(-7, -7); brush.closePath();
  brush.fillStyle = colours.vehicle; brush.fill();
  brush.setTransform(1, 0, 0, 1, 0, 0);
}
function errorsAt(name, i) {
  const s = data.stages[name], [bx, by] = shift();
  return Math.hypot(s.x[i] - data.truth.x[i] - bx, s.y[i] - data.truth.y[i] - by);
}
function showLink(pose) {
  const link = byId("now-link");
  link.hidden = !pose;
  if (!pose) { byId("now-degrees").textContent = "–"; return; }
  const [lat, lon] = degreesAt(pose.x, pose.y).map((v) => v.toFixed(6));
  byId("now-degrees").textContent = `${lat}, ${lon}`;
  link.href = `https://www.openstreetmap.org/?mlat=${lat}&mlon=${lon}#map=19/${lat}/${lon}`;
}
function showCandidates(query) {
  const c = data.candidates, s = stage(), rows = [];
  for (let k = 0; c && k < Math.min(c.each, 4); k++) {
    const i = query * c.each + k;
    if (c.x[i] !== c.x[i]) continue;
    const dx = c.x[i] - s.x[query], dy = c.y[i] - s.y[query], gap = Math.hypot(dx, dy), share = 100 * c.share[i];
    const where = gap !== gap ? "" : gap < 2 ? "here" : `${metres(gap)} ${towards(dx, dy)}`;
    rows.push(`<li><span class="bar" style="width:${Math.max(share, 1).toFixed(0)}%"></span><span>${share.toFixed(share < 10 ? 1 : 0)} %</span><span>${where}</span></li>`);
  }
  byId("now-candidates").innerHTML = rows.join("") || "<li>none</li>";
}
