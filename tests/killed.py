"""Kill a writer at every point where it touches a file, and see what it left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count

_TOUCH = (
    *("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"),
    *("os.symlink", "os.chmod", "os.utime", "shutil.rmtree", "shutil.copyfile", "shutil.move"),
)


def killed_everywhere(write: Callable[[], object]) -> Iterator[int]:
    """Run ``write`` in a forked process that is killed before the first, second ... such call.

    Hands out the number after each kill, to look at what there is; ends with a run that was not
    killed. What is written into a file that has its final name is seen half at one of them, since
    it was opened before.
    """
    for number in count(1):
        child = os.fork()
        if child == 0:
            try:
                _kill_at(number)
                write()
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return
        assert code == 9, f"the writer failed with {code}"
        yield number


def _kill_at(number: int) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "open" and len(arguments) > 1 and not _writes(arguments):
            return
        if event in _TOUCH:
            seen += 1
            if seen == number:
                os._exit(9)

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
