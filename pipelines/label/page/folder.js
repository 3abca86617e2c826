// The list of images, and what else the server offers.

import { follow } from "./classes.js";
import { $, element } from "./dom.js";
import { ask } from "./server.js";
import { state } from "./state.js";
import { buttons } from "./status.js";

// what is in the folder now
export async function refill() {
  const text = await (await ask("/annotate/data")).text();
  if (text === state.listed) return; // a list that is made anew swallows a click on it
  state.listed = text;
  state.data = JSON.parse(text);
  $("name").textContent = state.data.name;
  const now = state.data.images.find((image) => image.file === state.file);
  if (now) document.body.dataset.image = $("image").textContent = state.id = now.id;
  models();
  fill($("strategy"), state.data.strategies);
  list();
  buttons();
  const broken = Object.values(state.data.unreadable);
  $("broken").hidden = broken.length === 0;
  $("broken").querySelector("summary").textContent = `${broken.length} left out`;
  $("broken").querySelector("ul").replaceChildren(...broken.map((text) => element("li", text)));
}

export const known = (id) => state.data.images.find((image) => image.id === id);

// those for images of so many dimensions as the one that is open
export function models() {
  fill($("model"), state.data.models.filter(({ dims }) => dims === state.dims).map(({ name }) => name));
  follow();
}

function fill(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(before)) select.value = before;
}

export function list() {
  const done = state.data.images.filter((image) => image.labelled).length;
  $("count").textContent = `${done} of ${state.data.images.length} images labelled`;
  $("images").replaceChildren(...state.data.images.map((image) => {
    const item = document.createElement("li"), button = element("button", image.id);
    button.value = image.id; // opened with a click, which keys.js listens to
    button.classList.toggle("labelled", image.labelled);
    const here = image.file === state.file;
    button.classList.toggle("edited", here ? state.edited : state.drafts.has(image.file));
    button.classList.toggle("unreadable", state.unreadable.has(image.id));
    button.title = state.unreadable.get(image.id) || "";
    button.setAttribute("aria-current", here);
    item.append(button);
    return item;
  }));
}
