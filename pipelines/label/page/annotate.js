// Draw cells on an image, submit them, train, and see what the network makes of it.

const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), stage = $("stage"), context = canvas.getContext("2d");

const TOOLS = {
  brush: ["Brush", "b", "from the background a new cell, from a cell more of it"],
  eraser: ["Eraser", "e", "take pixels away; a cell that it cuts becomes several"],
  lasso: ["Lasso", "l", "draw around a cell; begun on a cell, more of that one"],
  split: ["Split", "s", "draw a line across a cell"],
  merge: ["Merge", "m", "draw from one cell over others: they become one"],
  select: ["Select", "v", "click a cell; Delete removes it"],
  pan: ["Pan", "h", "move the image; also with the space bar held"],
};
const KEYS = [
  ...Object.values(TOOLS).map(([name, key, text]) => [key.toUpperCase(), `${name}: ${text}`]),
  ["[ ]", "smaller and larger brush"], ["+ -", "zoom; also the wheel"], ["F", "fit the image"],
  ["Arrows", "move the image"], ["O", "outlines, filled cells, nothing"],
  ["Ctrl+Z", "undo; with Shift, or Ctrl+Y, redo"], ["Delete", "remove the selected cell"],
  ["P", "propose"], ["Enter", "submit as final"], ["N", "next image"], ["T", "train"],
];
const WHITE = [255, 255, 255];
const VIEWS = ["filled", "outlines", "nothing"];

const state = {
  data: null, id: null, file: null, width: 0, height: 0, picture: null, overlay: null, pixels: null,
  cells: null, stamp: null, stroke: 0, top: 0, count: 0, selected: 0,
  touched: 0, // counts changes: what comes late must not undo them
  base: undefined, // the last change when the cells were set or saved; null: no undo leads there
  get edited() { return this.undo.at(-1) !== this.base; },
  tool: "brush", view: "filled", zoom: 1, x: 0, y: 0, space: false,
  undo: [], redo: [], drafts: new Map(), // of images by their files: ids change as others come
  skipped: new Set(), unreadable: new Map(),
  token: null, login: null, refused: false, task: null, busy: 0, kind: "", saving: null,
};
let drawing = null; // what the pointer is doing

// ---- talking to the server

async function ask(path, options = {}, again = false) {
  const headers = { ...(options.headers || {}) };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  if (response.status === 401 && !again && !state.refused) {
    await (state.login ||= logIn().finally(() => { state.login = null; }));
    return ask(path, options, true);
  }
  if (!response.ok) {
    const text = await response.text();
    let detail = text;
    try { detail = JSON.parse(text).detail; } catch { /* no JSON: as it is */ }
    const error = new Error(detail || `the server answers ${response.status}`);
    error.status = response.status;
    error.version = response.headers.get("X-Version"); // of a label that cannot be read
    throw error;
  }
  return response;
}

// what is answered in a dialog: the value of the button, nothing for Escape
async function choice(id, text) {
  const dialog = $(id);
  if (text) dialog.querySelector("p").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue;
}

// one at a time. A token lasts minutes: name and password stay in their fields while the page is open
async function logIn() {
  for (let why = "";;) {
    if ((why || !$("user").value) && await choice("login", why) !== "in") {
      state.refused = true;
      throw new Error("not logged in; whatever you do next asks again");
    }
    const form = new URLSearchParams({ username: $("user").value, password: $("password").value });
    const response = await fetch("/auth/token", { method: "POST", body: form });
    const answer = await response.json();
    if (response.ok) {
      state.token = answer.access_token;
      return;
    }
    why = answer.detail;
  }
}

const asJson = (body) => ({
  method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
});
const counted = (n) => `${n} ${n === 1 ? "cell" : "cells"}`;
const query = (values) => new URLSearchParams(values).toString();

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

// run something that takes a moment, and say what went wrong
async function working(text, action) {
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

// ---- images

async function load() {
  await refill();
  const { images } = state.data;
  for (const { id } of [...images.filter((image) => !image.labelled), ...images]) {
    await open(id);
    if (!state.unreadable.has(id)) return;
  }
  say("no image in the folder that can be read", true);
}

// what is in the folder now
async function refill() {
  const text = await (await ask("/annotate/data")).text();
  if (text === state.listed) return; // a list that is made anew swallows a click on it
  state.listed = text;
  state.data = JSON.parse(text);
  $("name").textContent = state.data.name;
  const now = state.data.images.find((image) => image.file === state.file);
  if (now) document.body.dataset.image = $("image").textContent = state.id = now.id;
  fill($("model"), state.data.models);
  fill($("strategy"), state.data.strategies);
  list();
  buttons();
  const broken = Object.values(state.data.unreadable);
  $("broken").hidden = broken.length === 0;
  $("broken").querySelector("summary").textContent = `${broken.length} left out`;
  $("broken").querySelector("ul").replaceChildren(...broken.map((text) => element("li", text)));
}

const known = (id) => state.data.images.find((image) => image.id === id);

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

function fill(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(before)) select.value = before;
}

function list() {
  const done = state.data.images.filter((image) => image.labelled).length;
  $("count").textContent = `${done} of ${state.data.images.length} images labelled`;
  $("images").replaceChildren(...state.data.images.map((image) => {
    const item = document.createElement("li"), button = element("button", image.id);
    button.classList.toggle("labelled", image.labelled);
    const here = image.file === state.file;
    button.classList.toggle("edited", here ? state.edited : state.drafts.has(image.file));
    button.classList.toggle("unreadable", state.unreadable.has(image.id));
    button.title = state.unreadable.get(image.id) || "";
    button.setAttribute("aria-current", here);
    button.addEventListener("click", () => open(image.id));
    item.append(button);
    return item;
  }));
}

async function open(id) {
  state.opening = id;
  await working(`opening ${id}`, async () => {
    await refill(); // labels and images come and go
    const picture = await pictureOf(id);
    await settled();
    const { label, version = "", fault } = known(id)?.labelled ? await labelOf(id, picture) : {};
    const told = fault ? [fault] : [];
    await settled(); // what was begun meanwhile
    if (state.opening !== id) return; // another one was chosen meanwhile
    keepDraft();
    const file = known(id)?.file ?? id;
    Object.assign(state, {
      id, file, picture, version, // of its label
      width: picture.width, height: picture.height, undo: [], redo: [], selected: 0,
      base: undefined, stamp: new Uint32Array(picture.width * picture.height), stroke: 0,
    });
    state.overlay = new OffscreenCanvas(state.width, state.height);
    state.pixels = state.overlay.getContext("2d").createImageData(state.width, state.height);
    setCells(new Uint32Array(state.width * state.height), "");
    $("stale").hidden = true;
    fit();
    document.body.dataset.image = id;
    $("image").textContent = id;
    list();
    document.querySelector("#images [aria-current=true]")?.scrollIntoView({ block: "nearest" });
    const draft = state.drafts.get(file);
    state.drafts.delete(file);
    if (draft && draft.width === state.width && draft.height === state.height) {
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
    return { label: await raw(stored, picture), version: stored.headers.get("X-Version") };
  } catch (error) {
    if (!error.version) throw error;
    return { version: error.version, fault: `${error.message}; what you submit replaces it` };
  }
}

// strokes, and labels that are being saved: until then nobody knows which edits are a draft
async function settled() {
  while (drawing || state.saving) await new Promise((go) => setTimeout(go, 50));
}

async function pictureOf(id) {
  try {
    const response = await ask(`/annotate/image?${query({ id })}`);
    const picture = await createImageBitmap(await response.blob());
    state.unreadable.delete(id);
    return Object.assign(picture, { seen: response.headers.get("X-Version") });
  } catch (error) {
    if (error.status && error.status !== 404) state.unreadable.set(id, error.message);
    list();
    throw new Error(`${id} cannot be opened: ${error.message}`);
  }
}

async function propose() {
  const { id, picture, touched } = state, model = $("model").value;
  if (!id || !model) return;
  await working(`${model} is looking at ${id}`, async () => {
    const response = await ask(`/annotate/proposal?${query({ id, model })}`, { method: "POST" });
    const cells = await raw(response, picture);
    if (state.picture !== picture) return;
    if (state.touched !== touched || (drawing && !drawing.pan)) {
      say("a proposal came while you were drawing; press P to see it");
      return;
    }
    $("stale").hidden = true;
    if (state.edited || state.kind === "final label") {
      select(0); // its number is another cell's there
      if (change(() => cells.forEach((cell, i) => put(i, cell)))) state.kind = `proposal of ${model}`;
      recount();
    } else {
      setCells(cells, `proposal of ${model}`);
    }
    say(`${counted(state.count)} proposed`);
  });
}

async function raw(response, picture) {
  const width = Number(response.headers.get("X-Width")), height = Number(response.headers.get("X-Height"));
  if (width !== picture.width || height !== picture.height) {
    throw new Error(`cells of ${width}x${height} pixels for an image of ${picture.width}x${picture.height}`);
  }
  return new Uint32Array(await response.arrayBuffer()); // little-endian, as every browser's machine
}

function setCells(cells, kind) {
  Object.assign(state, { cells, kind, base: undefined, selected: 0, undo: [], redo: [] });
  state.stamp.fill(0);
  state.stroke = 0;
  repaint(0, 0, state.width, state.height);
  recount();
}

function recount() {
  const seen = new Set(state.cells);
  seen.delete(0);
  state.count = seen.size;
  state.top = 0;
  for (const cell of seen) if (cell > state.top) state.top = cell;
  $("cells").textContent = counted(state.count);
  $("kind").textContent = state.kind + (state.edited ? " (edited)" : "");
  document.body.dataset.cells = String(state.count);
  buttons();
}

function keepDraft() {
  const { file, cells, width, height, version, picture } = state;
  if (file && state.edited) state.drafts.set(file, { cells, width, height, version, seen: picture.seen });
}

async function submit() {
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
  const sent = state.cells.slice(), touched = state.touched;
  await working(`saving ${id}`, async () => {
    const options = { method: "PUT", body: sent, headers: { "Content-Type": "application/octet-stream" } };
    const put = (values) => ask(`/annotate/label?${query({ id, width, height, seen, ...values })}`, options);
    let response;
    try {
      response = await put({ version });
    } catch (error) {
      if (error.status === 412 && state.file === file) {
        state.saving = null;
        await open(id); // with the draft, where it is of the same file
        say([error.message, $("status").textContent].filter(Boolean).join("; "), true);
        return;
      }
      if (error.status !== 409) throw error;
      const wanted = await choice("changed", error.message);
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
    say(`${id}: ${counted(answer.cells)} saved as final`);
  });
  state.saving = null;
}

// neither the image that is open nor one that was skipped, while there are others
async function next() {
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

// ---- training

async function train() {
  const model = $("model").value;
  await working(`starting to train ${model}`, async () => {
    const answer = await ask(`/train/${model}`, asJson({ max_epochs: Number($("epochs").value) }));
    const left = Object.entries((await answer.json()).left_out);
    state.task = model;
    say(left.length ? `training without ${left.map(([id]) => id).join(", ")}: ${left[0][1]}` : "");
  });
  watch(); // one that somebody else began may go on instead
}

// until no training goes on, or this is called again
async function watch() {
  const own = state.watching = {}, told = (text) => { $("trained").textContent = text; };
  for (;;) {
    let task;
    try {
      task = await (await ask("/annotate/training")).json();
      if (task?.status === "DONE") await refill(); // with the network that is in use now
    } catch (error) {
      if (state.watching !== own) return;
      told(error.message);
      await new Promise((go) => setTimeout(go, 3000));
      continue;
    }
    if (state.watching !== own) return;
    task ||= { status: "", request: {}, progress: {} }; // none since the server was started
    const { epoch, max_epochs: epochs, done } = task.progress;
    const model = task.request.model;
    const going = task.status === "RUNNING" || task.status === "SUBMITTED", went = watch.going;
    watch.going = going;
    state.task = going ? model : null;
    document.body.dataset.training = task.status;
    $("bar").hidden = !going;
    if (done > 0) $("bar").value = done;
    else $("bar").removeAttribute("value");
    buttons();
    if (!going) {
      const reached = state.data?.trained[model]?.reached; // nothing once somebody has gone back
      const said = { DONE: reached ? `${model}: ${reached}` : "", STOPPED: `${model}: stopped`, ERROR: lastLine(task) };
      const lost = went ? "the training is gone: the server was started anew" : "";
      told(said[task.status] ?? (task.status || lost));
      if (task.status === "DONE" && went && model === $("model").value) await proposeAnew();
      break;
    }
    told(epochs ? `${model}: epoch ${epoch} of ${epochs}` : `${model}: starting`);
    await new Promise((go) => setTimeout(go, 1000));
  }
}

// what nobody has touched is of the network that is in use
async function proposeAnew() {
  $("stale").hidden = !state.edited;
  if (!state.edited && state.kind !== "final label") await propose();
}

function lastLine(task) {
  const lines = (task.details || []).filter((line) => line.includes("error"));
  if (!lines.length) return "the training failed; see the server's log";
  return lines[lines.length - 1].replace(/\b[\w.]*Error: /g, ""); // without names of classes
}

async function stop() {
  await working("stopping the training", async () => {
    await ask("/train/", { method: "DELETE" });
    say("stopped");
  });
}

async function back() {
  const model = $("model").value;
  await working(`${model}: back to the network that came with it`, async () => {
    await ask(`/annotate/shipped?${query({ model })}`, { method: "POST" });
    await refill();
    say("");
    await proposeAnew();
  });
  watch(); // a training that somebody else began is why it was refused
}

function buttons() {
  const none = !state.id, { submit: closed, train: untrainable } = state.data?.locked ?? {};
  const trained = state.data?.trained[$("model").value];
  $("network").textContent = state.data ? trained?.told || "as shipped" : "";
  $("back").hidden = !trained;
  $("back").disabled = !state.data || Boolean(untrainable) || state.task !== null;
  $("submit").disabled = none || Boolean(closed);
  $("submit").title = closed || "Enter";
  $("propose").disabled = none;
  $("undo").disabled = state.undo.length === 0;
  $("redo").disabled = state.redo.length === 0;
  $("train").disabled = !state.data || Boolean(untrainable) || state.task !== null;
  $("train").title = untrainable || "T";
  $("stop").hidden = state.task === null;
  $("stop").disabled = Boolean(untrainable);
  $("stop").title = $("back").title = untrainable || "";
  for (const button of $("modes").children) {
    button.setAttribute("aria-pressed", button.dataset.tool === state.tool);
  }
  document.body.dataset.edited = String(state.edited);
}

// ---- cells: every change goes through put, so that it can be undone

let record = null;

function begin() {
  state.stroke += 1;
  record = { index: [], value: [], kind: state.kind };
  outdate();
}

// what was said of the cells does not hold any more
function outdate() {
  if (!state.busy && $("status").textContent !== help()) say("");
}

function change(action) {
  begin();
  action();
  return finish();
}

function put(i, cell) {
  if (state.cells[i] === cell) return;
  if (state.stamp[i] !== state.stroke) {
    state.stamp[i] = state.stroke;
    record.index.push(i);
    record.value.push(state.cells[i]);
  }
  state.cells[i] = cell;
}

function finish() {
  const done = record;
  record = null;
  if (!done.index.length) return false;
  state.touched += 1;
  state.undo.push(done);
  if (state.undo.length > 200) {
    const forgotten = state.undo.shift();
    if (state.base === undefined) state.base = null;
    else if (state.base === forgotten) state.base = undefined;
  }
  state.redo = [];
  refresh(done.index);
  recount();
  markEdited();
  return true;
}

function markEdited() {
  const button = document.querySelector("#images [aria-current=true]");
  if (button) button.classList.toggle("edited", state.edited);
}

function swap(from, to) {
  const step = from.pop();
  if (!step) return;
  outdate();
  select(0);
  state.touched += 1;
  for (let k = 0; k < step.index.length; k += 1) {
    const i = step.index[k], now = state.cells[i];
    state.cells[i] = step.value[k];
    step.value[k] = now;
  }
  [state.kind, step.kind] = [step.kind, state.kind];
  to.push(step);
  refresh(step.index);
  recount();
  markEdited();
}

function refresh(index) {
  let left = state.width, upper = state.height, right = 0, lower = 0;
  for (const i of index) {
    const x = i % state.width, y = (i - x) / state.width;
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < upper) upper = y;
    if (y > lower) lower = y;
  }
  repaint(left - 1, upper - 1, right + 2, lower + 2);
}

// pixels whose centres a disc covers that moves from point to point; one pixel at least where it is
function swept([x1, y1], [x2, y2], radius, act) {
  const limit = (radius - 0.5) ** 2 + 0.25, dx = x2 - x1, dy = y2 - y1, long = dx * dx + dy * dy || 1;
  const last = (a, b, size) => Math.min(size - 1, Math.floor(Math.max(a, b) + radius));
  const right = last(x1, x2, state.width), lower = last(y1, y2, state.height);
  for (let y = Math.max(0, Math.floor(Math.min(y1, y2) - radius)); y <= lower; y += 1) {
    for (let x = Math.max(0, Math.floor(Math.min(x1, x2) - radius)); x <= right; x += 1) {
      const a = x + 0.5 - x1, b = y + 0.5 - y1, share = Math.max(0, Math.min(1, (a * dx + b * dy) / long));
      if ((a - share * dx) ** 2 + (b - share * dy) ** 2 <= limit) act(y * state.width + x);
    }
  }
}

// pixels of a line from point to point, without gaps along either axis
function line(points, act) {
  for (let k = 0; k < points.length; k += 1) {
    const [x1, y1] = points[Math.max(0, k - 1)], [x2, y2] = points[k];
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(x2 - x1), Math.abs(y2 - y1))));
    for (let s = 0; s <= steps; s += 1) {
      const x = Math.floor(x1 + ((x2 - x1) * s) / steps), y = Math.floor(y1 + ((y2 - y1) * s) / steps);
      if (inside(x, y)) act(y * state.width + x);
    }
  }
}

// a number for a new cell
function unused() {
  if (state.top < 2 ** 31 - 1) return state.top += 1;
  const used = new Set(state.cells); // the largest number is taken: the smallest that is free
  let cell = 1;
  while (used.has(cell)) cell += 1;
  return cell;
}

const inside = (x, y) => x >= 0 && y >= 0 && x < state.width && y < state.height;

// pixels whose centres lie in a polygon, by the even-odd rule
function polygon(points, act) {
  const rows = points.map(([, y]) => y);
  const last = Math.min(state.height - 1, Math.floor(Math.max(...rows)));
  for (let y = Math.max(0, Math.floor(Math.min(...rows))); y <= last; y += 1) {
    const cuts = [];
    points.forEach(([x1, y1], k) => {
      const [x2, y2] = points[(k + 1) % points.length], middle = y + 0.5;
      if (y1 <= middle !== y2 <= middle) cuts.push(x1 + ((middle - y1) * (x2 - x1)) / (y2 - y1));
    });
    cuts.sort((a, b) => a - b);
    for (let k = 0; k + 1 < cuts.length; k += 2) {
      const from = Math.max(0, Math.ceil(cuts[k] - 0.5)), to = Math.min(state.width - 1, cuts[k + 1] - 0.5);
      for (let x = from; x <= to; x += 1) act(y * state.width + x);
    }
  }
}

function lassoed(points) {
  change(() => {
    const from = at(points[0]), cell = from || unused();
    const free = (i) => { if (state.cells[i] === 0) put(i, cell); };
    polygon(points, free);
    select(cell);
  });
}

function splitBy(points) {
  return change(() => {
    const cut = [];
    line(points, (i) => { if (state.cells[i]) cut.push([state.cells[i], i]); });
    for (const [cell, pixels] of byCell(cut)) separate(cell, pixels);
  });
}

// what an action takes from cells, or draws through them: pixels by cell
function byCell(pairs) {
  const pixels = new Map();
  for (const [cell, i] of pairs) (pixels.get(cell) || pixels.set(cell, new Set()).get(cell)).add(i);
  return pixels;
}

// parts that only these pixels of a cell held together become cells; of the pixels themselves those that
// are left go to a part beside them. Pieces that lay apart before remain one cell.
function separate(cell, pixels, corners = false) {
  const { cells } = state, kept = (i) => cells[i] === cell && !pixels.has(i);
  const rim = [...pixels].flatMap((i) => [...beside(i, corners)]);
  if (pieces(rim, kept, corners).length < 2) return; // nothing is cut, as most often
  for (const piece of pieces(pixels, (i) => cells[i] === cell || pixels.has(i), corners)) {
    const parts = pieces(piece, kept, corners).sort((a, b) => b.length - a.length);
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
        const near = [...beside(i)].find((j) => names.has(j));
        if (near === undefined) continue;
        give(i, names.get(near));
        left.delete(i);
        grown = true;
      }
    }
  }
}

// groups of pixels that belong and hang together, those that hold one of the seeds
function pieces(seeds, belongs, corners) {
  const found = [], seen = new Set();
  for (const seed of seeds) {
    if (seen.has(seed) || !belongs(seed)) continue;
    const piece = [seed];
    seen.add(seed);
    for (let k = 0; k < piece.length; k += 1) {
      for (const j of beside(piece[k], corners)) {
        if (seen.has(j) || !belongs(j)) continue;
        seen.add(j);
        piece.push(j);
      }
    }
    found.push(piece);
  }
  return found;
}

function* beside(i, diagonally = false) {
  const { width, cells } = state, x = i % width;
  if (x > 0) yield i - 1;
  if (x < width - 1) yield i + 1;
  for (const row of [i - width, i + width]) {
    if (row < 0 || row >= cells.length) continue;
    yield row;
    if (diagonally && x > 0) yield row - 1;
    if (diagonally && x < width - 1) yield row + 1;
  }
}

function mergeAlong(points) {
  const met = [];
  line(points, (i) => {
    const cell = state.cells[i];
    if (cell && !met.includes(cell)) met.push(cell);
  });
  const others = new Set(met.slice(1));
  select(met[0] || 0);
  return change(() => state.cells.forEach((cell, i) => { if (others.has(cell)) put(i, met[0]); }));
}

function clear() {
  if (!state.id) return;
  if (change(() => state.cells.forEach((_, i) => put(i, 0)))) return;
  Object.assign(state, { base: null, touched: state.touched + 1 }); // somebody says: no cell here
  recount();
  markEdited();
}

function remove(cell) {
  if (!cell) return;
  change(() => state.cells.forEach((c, i) => { if (c === cell) put(i, 0); }));
  state.selected = 0;
}

function select(cell) {
  const changed = cell === state.selected ? [] : [state.selected, cell];
  state.selected = cell;
  for (const one of changed) {
    const index = [];
    if (one) state.cells.forEach((other, i) => { if (other === one) index.push(i); });
    if (index.length) refresh(index);
  }
}

const at = ([x, y]) => (inside(Math.floor(x), Math.floor(y)) ? state.cells[Math.floor(y) * state.width + Math.floor(x)] : 0);

// ---- showing

function colour(cell) {
  const hue = (cell * 137.508) % 360, f = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.62 - 0.38 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [f(0), f(8), f(4)];
}

function repaint(left, upper, right, lower) {
  const { width, height, cells, selected, view } = state, { data } = state.pixels;
  left = Math.max(0, left); upper = Math.max(0, upper);
  right = Math.min(width, right); lower = Math.min(height, lower);
  const known = new Map();
  for (let y = upper; y < lower; y += 1) {
    for (let x = left; x < right; x += 1) {
      const i = y * width + x, cell = cells[i];
      let opacity = 0, marked = false;
      if (cell && view !== "nothing") {
        const edge = (x > 0 && cells[i - 1] !== cell) || (x < width - 1 && cells[i + 1] !== cell)
          || (y > 0 && cells[i - width] !== cell) || (y < height - 1 && cells[i + width] !== cell);
        const inner = view === "filled" ? 70 : 0;
        marked = edge && cell === selected;
        opacity = edge ? 255 : cell === selected ? 130 : inner;
      }
      if (opacity) {
        let rgb = marked ? WHITE : known.get(cell);
        if (!rgb) known.set(cell, rgb = colour(cell));
        [data[4 * i], data[4 * i + 1], data[4 * i + 2]] = rgb;
      }
      data[4 * i + 3] = opacity;
    }
  }
  state.overlay.getContext("2d").putImageData(state.pixels, 0, 0, left, upper, right - left, lower - upper);
  draw();
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    place();
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(stage.clientWidth * scale), height = Math.round(stage.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!state.picture) return;
    const zoom = state.zoom * scale;
    context.setTransform(zoom, 0, 0, zoom, state.x * scale, state.y * scale);
    context.imageSmoothingEnabled = zoom < 1;
    if ($("bright").value > 1) context.filter = `brightness(${$("bright").value})`;
    context.drawImage(state.picture, 0, 0);
    context.filter = "none";
    context.drawImage(state.overlay, 0, 0);
    if (drawing && drawing.points && drawing.points.length) {
      context.lineWidth = 1.5 / state.zoom;
      context.strokeStyle = "#ffffff";
      context.beginPath();
      drawing.points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    }
    if (state.pointer && (state.tool === "brush" || state.tool === "eraser") && !state.space) {
      context.lineWidth = 1 / state.zoom;
      context.strokeStyle = "#ffffff";
      context.beginPath();
      context.arc(...point(state.pointer), Number($("size").value), 0, 2 * Math.PI);
      context.stroke();
    }
  });
}

function fit() {
  const { clientWidth: width, clientHeight: height } = stage;
  state.zoom = 0.96 * Math.min(width / state.width, height / state.height);
  state.x = (width - state.width * state.zoom) / 2;
  state.y = (height - state.height * state.zoom) / 2;
  state.fitted = true;
  draw();
}

function zoomAt(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const zoom = Math.min(64, Math.max(0.02, state.zoom * factor)), by = zoom / state.zoom;
  Object.assign(state, { fitted: false, zoom, x: x - (x - state.x) * by, y: y - (y - state.y) * by });
  draw();
}

function move(x, y) {
  Object.assign(state, { fitted: false, x: state.x + x, y: state.y + y });
  draw();
}

// ---- pointer

function point({ clientX, clientY }) {
  const box = canvas.getBoundingClientRect();
  return [(clientX - box.left - state.x) / state.zoom, (clientY - box.top - state.y) / state.zoom];
}

// what is under the pointer now: images, cells and zoom change without it
function place() {
  const here = state.pointer && state.cells ? point(state.pointer) : [-1, -1], [x, y] = here.map(Math.floor);
  $("place").textContent = inside(x, y) ? `${x}, ${y}  cell ${at(here) || "none"}` : "";
}

function stroke(from, to) {
  const radius = Number($("size").value), reach = Math.ceil(radius) + 2, [x1, y1] = from, [x2, y2] = to;
  swept(from, to, radius, drawing.act);
  repaint(Math.floor(Math.min(x1, x2)) - reach, Math.floor(Math.min(y1, y2)) - reach,
    Math.ceil(Math.max(x1, x2)) + reach, Math.ceil(Math.max(y1, y2)) + reach);
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.picture || drawing) return;
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  const here = point(event), pan = state.space || state.tool === "pan" || event.button === 1;
  if (pan) drawing = { pan: [event.clientX, event.clientY] };
  else if (event.button !== 0) return;
  else if (state.tool === "brush" || state.tool === "eraser") {
    begin();
    const cell = state.tool === "eraser" ? 0 : at(here) || unused();
    const act = cell ? (i) => { if (state.cells[i] === 0) put(i, cell); } : (i) => put(i, 0);
    drawing = { act, last: here, erases: !cell };
    if (cell) select(cell);
    stroke(here, here);
  } else if (state.tool === "select") {
    select(at(here));
  } else drawing = { points: [here] };
});

canvas.addEventListener("pointermove", (event) => {
  const here = point(event);
  state.pointer = { clientX: event.clientX, clientY: event.clientY };
  if (drawing && drawing.pan) {
    move(event.clientX - drawing.pan[0], event.clientY - drawing.pan[1]);
    drawing.pan = [event.clientX, event.clientY];
  } else if (drawing && drawing.act) {
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      stroke(drawing.last, point(part));
      drawing.last = point(part);
    }
    stroke(drawing.last, here);
    drawing.last = here;
  } else if (drawing && drawing.points) drawing.points.push(here);
  draw();
});

function release() {
  const done = drawing;
  drawing = null;
  if (done && done.act) {
    const gone = done.erases ? byCell(record.value.map((cell, k) => [cell, record.index[k]])) : [];
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
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => { state.pointer = null; draw(); });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  zoomAt(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

// ---- keys and buttons

const help = () => `${TOOLS[state.tool][0]}: ${TOOLS[state.tool][2]}`;

function choose(tool) {
  state.tool = tool;
  document.body.dataset.tool = tool;
  say(help());
  buttons();
  draw();
}

function show() {
  state.view = VIEWS[(VIEWS.indexOf(state.view) + 1) % VIEWS.length];
  document.body.dataset.view = state.view;
  if (state.cells) repaint(0, 0, state.width, state.height);
}

function resize(by) {
  $("size").value = Number($("size").value) + by;
  draw();
}

const undo = () => swap(state.undo, state.redo), redo = () => swap(state.redo, state.undo);
const ACTIONS = {
  "[": () => resize(-1), "]": () => resize(1), "+": () => zoomAt(1.3), "=": () => zoomAt(1.3), "-": () => zoomAt(1 / 1.3),
  f: fit, o: show, p: propose, n: next, t: train, Enter: submit, Delete: () => remove(state.selected),
  Backspace: () => remove(state.selected), "?": () => $("keys").showModal(),
  ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
};
for (const [tool, [, key]] of Object.entries(TOOLS)) ACTIONS[key] = () => choose(tool);

window.addEventListener("keydown", (event) => {
  const keys = event.key.startsWith("Arrow") ? "input" : "input:not([type=range])";
  const typing = event.target.closest(`${keys}, select, dialog, textarea`);
  if (typing || drawing || event.altKey) return;
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
new ResizeObserver(() => (state.fitted && !drawing ? fit() : draw())).observe(stage);
window.addEventListener("focus", () => {
  if (!state.data) return;
  refill().catch(() => {});
  watch();
});
window.addEventListener("beforeunload", (event) => {
  if (state.edited || state.drafts.size) event.preventDefault();
});

for (const [tool, [name, key]] of Object.entries(TOOLS)) {
  const button = element("button", name);
  button.dataset.tool = tool;
  button.title = key.toUpperCase();
  button.addEventListener("click", () => choose(tool));
  $("modes").append(button);
}
const CLICKS = { undo, redo, show, fit, next, propose, clear, submit, train, stop, back };
for (const [id, action] of Object.entries(CLICKS)) $(id).addEventListener("click", () => action());
$("bright").addEventListener("input", draw);
$("bright").addEventListener("dblclick", () => { $("bright").value = 1; draw(); });
$("help").addEventListener("click", ACTIONS["?"]);
$("model").addEventListener("change", () => { buttons(); proposeAnew(); });
$("keys").querySelector("table").replaceChildren(...KEYS.map(([key, text]) => {
  const row = document.createElement("tr"), cell = document.createElement("td");
  cell.append(element("kbd", key));
  row.append(cell, element("td", text));
  return row;
}));
choose("brush");
say("");
working("loading", async () => { await load(); watch(); });
