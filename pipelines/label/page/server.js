// Requests to the server, and the log-in that one may need.

import { $ } from "./dom.js";
import { state } from "./state.js";
import { choice } from "./status.js";

export async function ask(path, options = {}, again = false) {
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
    let told = { detail: text };
    try { told = JSON.parse(text); } catch { /* no JSON: as it is */ }
    const error = new Error(told.detail || `the server answers ${response.status}`);
    error.mistake = told.mistake || error.message; // without what to do about it
    error.status = response.status;
    error.version = response.headers.get("X-Version"); // of a label that cannot be read
    throw error;
  }
  return response;
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

export const asJson = (body) => ({
  method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
});

export const query = (values) => new URLSearchParams(values).toString();

// cell numbers that the server sends for a picture
export async function raw(response, picture) {
  const width = Number(response.headers.get("X-Width")), height = Number(response.headers.get("X-Height"));
  const sections = Number(response.headers.get("X-Sections"));
  if (width !== picture.width || height !== picture.height || sections !== picture.count) {
    const size = (n, w, h) => (n > 1 ? `${n}x${h}x${w}` : `${w}x${h}`);
    const whole = size(picture.count, picture.width, picture.height);
    throw new Error(`cells of ${size(sections, width, height)} pixels for an image of ${whole}`);
  }
  return new Uint32Array(await response.arrayBuffer()); // little-endian, as every browser's machine
}
