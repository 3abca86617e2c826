// What a network makes of the image that is open.

import { change, putAnywhere, recount, select, setCells } from "./cells.js";
import { $ } from "./dom.js";
import { ask, query, raw } from "./server.js";
import { state } from "./state.js";
import { counted, say, working } from "./status.js";

export async function propose() {
  const { id, picture, touched } = state, model = $("model").value;
  if (id && !model) say(`no model takes ${state.dims === 3 ? "volumes" : "images"}`);
  if (!id || !model) return;
  await working(`${model} is looking at ${id}`, async () => {
    const response = await ask(`/annotate/proposal?${query({ id, model })}`, { method: "POST" });
    const cells = await raw(response, picture);
    if (state.picture !== picture) return;
    if (state.touched !== touched || (state.drawing && !state.drawing.pan)) {
      say("a proposal came while you were drawing; press P to see it");
      return;
    }
    $("stale").hidden = true;
    if (state.edited || state.kind === "final label") {
      select(0); // its number is another cell's there
      if (change(() => cells.forEach((cell, i) => putAnywhere(i, cell)))) state.kind = `proposal of ${model}`;
      recount();
    } else {
      setCells(cells, `proposal of ${model}`);
    }
    say(state.classes.length ? "proposed" : `${counted(state.count)} proposed`);
  });
}

// what nobody has touched is of the network that is in use
export async function proposeAnew() {
  $("stale").hidden = !state.edited;
  if (!state.edited && state.kind !== "final label") await propose();
}
