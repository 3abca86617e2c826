"""Numba's compiler, which keeps what it compiled where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit(cache=True)``, without the cache in a read-only installation of no home.

    Numba refuses the whole function where it finds no folder to keep it in; without one it is
    compiled anew in every process, which takes seconds.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # cannot cache function: no locator available
            return njit(**options)(function)

    return decorate
