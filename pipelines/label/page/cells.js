// Cells and their changes; every one goes through put, so that it can be undone.

import { $ } from "./dom.js";
import { offset, turnTo } from "./sections.js";
import { beside, byCell, inside, line, pieces, polygon } from "./shapes.js";
import { refresh } from "./show.js";
import { at, state } from "./state.js";
import { buttons, counted, markEdited, outdate } from "./status.js";

export function setCells(all, kind) {
  Object.assign(state, { all, kind, base: undefined, selected: 0, undo: [], redo: [] });
  state.stamp.fill(0);
  state.stroke = 0;
  turnTo(state.section);
  recount();
}

export function recount() {
  state.top = 0;
  if (state.classes.length) countClasses();
  else {
    const seen = new Set(state.all);
    seen.delete(0);
    state.count = seen.size;
    for (const cell of seen) if (cell > state.top) state.top = cell;
    $("cells").textContent = counted(state.count);
  }
  $("kind").textContent = state.kind + (state.edited ? " (edited)" : "");
  document.body.dataset.cells = String(state.count);
  buttons();
}

function countClasses() {
  const pixels = new Uint32Array(state.classes.length);
  for (const number of state.all) if (number < pixels.length) pixels[number] += 1;
  state.count = pixels.filter((n, number) => n && number).length;
  $("cells").textContent = "";
  document.querySelectorAll("#legend button").forEach((button, number) => {
    button.lastChild.textContent = pixels[number].toLocaleString("en");
  });
}

export function begin() {
  state.stroke += 1;
  state.record = { index: [], value: [], kind: state.kind };
  outdate();
}

// in the section that is shown
export const put = (i, cell) => putAnywhere(offset() + i, cell);

// counted over all sections, as changes are kept
export function putAnywhere(i, cell) {
  if (state.all[i] === cell) return;
  if (state.stamp[i] !== state.stroke) {
    state.stamp[i] = state.stroke;
    state.record.index.push(i);
    state.record.value.push(state.all[i]);
  }
  state.all[i] = cell;
}

// those of a change that lie in the section that is shown
function here(index) {
  if (state.sections === 1) return index;
  const first = offset(), last = first + state.cells.length;
  return index.filter((i) => i >= first && i < last).map((i) => i - first);
}

export function finish() {
  const done = state.record;
  state.record = null;
  if (!done.index.length) return false;
  state.touched += 1;
  state.undo.push(done);
  if (state.undo.length > 200) {
    const forgotten = state.undo.shift();
    if (state.base === undefined) state.base = null;
    else if (state.base === forgotten) state.base = undefined;
  }
  state.redo = [];
  refresh(here(done.index));
  recount();
  markEdited();
  return true;
}

export function change(action) {
  begin();
  action();
  return finish();
}

function swap(from, to) {
  const step = from.pop();
  if (!step) return;
  outdate();
  select(0);
  state.touched += 1;
  for (let k = 0; k < step.index.length; k += 1) {
    const i = step.index[k], now = state.all[i];
    state.all[i] = step.value[k];
    step.value[k] = now;
  }
  [state.kind, step.kind] = [step.kind, state.kind];
  to.push(step);
  const shown = here(step.index);
  if (shown.length) refresh(shown);
  else turnTo(Math.floor(step.index[0] / state.cells.length));
  recount();
  markEdited();
}

export const undo = () => swap(state.undo, state.redo);
export const redo = () => swap(state.redo, state.undo);

export function select(cell) {
  const changed = cell === state.selected ? [] : [state.selected, cell];
  state.selected = cell;
  for (const one of changed) {
    const index = [];
    if (one) state.cells.forEach((other, i) => { if (other === one) index.push(i); });
    if (index.length) refresh(index);
  }
}

// a number for a new cell
export function unused() {
  if (state.top < 2 ** 31 - 1) return state.top += 1;
  const used = new Set(state.all); // the largest number is taken: the smallest that is free
  let cell = 1;
  while (used.has(cell)) cell += 1;
  return cell;
}

export function lassoed(points) {
  change(() => {
    const drawn = state.classes.length > 0, cell = drawn ? state.label : at(points[0]) || unused();
    const free = (i) => { if (drawn || state.cells[i] === 0) put(i, cell); };
    polygon(points, state, free);
    if (!drawn) select(cell);
  });
}

// all pixels of one class that hang together with this one, in this section, get the class that is chosen
export function fillFrom(here) {
  const [x, y] = here.map(Math.floor), { cells, label, width } = state;
  if (!inside(x, y, state)) return;
  const seed = y * width + x, before = cells[seed];
  const [piece] = pieces([seed], (i) => cells[i] === before, state);
  change(() => piece.forEach((i) => put(i, label)));
}

export function splitBy(points) {
  return change(() => {
    const cut = [];
    line(points, state, (i) => { if (state.cells[i]) cut.push([state.cells[i], i]); });
    for (const [cell, pixels] of byCell(cut)) separate(cell, pixels);
  });
}

// parts that only these pixels of a cell held together become cells; of the pixels themselves those that
// are left go to a part beside them. Pieces that lay apart before remain one cell.
export function separate(cell, pixels, corners = false) {
  const { cells } = state, kept = (i) => cells[i] === cell && !pixels.has(i);
  const rim = [...pixels].flatMap((i) => [...beside(i, state, corners)]);
  if (pieces(rim, kept, state, corners).length < 2) return; // nothing is cut, as most often
  for (const piece of pieces(pixels, (i) => cells[i] === cell || pixels.has(i), state, corners)) {
    const parts = pieces(piece, kept, state, corners).sort((a, b) => b.length - a.length);
    if (parts.length < 2) continue;
    const left = new Set(piece.filter((i) => pixels.has(i) && cells[i] === cell)), names = new Map();
    const give = (i, name) => { names.set(i, name); put(i, name); };
    parts.forEach((part, k) => {
      const name = k === 0 ? cell : unused();
      for (const i of part) give(i, name);
    });
    for (let grown = true; grown && left.size;) {
      grown = false;
      for (const i of left) {
        const near = [...beside(i, state)].find((j) => names.has(j));
        if (near === undefined) continue;
        give(i, names.get(near));
        left.delete(i);
        grown = true;
      }
    }
  }
}

export function mergeAlong(points) {
  const met = [];
  line(points, state, (i) => {
    const cell = state.cells[i];
    if (cell && !met.includes(cell)) met.push(cell);
  });
  const others = new Set(met.slice(1));
  select(met[0] || 0);
  return change(() => state.all.forEach((cell, i) => { if (others.has(cell)) putAnywhere(i, met[0]); }));
}

export function clear() {
  if (!state.id) return;
  if (change(() => state.all.forEach((_, i) => putAnywhere(i, 0)))) return;
  Object.assign(state, { base: null, touched: state.touched + 1 }); // somebody says: no cell here
  recount();
  markEdited();
}

export function remove(cell) {
  if (!cell) return;
  change(() => state.all.forEach((c, i) => { if (c === cell) putAnywhere(i, 0); }));
  state.selected = 0;
}
