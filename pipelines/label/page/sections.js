// Sections of a volume or a stack: the one that is shown, its picture and its part of all cells.

import { $ } from "./dom.js";
import { ask, query } from "./server.js";
import { draw, repaint } from "./show.js";
import { state } from "./state.js";
import { say, working } from "./status.js";

export const offset = () => state.section * state.width * state.height;

export function turnTo(section) {
  const { all, width, height, picture } = state;
  state.section = Math.max(0, Math.min(state.sections - 1, section));
  state.cells = all.subarray(offset(), offset() + width * height); // the same numbers, not a copy
  state.shown = picture.sections[state.section]; // nothing rather than another one, until it has come
  $("section").value = document.body.dataset.section = state.section;
  repaint(0, 0, width, height);
  if (!state.shown) load(picture, state.section);
}

async function load(picture, section) {
  const { id } = state;
  await working(`opening section ${section}`, async () => {
    const response = await ask(`/annotate/image?${query({ id, section })}`);
    if (response.headers.get("X-Version") !== picture.seen) {
      throw new Error(`the file of ${id} was replaced meanwhile; open it again`);
    }
    picture.sections[section] = await createImageBitmap(await response.blob());
    say("");
  });
  if (state.picture !== picture || state.section !== section) return;
  state.shown = picture.sections[section];
  draw();
}
