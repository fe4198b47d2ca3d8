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
const signed = (value) => {
  const size = Math.abs(value).toFixed(2);
  return `${Number(size) === 0 ? "" : value < 0 ? "−" : "+"}${size}`;
};

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
  const rank = (map.count - map.below[Math.abs(map.steps[unit])]) / map.count * 100;
  $("read-value").textContent = Number.isNaN(value) ? "outside the mask"
    : `${map.rough ? "≈ " : ""}${signed(value)}${map.stat === "effect" ? " rest sd" : ""}`
      + (map.passes ? `, ${passes(map, unit) ? "passes" : "does not pass"}` : "");
  $("read-rank").textContent = Number.isNaN(value) ? "–"
    : `top ${rank < 1 ? rank.toPrecision(1) : rank.toFixed(0)} %`;
  const alike = (other) => other.unit === map.unit && other.versus === map.versus;
  fill(tuning, data.maps.filter(alike), unit, (other) => other.title);
  const people = data.maps.filter((other) => other.subject && other.title === map.title);
  fill($("read-people"), people, unit, (other) => other.subject);
  $("people").hidden = !people.length;
};
const fill = (list, maps, unit, nameOfMap) => {
  const same = maps.filter((other) => other.steps[unit] !== NONE);
  const most = Math.max(...same.map((other) => Math.abs(valueOf(other, unit))), map.show);
  list.replaceChildren(...same.map((other) => {
    const row = document.createElement("li"), name = document.createElement("span");
    const track = document.createElement("span"), bar = document.createElement("i");
    const number = document.createElement("b"), at = valueOf(other, unit) / most * 50;
    name.textContent = nameOfMap(other);
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

// drawing: pictures are kept, and only the mark is drawn anew when the pointer moves ---------------
const kept = new Map([[all, document.createElement("canvas")], [one, document.createElement("canvas")]]);
let waiting = false, stale = true;
const paint = (canvas, drawIt, markIt) => {
  const context = canvas.getContext("2d"), copy = kept.get(canvas);
  const whole = (from, to) => {
    to.save();
    to.setTransform(1, 0, 0, 1, 0, 0);
    to.clearRect(0, 0, canvas.width, canvas.height);
    to.drawImage(from, 0, 0);
    to.restore();
  };
  if (stale) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    drawIt(context);
    copy.width = canvas.width;
    copy.height = canvas.height;
    whole(canvas, copy.getContext("2d"));
  } else {
    whole(copy, context);
  }
  const place = placeOf(shown);
  if (place) markIt(context, place);
};
const draw = (anew = true) => {
  stale = stale || anew;
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (stale) drawSheet();
    paint(all, drawAll, markAll);
    paint(one, drawOne, markOne);
    stale = false;
  });
};
const drawKey = () => {
  const key = $("map-key"), context = key.getContext("2d"), image = context.createImageData(256, 1);
  for (let n = 0; n < 256; n += 1) {
    const value = (n - 127.5) / 127.5 * map.show;
    const next = map.levels.findIndex((level) => level >= Math.abs(value));
    const from = 4 * (Math.sign(value) * (next < 0 ? STEPS : next) + STEPS);
    for (let k = 0; k < 4; k += 1) image.data[4 * n + k] = colors[from + k];
  }
  context.putImageData(image, 0, 0);
  $("map-low").textContent = `−${map.show.toFixed(2)}`;
  $("map-high").textContent = `+${map.show.toFixed(2)}`;
  $("map-unit").textContent = map.unit;
  $("map-level").textContent = map.level;
  for (const [id, address] of [["map-file", map.file], ["map-view", map.view]]) {
    $(id).hidden = !address;
    if (address) $(id).href = address;
  }
};
const refresh = () => {
  const share = SHARES[Number($("map-top").value)];
  const hide = map.count * (1 - share / 100);
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
  draw(false);
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
  const box = all.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  const found = Math.floor(y / grid.h) * grid.columns + Math.min(grid.columns - 1, Math.floor(x / grid.w));
  if (found < 0 || found >= data.slices.length) return { slice: -1, unit: -1 };
  const origin = inCell(found, 0, 0), corner = cornerOf(found);
  const column = Math.floor((x - origin[0]) / grid.scale), row = Math.floor((y - origin[1]) / grid.scale);
  const inside = column >= 0 && row >= 0 && column < size.w && row < size.h;
  const at = (corner[1] + row) * sheet.width + corner[0] + column;
  return { slice: found, unit: inside ? unitAt[at] : -1 };
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
let under = { slice: -1, unit: -1 };  // what the pointer was over: a click has whole pixels only
const look = (event) => {
  under = event.currentTarget === all ? inAll(event) : { slice: -1, unit: inOne(event) };
  show(under.unit);
};
for (const canvas of [all, one]) {
  canvas.addEventListener("pointermove", look);
  canvas.addEventListener("pointerdown", look);
  canvas.addEventListener("pointerleave", () => show(held));
  canvas.addEventListener("click", () => {
    if (under.slice >= 0) showSlice(under.slice);
    hold(under.unit);
  });
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
const missing = (address) => {
  const match = /^(.*?)(?:\[(.*?)\]?)?$/.exec(address.trim()), site = byName.get(match[1]);
  if (site) {
    const last = site.width - 1;
    return match[2] ? `${site.name} has units 0 to ${last}` : `which unit? ${site.name}[0] to [${last}]`;
  }
  const near = sites.filter((other) => other.name.includes(match[1])).map((other) => other.name);
  if (!near.length) return `no module is called ${match[1]}`;
  return `${near.length} modules: ${near.slice(0, 3).join(", ")}${near.length > 3 ? ", …" : ""}`;
};
const find = (address) => {
  const unit = unitOf(address);
  $("map-missing").textContent = unit < 0 && address.trim() ? missing(address) : "";
  $("map-find").setAttribute("aria-invalid", String(unit < 0 && address.trim() !== ""));
  hold(unit);
};
$("map-find").addEventListener("input", (event) => find(event.target.value));
$("map-prev").addEventListener("click", () => showSlice(slice - 1));
$("map-next").addEventListener("click", () => showSlice(slice + 1));
const fromHash = () => {
  const match = /^#unit=(.+)$/.exec(decodeURIComponent(location.hash));
  if (!match) return;
  const unit = unitOf(match[1]);
  $("map-missing").textContent = unit < 0 ? missing(match[1]) : "";
  if (unit < 0) $("map-find").value = match[1];
  hold(unit, false);
  $("explore").scrollIntoView({ block: "start" });
};
addEventListener("hashchange", fromHash);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); refresh(); });
let width = 0;
new ResizeObserver(() => {
  const room = all.parentElement.clientWidth;
  if (room === 0 || room === width) return;  // 0: hidden, as in print
  width = room;
  layAll();
  layOne();
  draw();
}).observe(all.parentElement);

readTheme();
layAll();
const strongest = map.steps.reduce((best, step, unit) =>
  (step !== NONE && !(Math.abs(step) <= Math.abs(map.steps[best])) ? unit : best), -1);
showSlice((placeOf(strongest) ?? { piece: pieces[0] }).piece.slice);
refresh();
hold(strongest, false);
fromHash();
document.documentElement.dataset.map = "ready";
