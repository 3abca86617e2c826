// Draw cells on an image, submit them, train, and see what the network makes of it: here the page starts.

import { stage } from "./dom.js";
import { refill } from "./folder.js";
import { load } from "./images.js";
import { choose, listenToButtons, listenToKeys } from "./keys.js";
import { listenToPointer } from "./pointer.js";
import { draw, fit } from "./show.js";
import { state } from "./state.js";
import { say, working } from "./status.js";
import { watch } from "./training.js";

listenToPointer();
listenToKeys();
listenToButtons();
new ResizeObserver(() => (state.fitted && !state.drawing ? fit() : draw())).observe(stage);
window.addEventListener("focus", () => {
  if (!state.data) return;
  refill().catch(() => {});
  watch();
});
window.addEventListener("beforeunload", (event) => {
  if (state.edited || state.drafts.size) event.preventDefault();
});

choose("brush");
say("");
working("loading", async () => { await load(); watch(); });
