"""Cells as polygons and back, to the pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from overtile.pipelines.errors import DataError
from overtile.pipelines.label.polygons import as_annotations, filled, outlines, read_asap

pytest.importorskip("skimage")


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(hnp.arrays(np.uint8, SIDES, elements=st.integers(0, 3)))
def test_polygons_hold_every_pixel_of_a_cell_and_its_holes(labels: np.ndarray) -> None:
    found = {int(cell): np.zeros(labels.shape, bool) for cell in np.unique(labels[labels > 0])}
    for cell, loop in outlines(labels):
        found[cell] |= filled([loop], labels.shape) > 0
    for cell, mask in found.items():
        parts, count = ndimage.label(labels == cell)
        whole = [
            ndimage.binary_fill_holes(parts == k + 1, np.ones((3, 3), bool)) for k in range(count)
        ]
        np.testing.assert_array_equal(mask, np.any(whole, axis=0))


def test_a_square_has_four_corners() -> None:
    labels = np.zeros((5, 7), int)
    labels[1:3, 2:6] = 4
    ((cell, loop),) = outlines(labels)
    assert cell == 4
    assert set(loop) == {(2, 1), (6, 1), (6, 3), (2, 3)}
    assert len(as_annotations(labels, (0, 0), (3, 3))[0]["annotation"]["elements"]) == 0
    assert len(as_annotations(labels, (3, 1), (3, 3))[0]["annotation"]["elements"]) == 1


def test_what_is_no_file_of_polygons() -> None:
    for text, said in (
        ("oops", "no annotations"),
        ("<a><Annotation><Coordinate X='1'/></Annotation></a>", "no annotations"),
        ("<a/>", "no polygon"),
        ("<a><Annotation><Coordinate X='nan' Y='1'/></Annotation></a>", "a coordinate that is no"),
    ):
        with pytest.raises(DataError, match=f"a.xml: {said}"):
            read_asap(io.BytesIO(text.encode()), "a.xml")
