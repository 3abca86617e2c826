// Images are opened, with their labels and drafts: the first, one that is chosen, the next.

import { recount, setCells } from "./cells.js";
import { follow, follows } from "./classes.js";
import { $ } from "./dom.js";
import { known, list, models, refill } from "./folder.js";
import { propose } from "./proposals.js";
import { ask, asJson, query, raw } from "./server.js";
import { fit } from "./show.js";
import { state } from "./state.js";
import { markEdited, say, working } from "./status.js";

export async function load() {
  await refill();
  const { images } = state.data;
  for (const { id } of [...images.filter((image) => !image.labelled), ...images]) {
    await open(id);
    if (!state.unreadable.has(id)) return;
  }
  say("no image in the folder that can be read", true);
}

export async function open(id) {
  state.opening = id;
  await working(`opening ${id}`, async () => {
    await refill(); // labels and images come and go
    const picture = await pictureOf(id);
    await settled();
    const { label, version = "", fault, labels } = known(id)?.labelled ? await labelOf(id, picture) : {};
    const told = fault ? [fault] : [];
    await settled(); // what was begun meanwhile
    if (state.opening !== id) return; // another one was chosen meanwhile
    keepDraft();
    const file = known(id)?.file ?? id;
    Object.assign(state, {
      id, file, picture, version, // of its label
      width: picture.width, height: picture.height, undo: [], redo: [], selected: 0,
      sections: picture.count, section: picture.first, dims: known(id)?.dims ?? 2,
      base: undefined, stamp: new Uint32Array(picture.count * picture.width * picture.height), stroke: 0,
    });
    $("sections").hidden = picture.count === 1;
    $("section").max = picture.count - 1;
    state.overlay = new OffscreenCanvas(state.width, state.height);
    state.pixels = state.overlay.getContext("2d").createImageData(state.width, state.height);
    setCells(new Uint32Array(state.stamp.length), "");
    models();
    if (labels) follows(labels);
    $("stale").hidden = true;
    fit();
    document.body.dataset.image = id;
    $("image").textContent = id;
    list();
    document.querySelector("#images [aria-current=true]")?.scrollIntoView({ block: "nearest" });
    const draft = state.drafts.get(file);
    state.drafts.delete(file);
    if (draft && draft.width === state.width && draft.height === state.height
      && draft.cells.length === state.stamp.length) {
      $("model").value = draft.model;
      follow();
      setCells(draft.cells, "your draft, not submitted");
      Object.assign(state, { base: null, version: draft.version });
      recount();
      markEdited();
      if (draft.seen === picture.seen) say("");
      else say(`the file of ${id} was replaced; your draft was drawn on the picture before`, true);
      return;
    }
    if (draft) told.push(`${id} has another size now, so your draft is given up`);
    say("");
    if (label) setCells(label, "final label");
    else await propose();
    if (told.length && state.picture === picture && state.version === version) {
      say([...told, $("status").textContent].filter(Boolean).join("; "), true);
    }
  });
}

// the final label of an image and its version, or why it cannot be read: it can be replaced then
async function labelOf(id, picture) {
  try {
    const stored = await ask(`/annotate/label?${query({ id })}`);
    const { headers } = stored, labels = headers.get("X-Labels");
    return { label: await raw(stored, picture), version: headers.get("X-Version"), labels };
  } catch (error) {
    if (!error.version) throw error;
    return { version: error.version, fault: `${error.message}; what you submit replaces it` };
  }
}

// strokes, and labels that are being saved: until then nobody knows which edits are a draft
async function settled() {
  while (state.drawing || state.saving) await new Promise((go) => setTimeout(go, 50));
}

async function pictureOf(id) {
  try {
    const response = await ask(`/annotate/image?${query({ id })}`);
    const picture = await createImageBitmap(await response.blob());
    state.unreadable.delete(id);
    const [count, first] = ["X-Sections", "X-Section"].map((name) => Number(response.headers.get(name)));
    const sections = Object.assign(new Array(count), { [first]: picture });
    return Object.assign(picture, { count, first, sections, seen: response.headers.get("X-Version") });
  } catch (error) {
    if (error.status && error.status !== 404) state.unreadable.set(id, error.message);
    list();
    throw new Error(`${id} cannot be opened: ${error.message}`);
  }
}

function keepDraft() {
  const { file, all: cells, width, height, version, picture } = state, model = $("model").value;
  if (file && state.edited) state.drafts.set(file, { cells, width, height, version, model, seen: picture.seen });
}

// neither the image that is open nor one that was skipped, while there are others
export async function next() {
  await working("looking for the image to annotate next", async () => {
    await refill();
    const strategy = $("strategy").value, model = $("model").value, told = [];
    const best = async (skip) => {
      const options = asJson({ model, skip: [...skip, ...state.unreadable.keys()] });
      return (await (await ask(`/activelearning/${strategy}`, options)).json()).id;
    };
    if (state.id) state.skipped.add(state.id);
    let id, mended = state.unreadable.size > 0; // maybe, since they were tried
    do {
      id = await best(state.skipped);
      if (!id && mended) {
        mended = false;
        state.unreadable.clear();
        id = await best(state.skipped);
      }
      if (!id && (id = await best([state.id || ""]))) {
        told.push("only images that were skipped are left");
        state.skipped = new Set([state.id]);
      }
      if (id) await open(id);
      if (state.unreadable.has(id)) told.push($("status").textContent);
    } while (state.unreadable.has(id));
    if (!id) {
      const other = known(state.id)?.labelled === false ? "other " : "";
      const opens = state.unreadable.size ? " that can be opened" : "";
      told.push(`every ${other}image${opens} has a final label`);
    } else if (told.length) told.push($("status").textContent);
    if (told.length) say(told.filter(Boolean).join("; "));
  });
}
