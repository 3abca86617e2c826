// Parts of the page.

export const $ = (id) => document.getElementById(id);
export const canvas = $("canvas"), stage = $("stage");

export function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}
