"""Ctrl-C that is not lost: some code of others swallows the exception, and the work went on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Note every SIGINT in here, besides raising KeyboardInterrupt as Python does.

    Extensions made by Cython swallow it while they are imported (``except: pass`` around the
    registration of arrays as sequences): found with imagecodecs, which tifffile imports at the
    first compressed page.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield  # ignored, in a background job, or somebody else's
        return

    def note(number: int, frame: FrameType | None) -> None:
        _came.set()
        signal.default_int_handler(number, frame)

    _came.clear()
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _came.clear()


def check_interrupt() -> None:
    """To be called between the steps of long work.

    Raises:
        KeyboardInterrupt: if there was a SIGINT that somebody swallowed.
    """
    if _came.is_set():
        raise KeyboardInterrupt
