"use strict";
// The radiograph on a canvas: window, invert, zoom and drag, the map of any label and layer over it, and the region.
const INFERNO = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const LONGEST = 1536;
const viewer = document.getElementById("viewer");
const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d");
const control = (name) => document.getElementById(name);
const film = { width: Number(viewer.dataset.width), height: Number(viewer.dataset.height) };
const region = viewer.dataset.region?.split(",").map(Number);
const view = { zoom: 1, x: film.width / 2, y: film.height / 2, inverted: false, region: true };
const grey = document.createElement("canvas");
let source, heat, covers, frame = 0;

function load(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = address;
  });
}

function readFilm(image) {
  const shrink = Math.min(1, LONGEST / Math.max(image.width, image.height));
  grey.width = Math.round(image.width * shrink);
  grey.height = Math.round(image.height * shrink);
  const reader = grey.getContext("2d", { willReadFrequently: true });
  reader.drawImage(image, 0, 0, grey.width, grey.height);
  source = reader.getImageData(0, 0, grey.width, grey.height);
}

// Brightness moves the centre of the window, contrast narrows it; both stand in the middle for the film as decoded.
function applyWindow() {
  const centre = 0.5 + (50 - Number(control("level").value)) / 100;
  const width = Math.pow(4, (50 - Number(control("window").value)) / 50);
  const table = new Uint8ClampedArray(256);
  for (let value = 0; value < 256; value++) {
    const share = (value / 255 - centre) / width + 0.5;
    table[value] = 255 * (view.inverted ? 1 - share : share);
  }
  const output = new ImageData(source.width, source.height);
  for (let at = 0; at < output.data.length; at += 4) {
    output.data[at] = output.data[at + 1] = output.data[at + 2] = table[source.data[at]];
    output.data[at + 3] = 255;
  }
  grey.getContext("2d").putImageData(output, 0, 0);
}

function colour(share) {
  const place = share * (INFERNO.length - 1);
  const low = Math.min(Math.floor(place), INFERNO.length - 2);
  return [0, 1, 2].map((part) => INFERNO[low][part] + (place - low) * (INFERNO[low + 1][part] - INFERNO[low][part]));
}

// Bilinear between the cells' centres, as pixels of the cell grid times eight; the map's own height fades it.
function paintMap(values) {
  const rows = values.length, columns = values[0].length, fine = 8;
  const peak = Math.max(1e-12, ...values.map((row) => Math.max(...row)));
  const at = (row, column) => Math.max(0, values[Math.max(0, Math.min(rows - 1, row))][Math.max(0, Math.min(columns - 1, column))]) / peak;
  const picture = new ImageData(columns * fine, rows * fine);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < picture.width; x++) {
      const row = (y + 0.5) / fine - 0.5, column = (x + 0.5) / fine - 0.5;
      const top = Math.floor(row), left = Math.floor(column), v = row - top, u = column - left;
      const share = (1 - v) * ((1 - u) * at(top, left) + u * at(top, left + 1)) + v * ((1 - u) * at(top + 1, left) + u * at(top + 1, left + 1));
      picture.data.set([...colour(share), 255 * Math.sqrt(share)], 4 * (y * picture.width + x));
    }
  }
  heat = document.createElement("canvas");
  heat.width = picture.width;
  heat.height = picture.height;
  heat.getContext("2d").putImageData(picture, 0, 0);
}

// The maps of labels that were not explained are made on demand, which takes a moment; the latest choice counts.
async function showMap() {
  const name = control("map").value, label = control("label").value, status = control("map-status");
  const isCurrent = () => name === control("map").value && label === control("label").value;
  status.textContent = label === viewer.dataset.explained ? "" : "Making the map…";
  const answer = await fetch(`${viewer.dataset.maps}${encodeURIComponent(name)}?label=${encodeURIComponent(label)}`);
  if (!isCurrent()) return;
  if (!answer.ok) {
    status.textContent = (await answer.json()).detail;
    return;
  }
  const map = await answer.json();
  status.textContent = "";
  covers = map.covers;
  paintMap(map.values);
  Object.assign(canvas.dataset, { map: name, label });
  redraw();
}

function scale() {
  return view.zoom * Math.min(canvas.width / film.width, canvas.height / film.height);
}

function draw() {
  frame = 0;
  const pixels = canvas.getBoundingClientRect().width * window.devicePixelRatio;
  if (pixels && Math.abs(canvas.width - pixels) > 1) canvas.width = canvas.height = Math.round(pixels);
  const size = scale();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(size, 0, 0, size, canvas.width / 2 - view.x * size, canvas.height / 2 - view.y * size);
  context.imageSmoothingEnabled = size * film.width / grey.width < 3;
  context.drawImage(grey, 0, 0, film.width, film.height);
  if (heat) {
    context.imageSmoothingEnabled = true;
    context.globalAlpha = Number(control("opacity").value) / 100;
    context.drawImage(heat, covers.x, covers.y, covers.width, covers.height);
    context.globalAlpha = 1;
  }
  if (region && view.region) outline(size);
}

function outline(size) {
  const line = 2.5 * window.devicePixelRatio / size;
  context.lineWidth = line;
  context.strokeStyle = "#00e5ff";
  context.strokeRect(region[0] - line / 2, region[1] - line / 2, region[2] + line, region[3] + line);
}

function redraw() {
  if (!frame) frame = requestAnimationFrame(draw);
}

function zoomAt(factor, x = view.x, y = view.y) {
  const zoom = Math.max(1, Math.min(40, view.zoom * factor));
  view.x = x + (view.x - x) * (view.zoom / zoom);
  view.y = y + (view.y - y) * (view.zoom / zoom);
  view.zoom = zoom;
  keepInside();
}

function keepInside() {
  for (const [axis, side] of [["x", film.width], ["y", film.height]]) {
    const half = side / (2 * view.zoom);
    view[axis] = Math.max(half, Math.min(side - half, view[axis]));
  }
  redraw();
}

function toRegion() {
  if (!region) return;
  view.zoom = Math.max(1, Math.min(40, 0.25 * Math.min(film.width / region[2], film.height / region[3])));
  view.x = region[0] + region[2] / 2;
  view.y = region[1] + region[3] / 2;
  keepInside();
}

function reset() {
  Object.assign(view, { zoom: 1, inverted: false });
  for (const name of ["level", "window"]) control(name).value = 50;
  control("invert").setAttribute("aria-pressed", "false");
  applyWindow();
  keepInside();
}

function toggle(name, field, then) {
  view[field] = !view[field];
  control(name)?.setAttribute("aria-pressed", String(view[field]));
  then();
}

const invert = () => toggle("invert", "inverted", () => { applyWindow(); redraw(); });
const showRegion = () => toggle("region", "region", redraw);

function dragFrom(start) {
  canvas.setPointerCapture(start.pointerId);
  let last = start;
  const drag = (event) => {
    const size = scale() / window.devicePixelRatio;
    view.x -= (event.clientX - last.clientX) / size;
    view.y -= (event.clientY - last.clientY) / size;
    last = event;
    keepInside();
  };
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("pointerup", () => canvas.removeEventListener("pointermove", drag), { once: true });
}

function pan(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  view.x += (step[0] * film.width) / (10 * view.zoom);
  view.y += (step[1] * film.height) / (10 * view.zoom);
  keepInside();
}

function wheel(event) {
  event.preventDefault();
  const box = canvas.getBoundingClientRect(), size = scale() / window.devicePixelRatio;
  const x = view.x + (event.clientX - box.left - box.width / 2) / size;
  const y = view.y + (event.clientY - box.top - box.height / 2) / size;
  zoomAt(Math.exp(-event.deltaY / 400), x, y);
}

function connect() {
  for (const name of ["level", "window"]) control(name).addEventListener("input", () => { applyWindow(); redraw(); });
  control("opacity").addEventListener("input", redraw);
  for (const name of ["map", "label"]) control(name).addEventListener("change", showMap);
  control("invert").addEventListener("click", invert);
  control("region")?.addEventListener("click", showRegion);
  control("to-region")?.addEventListener("click", toRegion);
  control("zoom-in").addEventListener("click", () => zoomAt(1.5));
  control("zoom-out").addEventListener("click", () => zoomAt(1 / 1.5));
  control("reset").addEventListener("click", reset);
  canvas.addEventListener("pointerdown", dragFrom);
  canvas.addEventListener("keydown", pan);
  canvas.addEventListener("wheel", wheel, { passive: false });
  new ResizeObserver(redraw).observe(canvas);
}

const press = (value) => document.querySelector(`#review-form button[value=${value}]`)?.click();
const follow = (name) => control(name)?.click();
const keys = {
  j: () => follow("after"), k: () => follow("before"), i: invert, r: showRegion, z: toRegion, 0: reset,
  "+": () => zoomAt(1.5), "=": () => zoomAt(1.5), "-": () => zoomAt(1 / 1.5),
  1: () => press("confirm"), 2: () => press("dismiss"), 3: () => press("refer"),
  t: () => document.querySelector(".for-whom button[value=take]")?.click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = keys[event.key];
  if (!action || !(source || "jk123t".includes(event.key))) return;
  event.preventDefault();
  if (!"123t".includes(event.key) || isDeliberate(event)) action();
});

async function start() {
  readFilm(await load(viewer.dataset.radiograph));
  applyWindow();
  control("drawn").hidden = true;
  canvas.hidden = false;
  viewer.classList.add("live");
  shownAt = performance.now();
  connect();
  redraw();
  await showMap();
}

start();
