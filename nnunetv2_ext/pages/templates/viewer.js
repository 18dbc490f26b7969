"use strict";
// The page of nnUNetv2_ext_view: three planes of a scan with label maps over it, drawn on canvas 2D.
// Arrays run (z, y, x) from the patient's head to the feet, from front to back, and from right to left, so that every
// plane is drawn as its rows and columns come: head and front above, the patient's right on the left.

const scene = JSON.parse(document.getElementById("scene").textContent);
const PLANES = [
  { name: "axial", axis: 0, rows: 1, columns: 2, letters: "ARPL" },
  { name: "coronal", axis: 1, rows: 0, columns: 2, letters: "SRIL" },
  { name: "sagittal", axis: 2, rows: 0, columns: 1, letters: "SAIP" },
];
const [DEPTH, HEIGHT, WIDTH] = scene.shape;
const STRIDES = [HEIGHT * WIDTH, WIDTH, 1];

const state = {
  at: scene.start.slice(),
  low: scene.windows[0].low,
  high: scene.windows[0].high,
  opacity: 0.5,
  shown: true,
  mode: "first",
  hidden: new Set(),
  plane: 0,
};
let image = null;
let maps = [];
let views = [];
let scheduled = false;

// ---- data ----------------------------------------------------------------------------------------------------------

async function bytesOf(name) {
  const inside = document.getElementById(`data-${name}`);
  let stream;
  if (inside) {
    const text = atob(inside.textContent.trim());
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    inside.remove();
    stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`the program that serves this page answers ${answer.status}; start it again`);
  return answer.arrayBuffer();
}

async function load() {
  image = new Int16Array(await bytesOf("image"));
  for (const map of scene.maps) {
    const bytes = await bytesOf(map.source);
    maps.push(map.bytes === 1 ? new Uint8Array(bytes) : new Uint16Array(bytes));
  }
  if ([image, ...maps].some((array) => array.length !== DEPTH * HEIGHT * WIDTH)) throw new Error("voxels are missing");
}

const offset = (at) => at[0] * STRIDES[0] + at[1] * STRIDES[1] + at[2];
const transformed = (matrix, at) => matrix.map((row) => row[0] * at[2] + row[1] * at[1] + row[2] * at[0] + row[3]);

// ---- drawing -------------------------------------------------------------------------------------------------------

const greys = new Uint8Array(65536);
const colours = new Uint8Array(65536 * 3);
const visible = new Uint8Array(65536);

function fillTables() {
  const width = Math.max(state.high - state.low, 1e-6);
  for (let stored = -32768; stored < 32768; stored++) {
    const value = stored * scene.slope + scene.intercept;
    greys[stored & 0xffff] = Math.max(0, Math.min(255, Math.round((255 * (value - state.low)) / width)));
  }
  visible.fill(0);
  for (const one of scene.classes) {
    colours.set(one.colour, one.value * 3);
    visible[one.value] = state.shown && !state.hidden.has(one.value) ? 1 : 0;
  }
}

function labelAt(view, index) {
  if (state.mode !== "difference") return maps[view.map] ? maps[view.map][index] : 0;
  const first = maps[0][index];
  const second = maps[1][index];
  return first === second ? 0 : first || second;
}

function draw(view) {
  const { plane, context, pixels } = view;
  const rows = scene.shape[plane.rows];
  const columns = scene.shape[plane.columns];
  const alpha = state.opacity;
  const data = pixels.data;
  let index = state.at[plane.axis] * STRIDES[plane.axis];
  let byte = 0;
  for (let row = 0; row < rows; row++) {
    let position = index + row * STRIDES[plane.rows];
    for (let column = 0; column < columns; column++) {
      const grey = greys[image[position] & 0xffff];
      const label = labelAt(view, position);
      if (label && visible[label]) {
        for (let part = 0; part < 3; part++) {
          data[byte + part] = grey * (1 - alpha) + colours[label * 3 + part] * alpha;
        }
      } else {
        data[byte] = data[byte + 1] = data[byte + 2] = grey;
      }
      data[byte + 3] = 255;
      byte += 4;
      position += STRIDES[plane.columns];
    }
  }
  context.putImageData(pixels, 0, 0);
  view.across.style.top = `${((state.at[plane.rows] + 0.5) / rows) * 100}%`;
  view.down.style.left = `${((state.at[plane.columns] + 0.5) / columns) * 100}%`;
  view.caption.textContent = `${view.title} ${state.at[plane.axis] + 1}/${scene.shape[plane.axis]}`;
}

function redraw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    fillTables();
    views.forEach(draw);
    tellClassOf(state.at);
  });
}

function element(tag, properties, parent) {
  const made = Object.assign(document.createElement(tag), properties);
  if (parent) parent.append(made);
  return made;
}

function buildViews() {
  const planes = document.getElementById("planes");
  planes.replaceChildren();
  const shown = state.mode === "both" ? [0, 1] : [state.mode === "second" ? 1 : 0];
  views = shown.flatMap((map) => PLANES.map((plane) => buildView(plane, map, planes)));
  redraw();
}

function buildView(plane, map, parent) {
  const rows = scene.shape[plane.rows];
  const columns = scene.shape[plane.columns];
  const figure = element("figure", { tabIndex: 0 }, parent);
  const frame = element("div", { className: "frame" }, figure);
  const canvas = element("canvas", { width: columns, height: rows }, frame);
  const high = rows * scene.spacing[plane.rows];
  const wide = columns * scene.spacing[plane.columns];
  frame.style.aspectRatio = `${wide} / ${high}`;
  frame.style.maxWidth = `calc(70vh * ${wide / high})`;
  const view = { plane, map, context: canvas.getContext("2d"), title: plane.name };
  if (state.mode === "both") view.title = `${scene.maps[map].name}: ${plane.name}`;
  if (state.mode === "difference") view.title = `difference: ${plane.name}`;
  view.pixels = view.context.createImageData(columns, rows);
  view.across = element("div", { className: "across" }, frame);
  view.down = element("div", { className: "down" }, frame);
  ["top", "left", "bottom", "right"].forEach((side, i) =>
    element("span", { className: `letter ${side}`, textContent: plane.letters[i] }, frame),
  );
  view.caption = element("figcaption", {}, figure);
  const voxelUnder = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = state.at.slice();
    const inside = (part, size) => Math.max(0, Math.min(size - 1, Math.floor(part * size)));
    at[plane.rows] = inside((event.clientY - box.top) / box.height, rows);
    at[plane.columns] = inside((event.clientX - box.left) / box.width, columns);
    return at;
  };
  frame.addEventListener("pointermove", (event) => {
    const at = voxelUnder(event);
    if (event.buttons === 1) goTo(at);
    else tellClassOf(at);
  });
  frame.addEventListener("pointerdown", (event) => goTo(voxelUnder(event)));
  frame.addEventListener("pointerleave", () => tellClassOf(state.at));
  figure.addEventListener("focus", () => (state.plane = plane.axis));
  figure.addEventListener("pointerenter", () => (state.plane = plane.axis));
  frame.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      step(plane.axis, Math.sign(event.deltaY));
    },
    { passive: false },
  );
  return view;
}

// ---- moving about --------------------------------------------------------------------------------------------------

function goTo(at) {
  state.at = at.map((value, axis) => Math.max(0, Math.min(scene.shape[axis] - 1, value)));
  redraw();
}

function step(axis, by) {
  const at = state.at.slice();
  at[axis] += by;
  goTo(at);
}

function nameOf(value) {
  if (!value) return "background";
  const found = scene.classes.find((one) => one.value === value);
  return found ? found.name : String(value);
}

function tellClassOf(at) {
  const index = offset(at);
  const voxel = transformed(scene.to_file, at).map(Math.round).join(", ");
  const mm = transformed(scene.to_patient, at);
  const place = ["RL", "AP", "SI"].map((ends, i) => `${ends[mm[i] < 0 ? 1 : 0]} ${Math.abs(mm[i]).toFixed(1)}`);
  const value = image[index] * scene.slope + scene.intercept;
  const intensity = Number.isInteger(value) ? value : value.toPrecision(5);
  const names = maps.map((map) => nameOf(map[index])).join(" | ");
  document.getElementById("readout").textContent =
    `voxel (${voxel}) · ${place.join(", ")} mm · intensity ${intensity} · ${names || "no labels"}`;
}

// ---- controls ------------------------------------------------------------------------------------------------------

function listClasses() {
  const list = document.getElementById("classes");
  for (const one of scene.classes) {
    const row = element("li", {}, list);
    const label = element("label", {}, row);
    const box = element("input", { type: "checkbox", checked: true }, label);
    const colour = element("span", { className: "colour" }, label);
    colour.style.background = `rgb(${one.colour.join(",")})`;
    element("span", { className: "name", textContent: one.name }, label);
    element("span", { className: "ml", textContent: one.ml.map((ml) => ml.toFixed(1)).join(" | ") }, row);
    const jump = element("button", { type: "button", textContent: "go", title: `Go to ${one.name}` }, row);
    jump.disabled = !one.at;
    jump.addEventListener("click", () => goTo(one.at));
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(one.value);
      else state.hidden.add(one.value);
      redraw();
    });
    row.dataset.name = one.name.toLowerCase();
  }
  document.getElementById("search").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of list.children) row.hidden = !row.dataset.name.includes(wanted);
  });
  for (const [id, checked] of [["all", true], ["none", false]]) {
    document.getElementById(id).addEventListener("click", () => {
      for (const row of list.children) {
        const box = row.querySelector("input");
        if (!row.hidden && box.checked !== checked) box.click();
      }
    });
  }
}

function connectControls() {
  const low = document.getElementById("low");
  const high = document.getElementById("high");
  const preset = document.getElementById("preset");
  const show = () => {
    low.value = +state.low.toPrecision(6);
    high.value = +state.high.toPrecision(6);
    redraw();
  };
  scene.windows.forEach((window, i) => element("option", { value: i, textContent: window.name }, preset));
  preset.addEventListener("change", () => {
    state.low = scene.windows[preset.value].low;
    state.high = scene.windows[preset.value].high;
    show();
  });
  for (const [input, name] of [[low, "low"], [high, "high"]]) {
    input.addEventListener("change", () => {
      if (input.value !== "") state[name] = Number(input.value);
      show();
    });
  }
  document.getElementById("opacity").addEventListener("input", (event) => {
    state.opacity = event.target.value / 100;
    redraw();
  });
  const mode = document.getElementById("mode");
  if (mode) {
    mode.addEventListener("change", () => {
      state.mode = mode.value;
      buildViews();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select")) return;
    const steps = { ArrowUp: -1, ArrowLeft: -1, PageUp: -10, ArrowDown: 1, ArrowRight: 1, PageDown: 10 };
    if (event.key in steps) {
      event.preventDefault();
      step(state.plane, steps[event.key]);
    } else if (event.key === "l") {
      state.shown = !state.shown;
      redraw();
    } else if (event.key === "x") {
      document.getElementById("planes").classList.toggle("plain");
    } else if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search").focus();
    }
  });
  show();
}

load()
  .then(() => {
    listClasses();
    connectControls();
    buildViews();
    document.body.dataset.ready = "yes";
  })
  .catch((error) => {
    document.getElementById("readout").textContent = `This page cannot show the scan: ${error.message}.`;
    document.body.dataset.ready = "no";
  });
