"""What was wrong with an argument, an image or a size, what was expected, and what helps."""

from __future__ import annotations


class ArgumentError(ValueError):
    """Something that a network, an inferer, a loss or a transform cannot take.

    As text, in one line: ``found: expected ...; hint``.

    Args:
        found: the argument, and what it is.
        expected: what it should be.
        hint: what to do; empty where ``expected`` says it.
    """

    def __init__(self, found: str, expected: str, hint: str = "") -> None:
        super().__init__(found, expected, hint)  # which pickling hands on
        self.found, self.expected, self.hint = found, expected, hint

    def __str__(self) -> str:
        return f"{self.found}: expected {self.expected}" + (f"; {self.hint}" if self.hint else "")


class GeometryError(ArgumentError):
    """A size that the network cannot take without cropping or pooling unevenly."""


class ClassesError(ArgumentError):
    """A number of classes that a network gives, and that what follows it cannot take."""
