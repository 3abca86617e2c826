// What the page says: the line at the bottom, dialogs, and which buttons can be pressed.

import { $ } from "./dom.js";
import { state } from "./state.js";
import { OF_CLASSES, TOOLS } from "./tools.js";

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

export const counted = (n) => `${n} ${n === 1 ? "cell" : "cells"}`;

export const help = () => {
  const [name, , ofCells] = TOOLS[state.tool];
  return `${name}: ${state.classes.length ? OF_CLASSES[state.tool] : ofCells}`;
};

// what was said of the cells does not hold any more
export function outdate() {
  if (!state.busy && $("status").textContent !== help()) say("");
}

// what is answered in a dialog: the value of the button, nothing for Escape
export async function choice(id, text) {
  const dialog = $(id);
  if (text) dialog.querySelector("p").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue;
}

// run something that takes a moment, and say what went wrong
export async function working(text, action) {
  say(text);
  if (!state.busy) state.refused = false; // somebody does something: time to ask again who it is
  state.busy += 1;
  document.body.dataset.busy = "true";
  try {
    return await action();
  } catch (error) {
    say(error.message, true);
    return undefined;
  } finally {
    state.busy -= 1;
    document.body.dataset.busy = String(state.busy > 0);
    buttons();
  }
}

// which of them can be pressed, and why not
export function buttons() {
  const none = !state.id, { submit: closed, train: untrainable } = state.data?.locked ?? {};
  const model = $("model").value, trained = state.data?.trained[model];
  $("network").textContent = state.data ? trained?.told || "as shipped" : "";
  $("back").hidden = !trained;
  $("back").disabled = !state.data || Boolean(untrainable) || state.task !== null;
  $("submit").disabled = none || Boolean(closed);
  $("submit").title = closed || "Enter";
  $("propose").disabled = none || !model;
  $("undo").disabled = state.undo.length === 0;
  $("redo").disabled = state.redo.length === 0;
  $("train").disabled = !state.data || !model || Boolean(untrainable) || state.task !== null;
  $("train").title = untrainable || "T";
  $("stop").hidden = state.task === null;
  $("stop").disabled = Boolean(untrainable);
  $("stop").title = $("back").title = untrainable || "";
  for (const button of $("modes").children) {
    button.setAttribute("aria-pressed", button.dataset.tool === state.tool);
    button.hidden = !(state.classes.length ? button.dataset.tool in OF_CLASSES : button.dataset.tool !== "fill");
  }
  document.body.dataset.edited = String(state.edited);
}

export function markEdited() {
  const button = document.querySelector("#images [aria-current=true]");
  if (button) button.classList.toggle("edited", state.edited);
}
