// Which pixels lie in a stroke, on a line or in a polygon, and which hang together; nothing of the page is needed.
// Pixels are numbered row by row in an image of some size, { width, height }; act is called with each number.

export const inside = (x, y, { width, height }) => x >= 0 && y >= 0 && x < width && y < height;

// pixels whose centres a disc covers that moves from point to point; one pixel at least where it is
export function swept([x1, y1], [x2, y2], radius, { width, height }, act) {
  const limit = (radius - 0.5) ** 2 + 0.25, dx = x2 - x1, dy = y2 - y1, long = dx * dx + dy * dy || 1;
  const last = (a, b, size) => Math.min(size - 1, Math.floor(Math.max(a, b) + radius));
  const right = last(x1, x2, width), lower = last(y1, y2, height);
  for (let y = Math.max(0, Math.floor(Math.min(y1, y2) - radius)); y <= lower; y += 1) {
    for (let x = Math.max(0, Math.floor(Math.min(x1, x2) - radius)); x <= right; x += 1) {
      const a = x + 0.5 - x1, b = y + 0.5 - y1, share = Math.max(0, Math.min(1, (a * dx + b * dy) / long));
      if ((a - share * dx) ** 2 + (b - share * dy) ** 2 <= limit) act(y * width + x);
    }
  }
}

// pixels of a line from point to point, without gaps along either axis
export function line(points, size, act) {
  for (let k = 0; k < points.length; k += 1) {
    const [x1, y1] = points[Math.max(0, k - 1)], [x2, y2] = points[k];
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(x2 - x1), Math.abs(y2 - y1))));
    for (let s = 0; s <= steps; s += 1) {
      const x = Math.floor(x1 + ((x2 - x1) * s) / steps), y = Math.floor(y1 + ((y2 - y1) * s) / steps);
      if (inside(x, y, size)) act(y * size.width + x);
    }
  }
}

// pixels whose centres lie in a polygon, by the even-odd rule
export function polygon(points, { width, height }, act) {
  const rows = points.map(([, y]) => y);
  const last = Math.min(height - 1, Math.floor(Math.max(...rows)));
  for (let y = Math.max(0, Math.floor(Math.min(...rows))); y <= last; y += 1) {
    const cuts = [];
    points.forEach(([x1, y1], k) => {
      const [x2, y2] = points[(k + 1) % points.length], middle = y + 0.5;
      if (y1 <= middle !== y2 <= middle) cuts.push(x1 + ((middle - y1) * (x2 - x1)) / (y2 - y1));
    });
    cuts.sort((a, b) => a - b);
    for (let k = 0; k + 1 < cuts.length; k += 2) {
      const from = Math.max(0, Math.ceil(cuts[k] - 0.5)), to = Math.min(width - 1, cuts[k + 1] - 0.5);
      for (let x = from; x <= to; x += 1) act(y * width + x);
    }
  }
}

// what an action takes from cells, or draws through them: pixels by cell
export function byCell(pairs) {
  const pixels = new Map();
  for (const [cell, i] of pairs) (pixels.get(cell) || pixels.set(cell, new Set()).get(cell)).add(i);
  return pixels;
}

// groups of pixels that belong and hang together, those that hold one of the seeds
export function pieces(seeds, belongs, size, corners) {
  const found = [], seen = new Set();
  for (const seed of seeds) {
    if (seen.has(seed) || !belongs(seed)) continue;
    const piece = [seed];
    seen.add(seed);
    for (let k = 0; k < piece.length; k += 1) {
      for (const j of beside(piece[k], size, corners)) {
        if (seen.has(j) || !belongs(j)) continue;
        seen.add(j);
        piece.push(j);
      }
    }
    found.push(piece);
  }
  return found;
}

// the pixels next to one, with those at its corners if wanted
export function* beside(i, { width, height }, diagonally = false) {
  const x = i % width;
  if (x > 0) yield i - 1;
  if (x < width - 1) yield i + 1;
  for (const row of [i - width, i + width]) {
    if (row < 0 || row >= width * height) continue;
    yield row;
    if (diagonally && x > 0) yield row - 1;
    if (diagonally && x < width - 1) yield row + 1;
  }
}
