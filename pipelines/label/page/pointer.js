// What the pointer does on the canvas.

import { begin, fillFrom, finish, lassoed, mergeAlong, put, select, separate, splitBy, unused } from "./cells.js";
import { $, canvas } from "./dom.js";
import { offset } from "./sections.js";
import { byCell, swept } from "./shapes.js";
import { draw, move, point, repaint, zoomAt } from "./show.js";
import { at, state } from "./state.js";
import { say } from "./status.js";

function stroke(from, to) {
  const radius = Number($("size").value), reach = Math.ceil(radius) + 2, [x1, y1] = from, [x2, y2] = to;
  swept(from, to, radius, state, state.drawing.act);
  repaint(Math.floor(Math.min(x1, x2)) - reach, Math.floor(Math.min(y1, y2)) - reach,
    Math.ceil(Math.max(x1, x2)) + reach, Math.ceil(Math.max(y1, y2)) + reach);
}

function press(event) {
  if (!state.picture || state.drawing) return;
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  const here = point(event), pan = state.space || state.tool === "pan" || event.button === 1;
  if (pan) state.drawing = { pan: [event.clientX, event.clientY] };
  else if (event.button !== 0) return;
  else if (state.tool === "brush" || state.tool === "eraser") {
    begin();
    const drawn = state.classes.length > 0, number = () => (drawn ? state.label : at(here) || unused());
    const cell = state.tool === "eraser" ? 0 : number();
    const act = cell && !drawn ? (i) => { if (state.cells[i] === 0) put(i, cell); } : (i) => put(i, cell);
    state.drawing = { act, last: here, erases: !cell && !drawn };
    if (cell && !drawn) select(cell);
    stroke(here, here);
  } else if (state.tool === "fill") {
    fillFrom(here);
  } else if (state.tool === "select") {
    select(at(here));
  } else state.drawing = { points: [here] };
}

function drag(event) {
  const here = point(event);
  state.pointer = { clientX: event.clientX, clientY: event.clientY };
  if (state.drawing && state.drawing.pan) {
    move(event.clientX - state.drawing.pan[0], event.clientY - state.drawing.pan[1]);
    state.drawing.pan = [event.clientX, event.clientY];
  } else if (state.drawing && state.drawing.act) {
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      stroke(state.drawing.last, point(part));
      state.drawing.last = point(part);
    }
    stroke(state.drawing.last, here);
    state.drawing.last = here;
  } else if (state.drawing && state.drawing.points) state.drawing.points.push(here);
  draw();
}

function release() {
  const done = state.drawing;
  state.drawing = null;
  if (done && done.act) {
    const gone = done.erases ? byCell(state.record.value.map((cell, k) => [cell, state.record.index[k] - offset()])) : [];
    for (const [cell, pixels] of gone) separate(cell, pixels, true);
    finish();
  }
  else if (done && done.points) {
    if (state.tool === "lasso" && done.points.length > 2) lassoed(done.points);
    if (state.tool === "split") {
      say(splitBy(done.points) ? "" : "nothing is split: draw across a cell, from side to side");
    }
    if (state.tool === "merge") {
      say(mergeAlong(done.points) ? "" : "nothing is merged: draw from one cell over others");
    }
  }
  draw();
}

export function listenToPointer() {
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { state.pointer = null; draw(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoomAt(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
}
