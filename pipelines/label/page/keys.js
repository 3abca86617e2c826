// Keys, and what can be clicked.

import { clear, redo, remove, undo } from "./cells.js";
import { follow, take } from "./classes.js";
import { $, element } from "./dom.js";
import { next, open } from "./images.js";
import { propose, proposeAnew } from "./proposals.js";
import { turnTo } from "./sections.js";
import { draw, fit, move, show, zoomAt } from "./show.js";
import { state } from "./state.js";
import { buttons, help, say } from "./status.js";
import { submit } from "./submit.js";
import { KEYS, OF_CLASSES, TOOLS } from "./tools.js";
import { back, stop, train } from "./training.js";

export function choose(tool) {
  if (state.classes.length ? !(tool in OF_CLASSES) : tool === "fill") return;
  state.tool = tool;
  document.body.dataset.tool = tool;
  say(help());
  buttons();
  draw();
}

function resize(by) {
  $("size").value = Number($("size").value) + by;
  draw();
}

function turn(by) {
  if (state.sections > 1) turnTo(state.section + by);
}

const ACTIONS = {
  "[": () => resize(-1), "]": () => resize(1), "+": () => zoomAt(1.3), "=": () => zoomAt(1.3), "-": () => zoomAt(1 / 1.3),
  f: fit, o: show, p: propose, n: next, t: train, Enter: submit, Delete: () => remove(state.selected),
  PageUp: () => turn(-1), PageDown: () => turn(1),
  Backspace: () => remove(state.selected), "?": () => $("keys").showModal(),
  ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
};
for (const [tool, [, key]] of Object.entries(TOOLS)) ACTIONS[key] = () => choose(tool);
for (let number = 0; number < 10; number += 1) ACTIONS[number] = () => take(number);
const CLICKS = { undo, redo, show, fit, next, propose, clear, submit, train, stop, back };

export function listenToKeys() {
  window.addEventListener("keydown", (event) => {
    const keys = event.key.startsWith("Arrow") ? "input" : "input:not([type=range])";
    const typing = event.target.closest(`${keys}, select, dialog, textarea`);
    if (typing || state.drawing || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      (key === "y" || event.shiftKey ? redo : undo)();
    } else if (event.key === " ") {
      event.preventDefault();
      state.space = true;
    } else if (ACTIONS[key] && !(key === "Enter" && event.target.closest("button, summary"))) {
      event.preventDefault();
      ACTIONS[key]();
    }
  });
  // what was clicked gives the focus back: Enter submits, and does not press a button again; arrows pan
  document.addEventListener("click", (event) => {
    if (event.detail) event.target.closest("button, summary, input[type=range]")?.blur();
  }, { capture: true });
  window.addEventListener("keyup", (event) => { if (event.key === " ") state.space = false; });
  window.addEventListener("blur", () => { state.space = false; }); // its keyup goes elsewhere
}

export function listenToButtons() {
  for (const [tool, [name, key]] of Object.entries(TOOLS)) {
    const button = element("button", name);
    button.dataset.tool = tool;
    button.title = key.toUpperCase();
    button.addEventListener("click", () => choose(tool));
    $("modes").append(button);
  }
  $("images").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open(button.value);
  });
  for (const [id, action] of Object.entries(CLICKS)) $(id).addEventListener("click", () => action());
  $("legend").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) take(Number(button.value));
  });
  $("section").addEventListener("input", () => { if (state.all) turnTo(Number($("section").value)); });
  $("bright").addEventListener("input", draw);
  $("bright").addEventListener("dblclick", () => { $("bright").value = 1; draw(); });
  $("help").addEventListener("click", ACTIONS["?"]);
  $("model").addEventListener("change", () => { follow(); proposeAnew(); });
  $("keys").querySelector("table").replaceChildren(...KEYS.map(([key, text]) => {
    const row = document.createElement("tr"), cell = document.createElement("td");
    cell.append(element("kbd", key));
    row.append(cell, element("td", text));
    return row;
  }));
}
