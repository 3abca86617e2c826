"""Sections as electron microscopes show neural tissue, with instance labels, from a seed.

Cells that fill the plane between dark membranes, with organelles that are as dark.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Instances = NDArray[np.uint16]
Plane = NDArray[np.float32]
Window = tuple[slice, slice]


def membranes(
    seed: int, size: tuple[int, int] = (256, 256), section: int = 0
) -> tuple[NDArray[np.uint8], Instances]:
    """One section through neural tissue ``[H, W]`` and its cells (0 = membrane).

    Grey values, membrane width (3 to 6 pixels, a fifth of the area), cell sizes and the spectrum
    of the noise are near those of the ISBI 2012 stack (Drosophila larva, 4 nm a pixel). Cells are
    numbered within the section. The same arguments give the same bits.

    Args:
        seed: of the tissue, any non-negative integer.
        size: height and width in pixels.
        section: number of the section; neighbours resemble each other, as in a stack.
    """
    tissue = np.random.default_rng([seed, 0])  # draws the same for every section
    rng = np.random.default_rng([seed, 1, section])
    cells, inside = _grow_tissue(tissue, size, section)
    thick = 1.45 + 0.625 * (1 + np.tanh(_smooth(tissue, size, 25, section)))  # half a membrane
    oblique = np.maximum(_smooth(tissue, size, 20, section) - 1.6, 0)  # cut along, not across
    parts, count = ndimage.label(inside > thick + 9 * oblique)
    kept = np.bincount(parts.ravel(), minlength=count + 1) >= 12
    kept[0] = False
    names = np.where(kept, np.cumsum(kept), 0).astype(np.uint16)
    image = _stain(tissue, cells, inside, thick, oblique, section)
    room = inside.copy()
    _draw_mitochondria(tissue, image, room, section)
    _draw_vesicles(tissue, rng, image, room, cells)
    _draw_cisternae(rng, image, room)
    return _expose(rng, image), names[parts]


def _smooth(
    rng: np.random.Generator, size: tuple[int, ...], scale: float, section: int = 0
) -> Plane:
    """A random field around 0, deviation near 1: a cubic B-spline through a grid of ``scale``.

    It changes slowly from section to section.
    """
    one, other = rng.standard_normal((2, *(int(n / scale) + 5 for n in size)), np.float32)
    grid = np.cos(section / 8) * one + np.sin(section / 8) * other
    bases = []
    for length, nodes, shift in zip(size, grid.shape, rng.random(2), strict=True):
        place = np.arange(length) / scale + 1 + shift
        far = np.abs(place[:, None] - np.arange(nodes))
        near = 2 / 3 - far**2 + far**3 / 2
        bases.append(np.where(far < 1, near, np.maximum(2 - far, 0) ** 3 / 6).astype(np.float32))
    field: Plane = np.float32(1.5) * (bases[0] @ grid.astype(np.float32) @ bases[1].T)
    return field


def _pack_circles(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """Circles of widely varied size that hardly overlap, ``[n, 3]``: y, x, radius; large first."""
    rim = 50
    area = (size[0] + 2 * rim) * (size[1] + 2 * rim)
    radii = np.sort(np.clip(rng.lognormal(np.log(10), 0.72, area // 540), 5, 70))[::-1]
    circles = np.empty((0, 3))
    for radius in radii:
        tries = rng.uniform(-rim, np.add(size, rim), (25, 2))
        apart = np.linalg.norm(tries[:, None] - circles[None, :, :2], axis=2)
        free = (apart > 0.9 * (circles[:, 2] + radius)).all(axis=1)
        if free.any():
            circles = np.vstack([circles, [*tries[free.argmax()], radius]])
    return circles


def _grow_tissue(
    rng: np.random.Generator, size: tuple[int, int], section: int
) -> tuple[NDArray[np.int32], Plane]:
    """Cells that fill the plane, and every pixel's distance to the border of its cell.

    Each pixel belongs to the nearest of a set of ellipses (an additively weighted Voronoi
    diagram), in coordinates bent by random fields; some cells are joined, so that not all of
    them are convex.
    """
    circles = _pack_circles(rng, size)
    count = len(circles)
    names = np.arange(1, count + 1, dtype=np.int32)
    gaps = np.linalg.norm(circles[:, None, :2] - circles[None, :, :2], axis=2)
    gaps -= circles[:, 2] + circles[:, None, 2]
    np.fill_diagonal(gaps, np.inf)
    for k in rng.permutation(count)[: count // 6]:
        names[k] = names[gaps[k].argmin()]
    centres = circles[:, :2] + section * rng.normal(0, 1.5, (count, 2))
    turns = rng.uniform(0, np.pi) + rng.normal(0, 0.6, count)  # processes run in bundles
    aspects = np.exp(np.abs(rng.normal(0.25, 0.45, count)))
    swelling = rng.normal(0, 0.25, count) * np.sin(rng.uniform(0, 2 * np.pi, count) + section / 8)
    radii = circles[:, 2] * (1 + swelling)

    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    for scale, amplitude in ((80, 16), (26, 6.5), (9, 1.1), (4, 0.35)):
        y += np.float32(amplitude) * _smooth(rng, size, scale, section)
        x += np.float32(amplitude) * _smooth(rng, size, scale, section)
    nearest = np.full(size, np.inf, np.float32)
    cells = np.zeros(size, np.int32)
    for k in range(count):
        cy, cx = centres[k]
        window = _window(size, cy, cx, int(1.4 * radii[k] * np.sqrt(aspects[k])) + 50)
        dy, dx = y[window] - np.float32(cy), x[window] - np.float32(cx)
        distance = _elliptic(dy, dx, turns[k], aspects[k]) - np.float32(radii[k])
        closer = distance < nearest[window]
        nearest[window][closer] = distance[closer]
        cells[window][closer] = names[k]
    border = np.zeros(size, bool)
    for axis in (0, 1):
        differs = np.diff(cells, axis=axis) != 0
        border |= np.pad(differs, [(0, int(a == axis)) for a in (0, 1)])
        border |= np.pad(differs, [(int(a == axis), 0) for a in (0, 1)])
    if not border.any():  # a tiny image within one cell
        border[0] = True
    return cells, ndimage.distance_transform_edt(~border).astype(np.float32)


def _window(size: tuple[int, ...], y: float, x: float, reach: int) -> Window:
    """The square of pixels around a point, as far as it lies in the image."""
    rows, columns = (
        slice(min(max(int(c) - reach, 0), n), min(max(int(c) + reach + 1, 0), n))
        for c, n in zip((y, x), size, strict=True)
    )
    return rows, columns


def _elliptic(dy: Plane, dx: Plane, turn: float, aspect: float) -> Plane:
    """Distance from 0 in the metric of a turned ellipse of unit area."""
    along = np.float32(np.cos(turn)) * dy + np.float32(np.sin(turn)) * dx
    across = np.float32(np.cos(turn)) * dx - np.float32(np.sin(turn)) * dy
    distance: Plane = np.sqrt(along**2 / np.float32(aspect) + across**2 * np.float32(aspect))
    return distance


def _stain(
    rng: np.random.Generator,
    cells: NDArray[np.int32],
    inside: Plane,
    thick: NDArray[np.floating],
    oblique: Plane,
    section: int,
) -> Plane:
    """Cytoplasm, dark membranes of varying contrast, and what is stained beside them."""
    tone = rng.normal(0, 5, cells.max() + 1) - 30 * (rng.random(cells.max() + 1) < 0.06)
    image: Plane = 150 + tone.astype(np.float32)[cells]
    contrast = 88 + 14 * _smooth(rng, cells.shape, 15, section)
    image -= contrast * np.exp(-((inside / (0.8 * thick + 1.1)) ** 2))
    image -= 60 * np.minimum(3 * oblique, 1) * np.exp(-np.maximum(inside - 1, 0) / 6)
    synapses = np.maximum(_smooth(rng, cells.shape, 16, section) - 1.6, 0)
    image -= 60 * synapses * np.exp(-inside / 8)
    return image


def _draw_mitochondria(rng: np.random.Generator, image: Plane, room: Plane, section: int) -> None:
    """Dark ellipses with a darker wall and striped by cristae; takes their place from ``room``."""
    for _ in range(image.size // 1000):
        y, x = rng.uniform(0, image.shape)
        wanted, turn, aspect = rng.uniform(8, 26), rng.uniform(0, np.pi), rng.uniform(1, 1.8)
        pitch, phase = rng.uniform(3.5, 6), rng.uniform(0, 2 * np.pi)
        middle, half_length = rng.uniform(-20, 60), rng.uniform(10, 40)  # in sections
        dark, striped = rng.uniform(25, 60), rng.uniform(0, 24)
        extent = 1 - ((section - middle) / half_length) ** 2
        radius = min(wanted, room[int(y), int(x)] - 2) * np.sqrt(max(extent, 0))
        if radius < 6.5:
            continue
        window = _window(image.shape, y, x, int(1.6 * radius) + 4)
        dy, dx = (d.astype(np.float32) for d in np.ogrid[window])
        dy, dx = dy - np.float32(y), dx - np.float32(x)
        angle = np.arctan2(dy, dx)
        outline = 1 + 0.06 * np.cos(2 * angle + phase) + 0.04 * np.cos(3 * angle)
        depth = radius * outline - _elliptic(dy, dx, turn, aspect)
        depth = np.minimum(depth, room[window] - 2.5)
        across = np.cos(turn) * dx - np.sin(turn) * dy + 2.5 * np.sin(dy / 5 + phase)
        cristae = striped * np.cos(2 * np.pi / pitch * across) * (depth > 2.5)
        wall = 40 * np.exp(-(((depth - 1.5) / 1.6) ** 2))
        image[window] -= np.clip(depth + 0.5, 0, 1) * (dark + cristae) + wall * (depth > -2)
        room[window] = np.minimum(room[window], np.maximum(-depth, 0))


def _draw_vesicles(
    tissue: np.random.Generator,
    rng: np.random.Generator,
    image: Plane,
    room: Plane,
    cells: NDArray[np.int32],
) -> None:
    """Dark rings (vesicles) and dots (microtubules), crowded in some cells."""
    crowded = tissue.gamma(1.0, 0.45, cells.max() + 1)
    count = rng.poisson(image.size / 60)
    ys, xs = rng.integers(0, image.shape[0], count), rng.integers(0, image.shape[1], count)
    kept = (room[ys, xs] > 5) & (rng.random(count) < crowded[cells[ys, xs]])
    for y, x in zip(ys[kept], xs[kept], strict=True):
        radius, dark = rng.choice([0, 0, 1.8, 2.2, 2.6, 3.2]), rng.uniform(25, 75)
        shift = rng.uniform(-0.5, 0.5, 2)
        window = _window(image.shape, y, x, 6)
        dy, dx = np.ogrid[window]
        distance = np.hypot(dy - y - shift[0], dx - x - shift[1])
        image[window] -= dark * np.exp(-(((distance - radius) / 1.15) ** 2))


def _draw_cisternae(rng: np.random.Generator, image: Plane, room: Plane) -> None:
    """Bent dark lines within cells: endoplasmic reticulum, easily taken for membrane."""
    for _ in range(rng.poisson(image.size / 6000)):
        y, x = rng.uniform(0, image.shape)
        space = room[int(y), int(x)]
        if space < 9:
            continue
        steps = np.arange(int(rng.uniform(1.5, 3) * space))
        angle = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5 / space) * steps
        for dy, dx in zip(np.cumsum(np.sin(angle)), np.cumsum(np.cos(angle)), strict=True):
            py, px = y + dy, x + dx
            if not (0 <= py < image.shape[0] and 0 <= px < image.shape[1]):
                break
            if room[int(py), int(px)] < 4:
                break
            window = _window(image.shape, py, px, 3)
            gy, gx = np.ogrid[window]
            image[window] -= 13 * np.exp(-((gy - py) ** 2 + (gx - px) ** 2) / 2.4)


def _expose(rng: np.random.Generator, image: Plane) -> NDArray[np.uint8]:
    """The section and the camera: granular resin, uneven brightness, focus, noise, contrast."""
    size = image.shape
    resin = rng.standard_normal(size, np.float32)
    image = image + 38 * ndimage.gaussian_filter(resin, 1.6)
    image += 70 * ndimage.gaussian_filter(resin, 4)
    image += 9 * _smooth(rng, size, 120) + 5 * _smooth(rng, size, 45)
    image += 50 * np.maximum(_smooth(rng, size, 24) - 1.8, 0)  # thin or torn: bright
    image = ndimage.gaussian_filter(image, rng.uniform(0.5, 1.0))
    noise = ndimage.gaussian_filter(rng.standard_normal(size, np.float32), 0.95)
    image += rng.uniform(52, 72) * noise + 3 * rng.standard_normal(size, np.float32)
    image = 136 + rng.normal(0, 8) + rng.uniform(1.0, 1.2) * (image - 132)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
