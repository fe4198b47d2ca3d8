const $ = (id) => document.getElementById(id);
const data = JSON.parse($("view-data").textContent);
const SHARES = [100, 70, 50, 40, 30, 25, 20, 15, 10, 7, 5, 4, 3, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.3, 0.1];
const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const inflate = async (text) => {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
};
const [width, height, depth] = data.shape;
const unitOfVoxel = new Int32Array(await inflate(data.units));  // -1 where no unit is; x goes fastest
const values = new Float32Array(await inflate(data.values));
const voxelOfUnit = new Int32Array(values.length);
unitOfVoxel.forEach((unit, voxel) => { if (unit >= 0) voxelOfUnit[unit] = voxel; });
const sites = data.sites.map(([name, layer, role, size, headSize, first]) =>
  ({ name, layer, role, width: size, headSize, first }));
const byName = new Map(sites.map((site) => [site.name, site]));

// units and places ---------------------------------------------------------------------------------
const siteOf = (unit) => sites.find((site) => unit >= site.first && unit < site.first + site.width);
const times = (matrix, point) => matrix.slice(0, 3).map((row) =>
  row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]);
const unitAt = (mm) => {
  const [x, y, z] = times(data.toVoxel, mm).map(Math.round);
  if (x < 0 || y < 0 || z < 0 || x >= width || y >= height || z >= depth) return -1;
  return unitOfVoxel[x + width * (y + height * z)];
};
const worldOf = (unit) => {
  const voxel = voxelOfUnit[unit];
  return times(data.toWorld, [voxel % width, Math.floor(voxel / width) % height,
    Math.floor(voxel / (width * height))]);
};
const number = (value) => (Number.isNaN(value) ? "no value"
  : `${value < 0 ? "−" : ""}${Math.abs(value).toPrecision(3)} ${data.unit}`);
const tell = (place, unit) => {
  if (unit < 0) {
    place.textContent = "no unit here: white matter or outside";
    return;
  }
  const site = siteOf(unit), index = unit - site.first, address = document.createElement("code");
  address.textContent = `${site.name}[${index}]`;
  const head = site.headSize ? `, head ${Math.floor(index / site.headSize)}` : "";
  const layer = site.layer === null ? "" : `layer ${site.layer}, `;
  place.replaceChildren(address, `  ${number(values[unit])}  (${layer}${site.role}${head})`);
};

// the viewer -----------------------------------------------------------------------------------------
const canvas = $("view");
const viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], crosshairColor: [0.42, 0.77, 0.65, 1],
  crosshairWidth: 0.5, crosshairGap: 3, heroImageFraction: 0.56, heroSliceType: niivue.SLICE_TYPE.AXIAL,
  dragAndDropEnabled: false, loadingText: "", isOrientationTextVisible: true,
  multiplanarShowRender: niivue.SHOW_RENDER.NEVER, showLegend: false, logLevel: "error" });
viewer.onLocationChange = (location) => tell($("held"), unitAt(location.mm));
await viewer.attachToCanvas(canvas);
viewer.setInterpolation(true);  // a voxel is a unit: nothing between two of them
for (const [name, [red, green, blue]] of Object.entries(data.colors)) {
  const I = [0, ...red.map((_, n) => Math.round(1 + 254 * n / (red.length - 1)))];
  viewer.addColormap(name, { R: [0, ...red], G: [0, ...green], B: [0, ...blue],
    A: I.map((n) => (n ? 255 : 0)), I });  // 0 is clear and black: the viewer mixes what lies below
}
const anatomy = await niivue.NVImage.loadFromBase64({ base64: data.anatomy, name: "anatomy.nii.gz",
  colormap: "gray", cal_min: data.window[0], cal_max: data.window[1], opacity: 0.6 });
const atlas = await niivue.NVImage.loadFromBase64({ base64: data.atlas, name: "atlas.nii.gz", opacity: 0 });
const map = await niivue.NVImage.loadFromBase64({ base64: data.map, name: "map.nii.gz",
  colormap: "above", colormapNegative: "below", cal_min: 0, cal_max: data.show });
for (const volume of [anatomy, map, atlas]) viewer.addVolume(volume);
atlas.setColormapLabel(data.labels);

// controls -------------------------------------------------------------------------------------------
const sizes = values.map(Math.abs).filter((size) => size > 0).sort();
const refresh = () => {
  const share = SHARES[Number($("top").value)];
  const cut = sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * (1 - share / 100)))] : 0;
  map.cal_min = share === 100 ? 0 : cut;
  map.cal_max = Math.max(data.show, cut * 1.001);
  const [base, other] = $("atlas").checked ? [atlas, anatomy] : [anatomy, atlas];
  base.opacity = $("atlas").checked ? 0.75 : 0.6;
  other.opacity = 0;
  viewer.setVolume(base, 0);  // below the map: as a layer of its own its background would be coloured
  viewer.setVolume(other, 2);
  viewer.opts.heroSliceType = $("solid").checked ? niivue.SLICE_TYPE.RENDER : niivue.SLICE_TYPE.AXIAL;
  $("share").textContent = `${share} %`;
  $("low").textContent = data.signed ? `−${map.cal_max.toPrecision(2)}` : map.cal_min.toPrecision(2);
  $("high").textContent = `${data.signed ? "+" : ""}${map.cal_max.toPrecision(2)}`;
  viewer.updateGLVolume();
};
const drawKey = () => {
  const context = $("key").getContext("2d"), image = context.createImageData(256, 1);
  for (let n = 0; n < 256; n += 1) {
    const at = data.signed ? (n - 127.5) / 127.5 : n / 255;
    const ramp = data.colors[at < 0 ? "below" : "above"];
    const step = Math.round(Math.abs(at) * (ramp[0].length - 1));
    image.data.set([ramp[0][step], ramp[1][step], ramp[2][step], 255], 4 * n);
  }
  context.putImageData(image, 0, 0);
};
const go = (unit) => {
  viewer.scene.crosshairPos = viewer.mm2frac(worldOf(unit));
  viewer.drawScene();
  tell($("held"), unit);
};
$("top").value = SHARES.indexOf(data.share);
for (const id of ["top", "atlas", "solid"]) $(id).addEventListener("input", refresh);
$("find").addEventListener("input", ({ target }) => {
  const match = /^(.*)\[(\d+)\]$/.exec(target.value.trim()), site = match && byName.get(match[1]);
  const known = site && Number(match[2]) < site.width;
  $("no-unit").textContent = known || !target.value.trim() ? ""
    : site ? `${site.name} has units 0 to ${site.width - 1}` : "no such unit; expected MODULE[NUMBER]";
  if (known) go(site.first + Number(match[2]));
});
canvas.addEventListener("pointermove", (event) => {
  const ratio = viewer.uiData.dpr ?? 1, box = canvas.getBoundingClientRect();
  const frac = viewer.canvasPos2frac([ratio * (event.clientX - box.left), ratio * (event.clientY - box.top)]);
  if (frac[0] < 0) $("under").textContent = "–";
  else tell($("under"), unitAt(viewer.frac2mm(frac)));
});
drawKey();
refresh();
go(values.reduce((best, value, unit) => (Math.abs(value) > Math.abs(values[best]) || Number.isNaN(values[best]) ? unit : best), 0));
document.documentElement.dataset.view = "ready";
