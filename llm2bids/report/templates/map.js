(() => {
"use strict";
const $ = (id) => document.getElementById(id);

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents($(button.dataset.from));
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    document.execCommand("copy");
    button.textContent = "Copied";
  });
}

const source = $("map-data");
if (!source) return;
const data = JSON.parse(source.textContent);
const STEPS = 127, GAP = 6, LABEL = 13;

const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const grids = data.grids.map((text) => {
  const raw = bytes(text).buffer;
  return data.bits === 16 ? new Uint16Array(raw) : new Uint32Array(raw);
});
const sites = data.sites.map(([name, layer, role, width, headSize, first]) =>
  ({ name, layer, role, width, headSize, first }));
const pieces = data.pieces.map(([site, slice, x, y, w, h, grid]) =>
  ({ site: sites[site], slice, x, y, w, h, grid: grids[grid] }));
const bySlice = data.slices.map((_, n) => pieces.filter((piece) => piece.slice === n));
const nUnits = sites.reduce((sum, site) => sum + site.width, 0);
const byName = new Map(sites.map((site) => [site.name, site]));

for (const map of data.maps) {
  map.steps = new Int8Array(bytes(map.data).buffer);
  map.data = null;
  const counts = new Uint32Array(STEPS + 1);
  for (const step of map.steps) counts[Math.abs(step)] += 1;
  map.below = new Uint32Array(STEPS + 2);
  for (let n = 0; n <= STEPS; n += 1) map.below[n + 1] = map.below[n] + counts[n];
}
const valueOf = (map, unit) => {
  const step = map.steps[unit];
  return Math.sign(step) * (step / STEPS) ** 2 * map.limit;
};

// state ------------------------------------------------------------------------------------------
const SHARES = [100, 70, 50, 40, 30, 25, 20, 15, 10, 7, 5, 4, 3, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.3, 0.1];
let map = data.maps[0], slice = 0, held = -1, shown = -1, cutoff = 0;
let colors = new Uint8ClampedArray(4 * (2 * STEPS + 1));
let theme = {};

// colours ----------------------------------------------------------------------------------------
const rgb = (name) => {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
};
const readTheme = () => {
  for (const name of ["panel", "ink", "mute", "rule", "hot", "cold", "accent"]) {
    theme[name] = rgb(`--${name}`);
    theme[`${name}Css`] = `rgb(${theme[name].join(" ")})`;
  }
};
const fillColors = () => {
  for (let step = -STEPS; step <= STEPS; step += 1) {
    const value = (step / STEPS) ** 2 * map.limit;
    const strength = Math.abs(step) < cutoff ? 0 : Math.min(1, value / map.show) ** 0.9;
    const toward = step < 0 ? theme.cold : theme.hot;
    for (let n = 0; n < 3; n += 1) {
      colors[4 * (step + STEPS) + n] = theme.panel[n] + strength * (toward[n] - theme.panel[n]);
    }
    colors[4 * (step + STEPS) + 3] = 255;
  }
};
const css = (step) => {
  const at = 4 * (step + STEPS);
  return `rgb(${colors[at]} ${colors[at + 1]} ${colors[at + 2]})`;
};

// all slices -------------------------------------------------------------------------------------
const all = $("map-all"), one = $("map-one");
const cell = { w: data.slices[0].w + GAP, h: data.slices[0].h + GAP + LABEL };
let columns = 1, unitAt = new Int32Array(0);
const layAll = () => {
  const n = data.slices.length;
  const least = all.parentElement.clientWidth < 500 ? 84 : 70;
  columns = Math.max(1, Math.min(n, Math.floor(all.parentElement.clientWidth / least)));
  all.width = columns * cell.w;
  all.height = Math.ceil(n / columns) * cell.h;
  unitAt = new Int32Array(all.width * all.height).fill(-1);
  for (const piece of pieces) {
    const left = (piece.slice % columns) * cell.w + piece.x;
    const top = Math.floor(piece.slice / columns) * cell.h + LABEL + piece.y;
    for (let row = 0; row < piece.h; row += 1) {
      for (let column = 0; column < piece.w; column += 1) {
        const number = piece.grid[row * piece.w + column];
        if (number) {
          unitAt[(top + row) * all.width + left + column] = piece.site.first + number - 1;
        }
      }
    }
  }
};
const drawAll = () => {
  const context = all.getContext("2d");
  const image = context.createImageData(all.width, all.height);
  for (let at = 0; at < unitAt.length; at += 1) {
    if (unitAt[at] < 0) continue;
    const from = 4 * (map.steps[unitAt[at]] + STEPS);
    for (let n = 0; n < 4; n += 1) image.data[4 * at + n] = colors[from + n];
  }
  context.putImageData(image, 0, 0);
  const scale = all.width / (all.clientWidth || all.width);
  const size = Math.min(LABEL - 2, Math.max(9, 9.5 * scale));
  context.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  data.slices.forEach(({ label }, n) => {
    const left = (n % columns) * cell.w, top = Math.floor(n / columns) * cell.h;
    context.fillStyle = n === slice ? theme.accentCss : theme.muteCss;
    context.fillText(label.replace("layer ", columns * 60 > all.clientWidth ? "" : "layer "),
      left + 3, top + LABEL - 3, cell.w - 6);
    if (n === slice) {
      context.strokeStyle = theme.accentCss;
      context.lineWidth = Math.max(1.5, scale * 1.5);
      context.strokeRect(left + 1, top + 1, cell.w - 3, cell.h - 3);
    }
  });
  context.strokeStyle = theme.ruleCss;
  context.lineWidth = 1;
  for (const piece of pieces) {
    context.strokeRect((piece.slice % columns) * cell.w + piece.x - 0.5,
      Math.floor(piece.slice / columns) * cell.h + LABEL + piece.y - 0.5, piece.w + 1, piece.h + 1);
  }
  const place = placeOf(shown);
  if (place) {
    context.strokeStyle = theme.inkCss;
    context.lineWidth = Math.max(1, scale);
    context.strokeRect((place.piece.slice % columns) * cell.w + place.piece.x + place.column - 3,
      Math.floor(place.piece.slice / columns) * cell.h + LABEL + place.piece.y + place.row - 3, 7, 7);
  }
};

// one slice: panels with room for their names -----------------------------------------------------
let panels = [], zoom = 4;
const NAME = 15;
const layOne = () => {
  const width = one.parentElement.clientWidth, pad = 1;
  const ratio = window.devicePixelRatio || 1;
  const members = bySlice[slice];
  const from = Math.min(...members.map((p) => p.x)), to = Math.max(...members.map((p) => p.x + p.w));
  zoom = Math.max(1, Math.min(10, (width - 2 * pad) / (to - from)));
  const starts = [...new Set(members.map((p) => p.y))].sort((a, b) => a - b);
  const tops = new Map();
  for (const start of starts) {
    const group = members.filter((p) => p.y === start);
    const above = members.filter((p) => p.y < start && group.some((g) =>
      p.y + p.h <= start && p.x < g.x + g.w && g.x < p.x + p.w));
    const bottoms = above.map((p) => tops.get(p.y) + p.h * zoom + 7);
    tops.set(start, Math.max(0, ...bottoms) + NAME);
  }
  panels = members.map((piece) => ({ piece, left: pad + (piece.x - from) * zoom,
    top: tops.get(piece.y), w: piece.w * zoom - 2, h: piece.h * zoom }));
  const height = Math.max(...panels.map((p) => p.top + p.h)) + 3;
  one.width = Math.round(width * ratio);
  one.height = Math.round(height * ratio);
  one.style.height = `${height}px`;
  one.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
};
const drawOne = () => {
  const context = one.getContext("2d");
  context.clearRect(0, 0, one.width, one.height);
  const font = getComputedStyle(document.body).fontFamily;
  for (const { piece, left, top, w, h } of panels) {
    const stepX = w / piece.w, stepY = h / piece.h;
    for (let row = 0; row < piece.h; row += 1) {
      for (let column = 0; column < piece.w; column += 1) {
        const number = piece.grid[row * piece.w + column];
        if (!number) continue;
        context.fillStyle = css(map.steps[piece.site.first + number - 1]);
        context.fillRect(left + column * stepX, top + row * stepY, stepX + 0.35, stepY + 0.35);
      }
    }
    context.strokeStyle = theme.muteCss;
    context.lineWidth = 0.8;
    context.strokeRect(left - 0.4, top - 0.4, w + 0.8, h + 0.8);
    drawHeads(context, piece, left, top, stepX, stepY);
    context.fillStyle = theme.inkCss;
    context.font = `11px ${font}`;
    context.fillText(fitted(context, nameOf(piece.site), w), left, top - 4);
  }
  const place = placeOf(shown);
  const panel = place && panels.find((p) => p.piece === place.piece);
  if (panel) {
    const stepX = panel.w / panel.piece.w, stepY = panel.h / panel.piece.h;
    const at = [panel.left + place.column * stepX, panel.top + place.row * stepY];
    context.strokeStyle = theme.inkCss;
    context.lineWidth = 2;
    context.strokeRect(at[0] - 2, at[1] - 2, stepX + 4, stepY + 4);
  }
};
const nameOf = (site) => (site.layer === null ? site.name : site.role);
const fitted = (context, text, width) => {
  const parts = [text, text.split(".").pop()];
  for (const part of parts) if (context.measureText(part).width <= width) return part;
  let short = parts[1];
  while (short.length > 3 && context.measureText(`${short}…`).width > width) short = short.slice(0, -1);
  return `${short}…`;
};
const drawHeads = (context, piece, left, top, stepX, stepY) => {
  if (!piece.site.headSize) return;
  const head = (column, row) => {
    const number = column < piece.w && row < piece.h ? piece.grid[row * piece.w + column] : 0;
    return number ? Math.floor((number - 1) / piece.site.headSize) : -1;
  };
  context.beginPath();
  for (let row = 0; row < piece.h; row += 1) {
    for (let column = 0; column < piece.w; column += 1) {
      const own = head(column, row), x = left + (column + 1) * stepX, y = top + (row + 1) * stepY;
      if (own < 0) continue;
      if (column + 1 < piece.w && own !== head(column + 1, row)) {
        context.moveTo(x, y - stepY); context.lineTo(x, y);
      }
      if (row + 1 < piece.h && own !== head(column, row + 1)) {
        context.moveTo(x - stepX, y); context.lineTo(x, y);
      }
    }
  }
  context.strokeStyle = theme.ruleCss;
  context.lineWidth = 1;
  context.stroke();
};

// units --------------------------------------------------------------------------------------------
const siteOf = (unit) => sites.find((site) => unit >= site.first && unit < site.first + site.width);
const addressOf = (unit) => { const s = siteOf(unit); return `${s.name}[${unit - s.first}]`; };
const unitOf = (address) => {
  const match = /^(.*)\[(\d+)\]$/.exec(address.trim());
  const site = match && byName.get(match[1]);
  return site && Number(match[2]) < site.width ? site.first + Number(match[2]) : -1;
};
const placeOf = (unit) => {
  if (unit < 0) return null;
  const site = siteOf(unit);
  for (const piece of pieces) {
    if (piece.site !== site) continue;
    const at = piece.grid.indexOf(unit - site.first + 1);
    if (at >= 0) return { piece, column: at % piece.w, row: Math.floor(at / piece.w) };
  }
  return null;
};
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

// readout ------------------------------------------------------------------------------------------
const tuning = $("read-tasks");
const read = (unit) => {
  if (unit < 0) return;
  const site = siteOf(unit), index = unit - site.first, value = valueOf(map, unit);
  $("read-address").textContent = addressOf(unit);
  $("read-layer").textContent = site.layer === null ? "–" : site.layer;
  $("read-role").textContent = site.role;
  $("read-head").textContent = site.headSize ? Math.floor(index / site.headSize) : "–";
  $("read-unit").textContent = index;
  $("read-value").textContent = `${signed(value)} ${map.stat === "effect" ? "rest sd" : ""}`;
  const rank = map.below[Math.abs(map.steps[unit])] / nUnits * 100;
  $("read-rank").textContent = `${rank.toFixed(rank > 99 ? 2 : 0)} % of units`;
  const same = data.maps.filter((other) => other.stat === map.stat && other.versus === map.versus);
  const most = Math.max(...same.map((other) => Math.abs(valueOf(other, unit))), map.show);
  tuning.replaceChildren(...same.map((other) => {
    const row = document.createElement("li"), name = document.createElement("span");
    const track = document.createElement("span"), bar = document.createElement("i");
    const number = document.createElement("b"), at = valueOf(other, unit) / most * 50;
    name.textContent = other.title;
    track.className = "track";
    bar.style.left = `${50 + Math.min(0, at)}%`;
    bar.style.width = `${Math.abs(at)}%`;
    bar.style.background = other.color;
    number.textContent = signed(valueOf(other, unit));
    track.append(bar);
    row.append(name, track, number);
    return row;
  }));
};

// drawing all ---------------------------------------------------------------------------------------
let waiting = false;
const draw = () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawAll(); drawOne(); });
};
const drawKey = () => {
  const key = $("map-key"), context = key.getContext("2d"), image = context.createImageData(256, 1);
  for (let n = 0; n < 256; n += 1) {
    const value = (n - 127.5) / 127.5 * map.show;
    const step = Math.round(Math.sign(value) * Math.sqrt(Math.abs(value) / map.limit) * STEPS);
    const from = 4 * (Math.max(-STEPS, Math.min(STEPS, step)) + STEPS);
    for (let k = 0; k < 4; k += 1) image.data[4 * n + k] = colors[from + k];
  }
  context.putImageData(image, 0, 0);
  $("map-low").textContent = `−${map.show.toFixed(2)}`;
  $("map-high").textContent = `+${map.show.toFixed(2)}`;
  $("map-unit").textContent = map.unit;
};
const refresh = () => {
  const share = SHARES[Number($("map-top").value)];
  const hide = nUnits * (1 - share / 100);
  cutoff = 0;
  while (cutoff < STEPS && map.below[cutoff + 1] <= hide) cutoff += 1;
  if (share === 100) cutoff = 0;
  $("map-share").textContent = `${share} %`;
  fillColors();
  drawKey();
  read(shown);
  draw();
};
const showSlice = (n) => {
  slice = (n + data.slices.length) % data.slices.length;
  $("map-slice").textContent = data.slices[slice].label;
  layOne();
  draw();
};
const show = (unit) => {
  if (unit === shown || unit < 0) return;
  shown = unit;
  read(unit);
  draw();
};
const hold = (unit, tell = true) => {
  if (unit < 0) return;
  held = unit;
  const place = placeOf(unit);
  if (place && place.piece.slice !== slice) showSlice(place.piece.slice);
  show(unit);
  if (tell) history.replaceState(null, "", `#unit=${addressOf(unit)}`);
};

// pointer -------------------------------------------------------------------------------------------
const inAll = (event) => {
  const box = all.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * all.width);
  const y = Math.floor((event.clientY - box.top) / box.height * all.height);
  const inside = x >= 0 && y >= 0 && x < all.width && y < all.height;
  return { unit: inside ? unitAt[y * all.width + x] : -1,
    slice: Math.floor(y / cell.h) * columns + Math.floor(x / cell.w) };
};
const inOne = (event) => {
  const box = one.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  for (const { piece, left, top, w, h } of panels) {
    const column = Math.floor((x - left) / w * piece.w), row = Math.floor((y - top) / h * piece.h);
    if (column >= 0 && row >= 0 && column < piece.w && row < piece.h) {
      const number = piece.grid[row * piece.w + column];
      return number ? piece.site.first + number - 1 : -1;
    }
  }
  return -1;
};
all.addEventListener("pointermove", (event) => show(inAll(event).unit));
one.addEventListener("pointermove", (event) => show(inOne(event)));
all.addEventListener("click", (event) => {
  const found = inAll(event);
  if (found.slice < data.slices.length) showSlice(found.slice);
  hold(found.unit);
});
one.addEventListener("click", (event) => hold(inOne(event)));
for (const canvas of [all, one]) {
  canvas.addEventListener("pointerleave", () => show(held));
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const place = placeOf(held < 0 ? bySlice[slice][0].site.first : held);
    const column = place.column + move[0], row = place.row + move[1];
    if (column < 0 || row < 0 || column >= place.piece.w || row >= place.piece.h) return;
    const number = place.piece.grid[row * place.piece.w + column];
    if (number) hold(place.piece.site.first + number - 1);
  });
}

// controls ------------------------------------------------------------------------------------------
const choice = $("map-choice");
const groups = new Map();
data.maps.forEach((entry, n) => {
  const name = entry.unit + (entry.versus ? ", against other tasks" : "");
  if (!groups.has(name)) {
    const group = document.createElement("optgroup");
    group.label = name;
    groups.set(name, group);
    choice.append(group);
  }
  groups.get(name).append(new Option(entry.title, n));
});
choice.addEventListener("change", () => { map = data.maps[Number(choice.value)]; refresh(); });
$("map-top").addEventListener("input", refresh);
$("map-find").addEventListener("input", (event) => hold(unitOf(event.target.value)));
$("map-prev").addEventListener("click", () => showSlice(slice - 1));
$("map-next").addEventListener("click", () => showSlice(slice + 1));
const fromHash = () => {
  const match = /^#unit=(.+)$/.exec(decodeURIComponent(location.hash));
  const unit = match ? unitOf(match[1]) : -1;
  if (unit < 0) return;
  hold(unit, false);
  $("explore").scrollIntoView({ block: "start" });
};
addEventListener("hashchange", fromHash);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); refresh(); });
let width = 0;
new ResizeObserver(() => {
  if (all.parentElement.clientWidth === width) return;
  width = all.parentElement.clientWidth;
  layAll();
  layOne();
  draw();
}).observe(all.parentElement);

readTheme();
layAll();
const strongest = map.steps.reduce((best, step, unit) =>
  (Math.abs(step) > Math.abs(map.steps[best]) ? unit : best), 0);
showSlice(placeOf(strongest).piece.slice);
refresh();
hold(strongest, false);
fromHash();
document.documentElement.dataset.map = "ready";
})();
