"""What a benchmark found: one line a figure, marked where it misses its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark module's ``figures()``.

    Attributes:
        name: of the figure, short.
        value: what was measured; a ratio against a peer wherever there is one.
        target: what it has to reach; None for a figure that is only told.
        better: whether a ``"higher"`` or a ``"lower"`` value is better.
        text: what was measured against what, with the figure in it.
    """

    name: str
    value: float
    target: float | None
    better: Literal["higher", "lower"]
    text: str

    @property
    def missed(self) -> bool:
        """Whether it is worse than its target; a value that is no number is."""
        if self.target is None:
            return False
        good = self.value >= self.target if self.better == "higher" else self.value <= self.target
        return not good

    def __str__(self) -> str:
        bound = "at least" if self.better == "higher" else "at most"
        mark = f"  MISSED (target {bound} {self.target:g})" if self.missed else ""
        return f"{self.name}: {self.text}{mark}"
