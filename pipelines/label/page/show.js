// The canvas: the image, the cells over it, zoom and place.

import { $, canvas, stage } from "./dom.js";
import { inside } from "./shapes.js";
import { at, state } from "./state.js";
import { VIEWS } from "./tools.js";

const WHITE = [255, 255, 255];
const context = canvas.getContext("2d");

function colour(cell) {
  if (cell < state.classes.length) return state.classes[cell].colour;
  const hue = (cell * 137.508) % 360, f = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.62 - 0.38 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [f(0), f(8), f(4)];
}

export function repaint(left, upper, right, lower) {
  const { width, height, cells, selected, view } = state, { data } = state.pixels;
  left = Math.max(0, left); upper = Math.max(0, upper);
  right = Math.min(width, right); lower = Math.min(height, lower);
  const known = new Map();
  for (let y = upper; y < lower; y += 1) {
    for (let x = left; x < right; x += 1) {
      const i = y * width + x, cell = cells[i];
      let opacity = 0, marked = false;
      if (cell && view !== "nothing") {
        const edge = (x > 0 && cells[i - 1] !== cell) || (x < width - 1 && cells[i + 1] !== cell)
          || (y > 0 && cells[i - width] !== cell) || (y < height - 1 && cells[i + width] !== cell);
        const inner = view === "filled" ? 70 : 0;
        marked = edge && cell === selected;
        opacity = edge ? 255 : cell === selected ? 130 : inner;
      }
      if (opacity) {
        let rgb = marked ? WHITE : known.get(cell);
        if (!rgb) known.set(cell, rgb = colour(cell));
        [data[4 * i], data[4 * i + 1], data[4 * i + 2]] = rgb;
      }
      data[4 * i + 3] = opacity;
    }
  }
  state.overlay.getContext("2d").putImageData(state.pixels, 0, 0, left, upper, right - left, lower - upper);
  draw();
}

// repaint where these pixels are
export function refresh(index) {
  if (!index.length) return;
  let left = state.width, upper = state.height, right = 0, lower = 0;
  for (const i of index) {
    const x = i % state.width, y = (i - x) / state.width;
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < upper) upper = y;
    if (y > lower) lower = y;
  }
  repaint(left - 1, upper - 1, right + 2, lower + 2);
}

// with the next frame, once however often it is asked for
export function draw() {
  if (state.due) return;
  state.due = true;
  requestAnimationFrame(() => {
    state.due = false;
    place();
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(stage.clientWidth * scale), height = Math.round(stage.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!state.picture) return;
    const zoom = state.zoom * scale;
    context.setTransform(zoom, 0, 0, zoom, state.x * scale, state.y * scale);
    context.imageSmoothingEnabled = zoom < 1;
    if ($("bright").value > 1) context.filter = `brightness(${$("bright").value})`;
    if (state.shown) context.drawImage(state.shown, 0, 0);
    context.filter = "none";
    context.drawImage(state.overlay, 0, 0);
    if (state.drawing && state.drawing.points && state.drawing.points.length) {
      context.lineWidth = 1.5 / state.zoom;
      context.strokeStyle = "#ffffff";
      context.beginPath();
      state.drawing.points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    }
    if (state.pointer && (state.tool === "brush" || state.tool === "eraser") && !state.space) {
      context.lineWidth = 1 / state.zoom;
      context.strokeStyle = "#ffffff";
      context.beginPath();
      context.arc(...point(state.pointer), Number($("size").value), 0, 2 * Math.PI);
      context.stroke();
    }
  });
}

// the next view of the cells
export function show() {
  state.view = VIEWS[(VIEWS.indexOf(state.view) + 1) % VIEWS.length];
  document.body.dataset.view = state.view;
  if (state.cells) repaint(0, 0, state.width, state.height);
}

export function fit() {
  const { clientWidth: width, clientHeight: height } = stage;
  state.zoom = 0.96 * Math.min(width / state.width, height / state.height);
  state.x = (width - state.width * state.zoom) / 2;
  state.y = (height - state.height * state.zoom) / 2;
  state.fitted = true;
  draw();
}

export function zoomAt(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const zoom = Math.min(64, Math.max(0.02, state.zoom * factor)), by = zoom / state.zoom;
  Object.assign(state, { fitted: false, zoom, x: x - (x - state.x) * by, y: y - (y - state.y) * by });
  draw();
}

export function move(x, y) {
  Object.assign(state, { fitted: false, x: state.x + x, y: state.y + y });
  draw();
}

// where in the image an event of the pointer is
export function point({ clientX, clientY }) {
  const box = canvas.getBoundingClientRect();
  return [(clientX - box.left - state.x) / state.zoom, (clientY - box.top - state.y) / state.zoom];
}

// what is under the pointer now: images, cells and zoom change without it
function place() {
  const here = state.pointer && state.cells ? point(state.pointer) : [-1, -1], [x, y] = here.map(Math.floor);
  const number = at(here), { classes, section, sections } = state;
  const named = classes.length ? classes[number]?.name ?? number : `cell ${number || "none"}`;
  const where = sections > 1 ? `${x}, ${y}, ${section}` : `${x}, ${y}`;
  $("place").textContent = inside(x, y, state) ? `${where}  ${named}` : "";
}
