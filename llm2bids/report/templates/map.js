const source = $("map-data");
if (!source) return;
const data = JSON.parse(source.textContent);
const STEPS = 127, NONE = -128, GAP = 7, LABEL = 15;

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
const byName = new Map(sites.map((site) => [site.name, site]));

const inflate = async (text) => {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
};
for (const map of data.maps) {
  map.steps = "like" in map ? data.maps[map.like].steps : new Int8Array(await inflate(map.data));
  map.data = null;
  if (map.passes) map.passes = new Uint8Array(await inflate(map.passes));
  const counts = new Uint32Array(STEPS + 1);
  for (const step of map.steps) if (step >= -STEPS) counts[Math.abs(step)] += 1;
  map.below = new Uint32Array(STEPS + 2);
  for (let n = 0; n <= STEPS; n += 1) map.below[n + 1] = map.below[n] + counts[n];
  map.count = map.below[STEPS + 1];
}
const passes = (map, unit) => !map.passes || (map.passes[unit >> 3] >> (unit & 7) & 1) === 1;
const drawn = (map, unit) => (passes(map, unit) ? map.steps[unit] : 0);
for (const map of data.maps) {
  map.levels ??= Array.from({ length: STEPS + 1 }, (_, n) => (n / STEPS) ** 2 * map.limit);
}
const valueOf = (map, unit) => {
  const step = map.steps[unit];
  return step === NONE ? NaN : Math.sign(step) * map.levels[Math.abs(step)];
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
    const value = map.levels[Math.abs(step)];
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

// all slices: a sheet with one pixel a unit, and the sheet's slices drawn side by side ------------
const all = $("map-all"), one = $("map-one");
const size = data.slices[0], sheet = document.createElement("canvas");
const grid = { columns: 1, scale: 1, w: 0, h: 0, width: 0 };
const sheetColumns = Math.ceil(Math.sqrt(data.slices.length));
sheet.width = sheetColumns * size.w;
sheet.height = Math.ceil(data.slices.length / sheetColumns) * size.h;
const unitAt = new Int32Array(sheet.width * sheet.height).fill(-1);
const cornerOf = (n) => [(n % sheetColumns) * size.w, Math.floor(n / sheetColumns) * size.h];
for (const piece of pieces) {
  const [left, top] = cornerOf(piece.slice);
  piece.grid.forEach((number, at) => {
    const x = left + piece.x + at % piece.w, y = top + piece.y + Math.floor(at / piece.w);
    if (number) unitAt[y * sheet.width + x] = piece.site.first + number - 1;
  });
}
const drawSheet = () => {
  const context = sheet.getContext("2d");
  const image = context.createImageData(sheet.width, sheet.height);
  for (let at = 0; at < unitAt.length; at += 1) {
    if (unitAt[at] < 0 || map.steps[unitAt[at]] === NONE) continue;
    const from = 4 * (drawn(map, unitAt[at]) + STEPS);
    for (let n = 0; n < 4; n += 1) image.data[4 * at + n] = colors[from + n];
  }
  context.putImageData(image, 0, 0);
};
const fit = (canvas, width, height) => {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
};
const layAll = () => {
  const room = all.parentElement.clientWidth, n = data.slices.length;
  grid.columns = Math.max(1, Math.min(n, Math.floor(room / (room < 500 ? 82 : 108))));
  grid.scale = Math.min(5, (room / grid.columns - GAP) / size.w);
  grid.w = size.w * grid.scale + GAP;
  grid.h = size.h * grid.scale + GAP + LABEL;
  fit(all, grid.columns * grid.w, Math.ceil(n / grid.columns) * grid.h);
};
const drawAll = (context) => {
  const font = getComputedStyle(document.body).fontFamily;
  context.imageSmoothingEnabled = grid.scale < 1;
  data.slices.forEach(({ label }, n) => {
    const left = (n % grid.columns) * grid.w + GAP / 2, top = Math.floor(n / grid.columns) * grid.h;
    const short = label.replace(/^layer /, "");
    context.font = `${n === slice ? "600 " : ""}10.5px ${font}`;
    context.fillStyle = n === slice ? theme.accentCss : theme.muteCss;
    context.fillText(fitted(context, grid.w > 70 ? label : short, grid.w - GAP), left, top + LABEL - 4);
    context.drawImage(sheet, ...cornerOf(n), size.w, size.h, left, top + LABEL,
      size.w * grid.scale, size.h * grid.scale);
  });
  context.strokeStyle = theme.ruleCss;
  context.lineWidth = 0.7;
  for (const piece of pieces) {
    const [x, y] = inCell(piece.slice, piece.x, piece.y);
    context.strokeRect(x, y, piece.w * grid.scale, piece.h * grid.scale);
  }
  const [x, y] = inCell(slice, 0, 0);
  context.strokeStyle = theme.accentCss;
  context.lineWidth = 1.5;
  context.strokeRect(x - 2, y - 2, size.w * grid.scale + 4, size.h * grid.scale + 4);
};
const inCell = (n, x, y) => [(n % grid.columns) * grid.w + GAP / 2 + x * grid.scale,
  Math.floor(n / grid.columns) * grid.h + LABEL + y * grid.scale];
const markAll = (context, place) => {
  const [x, y] = inCell(place.piece.slice, place.piece.x + place.column + 0.5,
    place.piece.y + place.row + 0.5);
  context.strokeStyle = theme.inkCss;
  context.lineWidth = 1.5;
  context.strokeRect(x - 4, y - 4, 8, 8);
};

// one slice: panels with room for their names -----------------------------------------------------
let panels = [], zoom = 4;
const NAME = 15;
const layOne = () => {
  const width = one.parentElement.clientWidth, pad = 1;
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
  fit(one, width, Math.max(...panels.map((p) => p.top + p.h)) + 3);
};
const drawOne = (context) => {
  const font = getComputedStyle(document.body).fontFamily;
  for (const { piece, left, top, w, h } of panels) {
    const stepX = w / piece.w, stepY = h / piece.h;
    for (let row = 0; row < piece.h; row += 1) {
      for (let column = 0; column < piece.w; column += 1) {
        const number = piece.grid[row * piece.w + column];
        if (!number || map.steps[piece.site.first + number - 1] === NONE) continue;
        context.fillStyle = css(drawn(map, piece.site.first + number - 1));
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
};
const markOne = (context, place) => {
  const panel = panels.find((p) => p.piece === place.piece);
  if (!panel) return;
  const stepX = panel.w / panel.piece.w, stepY = panel.h / panel.piece.h;
  const at = [panel.left + place.column * stepX, panel.top + place.row * stepY];
  context.strokeStyle = theme.inkCss;
  context.lineWidth = 2;
  context.strokeRect(at[0] - 2, at[1] - 2, stepX + 4, stepY + 4);
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
