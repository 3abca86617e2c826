"""Which classes a bundle tells apart, for whoever asks before its network is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.data.classes import numbered_classes
from overtile.pipelines.errors import size_text
from overtile.pipelines.label.refusals import RefusedError
from overtile.pipelines.reporting.colours import palette

LABELS = "labels"
"""Of the notes of a label: ``"classes"`` or ``"instances"``."""


def classes_of(bundle: Path) -> tuple[str, ...]:
    """Names of the classes, the background first; none for a bundle that numbers cells."""
    config = read_object(bundle / "configs" / "inference.json", REPLACE)
    steps = config.get("postprocessing", {}).get("transforms", ())
    if not any("ClassesFromProbabilities" in str(step.get("_target_")) for step in steps):
        return ()
    names = config.get("class_names")
    if isinstance(names, list):
        return tuple(map(str, names))
    metadata = read_object(bundle / "configs" / "metadata.json", REPLACE)
    return numbered_classes(int(metadata["network_data_format"]["outputs"]["pred"]["num_channels"]))


def colours(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Red, green and blue of each class but the background, by name."""
    return dict(zip(names[1:], palette(len(names) - 1), strict=True))


def check_classes(image_id: str, top: int, shape: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a label with a number that is no class.

    Args:
        image_id: of its image.
        top: its largest number.
        shape: of the label, for the message.
        names: of the classes.

    Raises:
        RefusedError: naming the classes.
    """
    if top >= len(names):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names[:8]))
        raise RefusedError(
            f"label of {size_text(shape)} pixels for image {image_id!r}",
            f"{top} in it, which is no class",
            f"{known}{' ...' if len(names) > 8 else ''}",
        )
