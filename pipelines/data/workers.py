"""Processes of a loader, which hand their batches on through sockets."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import util
from pathlib import Path

from overtile.pipelines.errors import ConfigurationError, Setting

_PATH = 107  # bytes of a socket's path; macOS has four less
_NAMES = len("/pymp-12345678/listener-12345678") + 4
_SHORT = (Path("/tmp"), Path("/var/tmp"))


def make_room_for_sockets() -> None:
    """Where the folder of temporary files is too deep for a socket, put those into a short one.

    Workers would fail at their first batch in a thread that nobody hears, and the run would wait
    for ever. Python itself does the same from 3.14 on.

    Raises:
        ConfigurationError: if there is no short one.
    """
    own = tempfile.gettempdir()
    if len(os.fsencode(own)) + _NAMES <= _PATH:
        return
    short = next((f for f in _SHORT if os.access(f, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ConfigurationError(
            ("TMPDIR", Path(own)),
            f"too long for the sockets of workers, and {' and '.join(map(str, _SHORT))} cannot be "
            "written",
            f"at most {_PATH - _NAMES} bytes",
            ("set TMPDIR to another folder", Setting("num_workers", 0)),
        )
    tempfile.tempdir = str(short)
    try:
        util.get_temp_dir()  # from now on the one of this process and of those that it starts
    finally:
        tempfile.tempdir = own
