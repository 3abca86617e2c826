"""``01/`` with ``01_GT/SEG/``, as the Cell Tracking Challenge has them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.data.layout import Layout, Pair, Splits
from overtile.pipelines.data.names import folders_in, images_of, unlike
from overtile.pipelines.errors import DataError, printable
from overtile.pipelines.images.formats import stem, write_image
from overtile.pipelines.images.stored import Spacing

log = logging.getLogger(__name__)


class CellTracking(Layout):
    """A sequence of frames a folder, with its gold and its silver truth in others beside it."""

    name = "ctc"
    expected = "01/ and 01_GT/SEG/"
    rank = 20
    whole = True

    @property
    def formats(self) -> Sequence[str]:
        """TIFF, which the challenge has."""
        return ("tif",)

    def recognises(self, folder: Path) -> bool:
        """By a sequence that has a truth."""
        return bool(_sequences(folder))

    def pairs(self, folder: Path) -> list[Pair]:
        """The annotated frames; silver truth serves where there is no gold."""
        sequences = _sequences(folder)
        if not sequences:
            raise DataError(folder, "no 01/ with 01_GT/SEG/", "the Cell Tracking Challenge's")
        pairs = []
        annotated = {sequence: _annotated(sequence) for sequence in sequences}
        for sequence, labels in annotated.items():
            if not labels:
                home = f"{sequence}_GT/SEG"
                bare = f"no man_seg*.tif, nor in {sequence.name}_ST/SEG"
                if not any(annotated.values()):
                    raise DataError(home, bare, "at least one annotated frame")
                log.warning("left out: %s: %s", printable(home), printable(bare))
            numbered = [(re.search(r"(\d+)$", stem(f)), f) for f in images_of(sequence)]
            frames = unlike((str(int(m[1])), f) for m, f in numbered if m)
            for label in labels:
                match = re.fullmatch(r"man_seg_?(\d+)(?:_(\d+))?", stem(label))
                if match is None:
                    raise DataError(
                        label, "another name", "man_segT.tif or man_seg_T_Z.tif", "rename it"
                    )
                frame = str(int(match[1]))
                if frame not in frames:
                    missing = f"no frame t{match[1]}.tif in", sequence
                    raise DataError(label, missing, hint="add it")
                pairs.append(Pair(frames[frame], label, int(match[2]) if match[2] else None))
        return pairs

    def write(
        self, folder: Path, splits: Splits, format: str, membranes: bool, spacing: Spacing
    ) -> None:
        """A sequence a split, of unrelated images: each cell is a track of one frame."""
        for number, pairs in enumerate(splits.values(), 1):
            frames = folder / f"{number:02d}"
            gold, markers, silver = (
                folder / f"{number:02d}_{part}" for part in ("GT/SEG", "GT/TRA", "ST/SEG")
            )
            for path in (frames, gold, markers, silver):
                path.mkdir(parents=True)
            tracks: list[str] = []
            for frame, (image, labels) in enumerate(pairs):
                write_image(frames / f"t{frame:03d}", image, format)
                write_image(silver / f"man_seg{frame:03d}", labels, format)
                if frame % 3 == 0:
                    write_image(gold / f"man_seg{frame:03d}", labels, format)
                marked, count = _mark(labels, len(tracks))
                write_image(markers / f"man_track{frame:03d}", marked, format)
                tracks += [f"{len(tracks) + k} {frame} {frame} 0" for k in range(1, count + 1)]
            (markers / "man_track.txt").write_text("".join(f"{line}\n" for line in tracks))


LAYOUT = CellTracking()


def _sequences(folder: Path) -> list[Path]:
    return [
        f
        for f in folders_in(folder)
        if re.fullmatch(r"\d{2,3}", f.name)
        and any(f.with_name(f"{f.name}_{kind}").is_dir() for kind in ("GT", "ST"))
    ]


def _annotated(sequence: Path) -> list[Path]:
    """Segmented frames: the gold truth, or the silver one where there is no gold."""
    truths = (sequence.with_name(f"{sequence.name}_{kind}") / "SEG" for kind in ("GT", "ST"))
    return next((files for truth in truths if (files := images_of(truth))), [])


def _mark(labels: NDArray[np.uint16], used: int) -> tuple[NDArray[np.uint16], int]:
    """A ball of radius 2 around each cell's innermost pixel, numbered from ``used`` + 1 on."""
    from scipy import ndimage

    marked = np.zeros_like(labels)
    count = 0
    for name, window in enumerate(ndimage.find_objects(labels), 1):
        if window is None:
            continue
        count += 1
        if used + count > 65535:
            raise DataError(
                found="more than 65535 cells in a sequence", expected="fewer or smaller images"
            )
        cell = labels[window] == name
        depth = ndimage.distance_transform_edt(np.pad(cell, 1))[(slice(1, -1),) * cell.ndim]
        centre = np.unravel_index(depth.argmax(), cell.shape)
        grid = np.ogrid[tuple(slice(n) for n in cell.shape)]
        near = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= 4
        marked[window][cell & near] = used + count
    return marked, count
