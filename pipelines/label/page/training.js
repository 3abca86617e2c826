// A training is begun, watched, stopped, and taken back.

import { $ } from "./dom.js";
import { refill } from "./folder.js";
import { proposeAnew } from "./proposals.js";
import { ask, asJson, query } from "./server.js";
import { state } from "./state.js";
import { buttons, say, working } from "./status.js";

export async function train() {
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
export async function watch() {
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
    const going = task.status === "RUNNING" || task.status === "SUBMITTED", went = state.going;
    state.going = going;
    state.task = going ? model : null;
    document.body.dataset.training = task.status;
    $("bar").hidden = !going;
    if (done > 0) $("bar").value = done;
    else $("bar").removeAttribute("value");
    buttons();
    if (!going) {
      const reached = state.data?.trained[model]?.reached; // nothing once somebody has gone back
      const said = { DONE: reached ? `${model}: ${reached}` : "", STOPPED: `${model}: stopped`, ERROR: task.error };
      const lost = went ? "the training is gone: the server was started anew" : "";
      told(said[task.status] ?? (task.status || lost));
      if (task.status === "DONE" && went && model === $("model").value) await proposeAnew();
      break;
    }
    told(epochs ? `${model}: epoch ${epoch} of ${epochs}` : `${model}: starting`);
    await new Promise((go) => setTimeout(go, 1000));
  }
}

export async function stop() {
  await working("stopping the training", async () => {
    await ask("/train/", { method: "DELETE" });
    say("stopped");
  });
}

export async function back() {
  const model = $("model").value;
  await working(`${model}: back to the network that came with it`, async () => {
    await ask(`/annotate/shipped?${query({ model })}`, { method: "POST" });
    await refill();
    say("");
    await proposeAnew();
  });
  watch(); // a training that somebody else began is why it was refused
}
