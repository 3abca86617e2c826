"""Images as fluorescence microscopes make them, with instance labels, from a seed.

Cells of varied size, shape and brightness, clusters whose cells touch, uneven illumination,
out-of-focus blur, shot noise and read-out noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.uint16]
Instances = NDArray[np.uint16]


def touching_cells(seed: int, size: tuple[int, int] = (256, 256)) -> tuple[Image, Instances]:
    """One image ``[H, W]`` and its instance labels (0 = background), the same for the same seed.

    Args:
        seed: any non-negative integer.
        size: height and width in pixels.
    """
    rng = np.random.default_rng(seed)
    labels = _place_cells(rng, size)
    return _acquire(rng, labels), labels


def _place_cells(rng: np.random.Generator, size: tuple[int, int]) -> Instances:
    """Cells one after the other, most of them beside an earlier one, so that clusters form."""
    labels = np.zeros(size, np.uint16)
    centres: list[tuple[float, float, float]] = []  # y, x, radius
    wanted = int(size[0] * size[1] * rng.uniform(0.30, 0.45) / (np.pi * 11**2))
    for _ in range(4 * wanted):
        if len(centres) >= wanted:
            break
        radius = float(np.clip(rng.lognormal(np.log(10.5), 0.25), 5, 20))
        if centres and rng.random() < 0.75:
            y, x, other = centres[rng.integers(len(centres))]
            angle, distance = rng.uniform(0, 2 * np.pi), (radius + other) * rng.uniform(0.85, 1.05)
            y, x = y + distance * np.sin(angle), x + distance * np.cos(angle)
        else:
            y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            continue
        if _draw_cell(rng, labels, y, x, radius, len(centres) + 1):
            centres.append((y, x, radius))
    return labels


def _draw_cell(
    rng: np.random.Generator, labels: Instances, y: float, x: float, radius: float, name: int
) -> bool:
    """Draw an irregular ellipse where nothing is yet, unless too little of it would show."""
    reach = int(2 * radius) + 2
    top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
    window = labels[top : int(y) + reach + 1, left : int(x) + reach + 1]
    dy, dx = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]].astype(float)
    angle = np.arctan2(dy - y, dx - x)
    elongation, turn = rng.uniform(1.0, 1.6), rng.uniform(0, np.pi)
    outline = radius / np.sqrt(
        elongation * np.cos(angle - turn) ** 2 + np.sin(angle - turn) ** 2 / elongation
    )
    for wave in range(2, 5):
        outline *= 1 + rng.normal(0, 0.10 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    cell = np.hypot(dy - y, dx - x) < outline
    free = cell & (window == 0)
    _, count = ndimage.label(free)
    if count != 1 or free.sum() < 0.75 * cell.sum() or free.sum() < 40:
        return False
    window[free] = name
    return True


def _acquire(rng: np.random.Generator, labels: Instances) -> Image:
    """The microscope: brightness, texture, illumination, focus, shot noise, read-out noise."""
    count = int(labels.max())
    brightness = np.concatenate([[0.0], rng.lognormal(np.log(250), 0.35, size=count)])
    inside = ndimage.distance_transform_edt(_without_borders(labels))
    thickness = 0.55 + 0.45 * np.minimum(inside / 6, 1)
    texture = ndimage.gaussian_filter(rng.normal(size=labels.shape), 2.0)
    texture = 1 + 0.18 * texture / texture.std()
    sample = brightness[labels] * thickness * texture
    haze = ndimage.gaussian_filter(sample, 14)
    photons = 40 + sample + 0.35 * haze
    photons *= _illumination(rng, labels.shape)
    photons = ndimage.gaussian_filter(photons, rng.uniform(1.0, 1.7))
    photons = photons * rng.uniform(0.25, 1.0)
    detected = rng.poisson(np.maximum(photons, 0)) + rng.normal(100, 4, size=labels.shape)
    return np.clip(np.round(detected), 0, 65535).astype(np.uint16)


def _without_borders(labels: Instances) -> NDArray[np.bool_]:
    """Cells without the pixels that touch another cell: the dip in brightness between them."""
    high = ndimage.maximum_filter(labels, 3)
    low = ndimage.minimum_filter(np.where(labels == 0, 65535, labels), 3)
    inner: NDArray[np.bool_] = (labels > 0) & (high == low)
    return inner


def _illumination(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    """A smooth field around 1: brighter off-centre, and darker towards the corners."""
    y, x = (np.linspace(-1, 1, n) for n in size)
    cy, cx = rng.uniform(-0.5, 0.5, size=2)
    field: NDArray[np.float64] = 1.15 - rng.uniform(0.15, 0.3) * (
        (y[:, None] - cy) ** 2 + (x[None] - cx) ** 2
    )
    return field
