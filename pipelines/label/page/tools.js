// The tools and the keys, and what the page tells of them.

export const TOOLS = {
  brush: ["Brush", "b", "from the background a new cell, from a cell more of it"],
  eraser: ["Eraser", "e", "take pixels away; a cell that it cuts becomes several"],
  lasso: ["Lasso", "l", "draw around a cell; begun on a cell, more of that one"],
  fill: ["Fill", "g", "click: all that hangs together there gets the class"],
  split: ["Split", "s", "draw a line across a cell"],
  merge: ["Merge", "m", "draw from one cell over others: they become one"],
  select: ["Select", "v", "click a cell; Delete removes it"],
  pan: ["Pan", "h", "move the image; also with the space bar held"],
};
export const OF_CLASSES = {
  brush: "draw the class that is chosen over any other", eraser: "what is drawn over becomes background",
  lasso: "what you draw around gets the class that is chosen", fill: TOOLS.fill[2], pan: TOOLS.pan[2],
};
export const KEYS = [
  ...Object.values(TOOLS).map(([name, key, text]) => [key.toUpperCase(), `${name}: ${text}`]),
  ["[ ]", "smaller and larger brush"], ["+ -", "zoom; also the wheel"], ["F", "fit the image"],
  ["Arrows", "move the image"], ["O", "outlines, filled cells, nothing"],
  ["Ctrl+Z", "undo; with Shift, or Ctrl+Y, redo"], ["Delete", "remove the selected cell"],
  ["Page Up, Page Down", "the section before, the next one"], ["1 to 9", "choose a class"],
  ["P", "propose"], ["Enter", "submit as final"], ["N", "next image"], ["T", "train"],
];
export const VIEWS = ["filled", "outlines", "nothing"];
