// Models that tell classes apart: their names and colours, and the class that is drawn.

import { recount } from "./cells.js";
import { $, element } from "./dom.js";
import { repaint } from "./show.js";
import { state } from "./state.js";
import { buttons } from "./status.js";
import { OF_CLASSES } from "./tools.js";

// what is drawn from now on: the classes of the model that is chosen, or cells
export function follow() {
  const model = state.data.models.find(({ name }) => name === $("model").value);
  const told = JSON.stringify(model?.classes ?? []);
  if (told !== JSON.stringify(state.classes)) {
    Object.assign(state, { classes: JSON.parse(told), label: 1, selected: 0 });
    legend();
    if (state.classes.length && !(state.tool in OF_CLASSES)) state.tool = "brush";
    if (!state.classes.length && state.tool === "fill") state.tool = "brush";
    document.body.dataset.tool = state.tool;
    if (state.cells) {
      repaint(0, 0, state.width, state.height);
      recount();
    }
  }
  buttons();
}

function legend() {
  $("legend").hidden = !state.classes.length;
  $("legend").replaceChildren(...state.classes.map(({ name, colour }, number) => {
    const item = document.createElement("li"), button = element("button", ""), patch = element("i", "");
    if (number) patch.style.background = `rgb(${colour.join(" ")})`;
    button.value = number;
    button.title = number < 10 ? String(number) : "";
    button.append(patch, element("span", name), element("span", ""));
    item.append(button);
    return item;
  }));
  take(state.label);
}

export function take(number) {
  if (number >= state.classes.length) return;
  state.label = number;
  document.body.dataset.label = number;
  document.querySelectorAll("#legend button").forEach((button) => {
    button.setAttribute("aria-pressed", Number(button.value) === number);
  });
}

// a model of the kind that a label is of: its numbers would be something else to the others
export function follows(kind) {
  const own = (model) => (model.classes.length ? "classes" : "instances");
  const fitting = state.data.models.filter((model) => model.dims === state.dims && own(model) === kind);
  if (fitting.length && !fitting.some(({ name }) => name === $("model").value)) $("model").value = fitting[0].name;
  follow();
}
