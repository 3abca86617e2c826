// What the page knows, all of it but what its elements hold.

import { inside } from "./shapes.js";

export const state = {
  data: null, id: null, file: null, width: 0, height: 0, picture: null, shown: null, overlay: null, pixels: null,
  cells: null, // of the section that is shown, a part of all
  all: null, sections: 1, section: 0, dims: 2,
  classes: [], label: 1, // names and colours, none where cells are numbered; the class that is drawn
  version: "", stamp: null, stroke: 0, record: null, top: 0, count: 0, selected: 0,
  touched: 0, // counts changes: what comes late must not undo them
  base: undefined, // the last change when the cells were set or saved; null: no undo leads there
  get edited() { return this.undo.at(-1) !== this.base; },
  tool: "brush", view: "filled", zoom: 1, x: 0, y: 0, fitted: false, space: false,
  due: false, // whether the next frame draws
  drawing: null, // what the pointer is doing
  pointer: null, // where it is
  undo: [], redo: [], drafts: new Map(), // of images by their files: ids change as others come
  skipped: new Set(), unreadable: new Map(),
  token: null, login: null, refused: false, busy: 0, kind: "", saving: null,
  listed: null, opening: null, // the folder as it was last told, the image that was last chosen
  task: null, watching: null, going: false, // a training, who watches it, whether it went on
};

// the cell at a point of the image, 0 for none
export function at(point) {
  const [x, y] = point.map(Math.floor);
  return inside(x, y, state) ? state.cells[y * state.width + x] : 0;
}
