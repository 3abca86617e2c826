// What is drawn becomes the final label of its image.

import { recount } from "./cells.js";
import { $ } from "./dom.js";
import { list, refill } from "./folder.js";
import { open } from "./images.js";
import { ask, query } from "./server.js";
import { state } from "./state.js";
import { choice, counted, say, working } from "./status.js";

export async function submit() {
  const { id, file, width, height, version } = state, seen = state.picture?.seen;
  if (!id || state.saving === file) return;
  if (state.data.locked.submit) {
    say(`${id} is not saved: ${state.data.locked.submit}`, true);
    return;
  }
  if (!state.kind && !state.edited) { // no proposal has come, or it failed
    say(`${id} is not saved: nothing is proposed or drawn yet; press Clear if it holds no cell`, true);
    return;
  }
  Object.assign(state, { saving: file, touched: state.touched + 1 });
  const sent = state.all.slice(), model = $("model").value, touched = state.touched;
  await working(`saving ${id}`, async () => {
    const options = { method: "PUT", body: sent, headers: { "Content-Type": "application/octet-stream" } };
    const put = (values) => ask(`/annotate/label?${query({ id, width, height, seen, ...(model ? { model } : {}), ...values })}`, options);
    let response;
    try {
      response = await put({ version });
    } catch (error) {
      if (error.status === 412 && state.file === file) {
        state.saving = null;
        await open(id); // with the draft, where it is of the same file
        say([error.mistake, $("status").textContent].filter(Boolean).join("; "), true);
        return;
      }
      if (error.status !== 409) throw error;
      const wanted = await choice("changed", error.mistake);
      if (wanted === "theirs" && state.file === file) {
        Object.assign(state, { base: state.undo.at(-1), saving: null });
        await refill();
        await open(id);
        say([`${id}: not saved`, $("status").textContent].filter(Boolean).join("; "));
        return;
      }
      if (wanted !== "mine") {
        say(`${id}: not saved`);
        return;
      }
      response = await put();
    }
    const answer = await response.json();
    state.drafts.delete(file);
    if (state.file === file) {
      state.version = answer.version;
      const same = state.touched === touched;
      state.base = same ? state.undo.at(-1) : null;
      if (same) {
        state.kind = "final label";
        $("stale").hidden = true;
      }
      recount();
    }
    await refill();
    list();
    say(`${id}: ${answer.labels === "classes" ? "" : `${counted(answer.cells)} `}saved as final`);
  });
  state.saving = null;
}
