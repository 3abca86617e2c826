"""A plane of an image file, and how it is written down: ``stack.tif:3``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from overtile.pipelines.images.formats import stem


@dataclass(frozen=True)
class Plane:
    """An image file, or one plane of it. As text ``stack.tif``, or ``stack.tif:3``.

    Items of data sets hold the text, since MONAI collates and prints it; whoever needs the parts
    asks `of`.

    Attributes:
        file: or folder that is one image.
        number: of the plane, from 0; None for all that there is.
    """

    file: Path
    number: int | None = None

    @classmethod
    def of(cls, text: str | Path | Plane) -> Plane:
        """The plane that a text names; a file of exactly that name wins."""
        if isinstance(text, Plane):
            return text
        file, mark, number = str(text).rpartition(":")
        if mark and number.isdecimal() and not Path(text).exists():
            return cls(Path(file), int(number))
        return cls(Path(text))

    def __str__(self) -> str:
        return str(self.file) if self.number is None else f"{self.file}:{self.number}"

    @property
    def stem(self) -> str:
        """Name of what is made of it: ``stack`` or ``stack_0003``."""
        name = stem(self.file)
        return name if self.number is None else f"{name}_{self.number:04d}"


def planes_of(file: Path, count: int) -> list[Plane]:
    """Every plane of a file of so many; the file itself, if there is one."""
    return [Plane(file)] if count == 1 else [Plane(file, number) for number in range(count)]
