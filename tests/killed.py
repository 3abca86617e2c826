"""Kill a writer, or do something else, at points where it touches a file, and see what it left."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count

_TOUCH = (
    *("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"),
    *("os.symlink", "os.chmod", "os.utime", "shutil.rmtree", "shutil.copyfile", "shutil.move"),
)


def killed_everywhere(
    write: Callable[[], object], at: Iterable[int] | None = None
) -> Iterator[int]:
    """Run ``write`` in a forked process that is killed before the first, second ... such call.

    Or before some of them alone, whose numbers grow without end. Also after every opening to
    write, with nothing written yet: so a file that is written under its final name is seen empty.
    Hands out the number after each kill, to look at what there is; ends with a run that was not
    killed.
    """
    for number, code in disturbed_everywhere(write, lambda: os._exit(9), at):
        if code == 0:
            return
        assert code == 9, f"the writer failed with {code}"
        yield number


def disturbed_everywhere(
    write: Callable[[], object], disturb: Callable[[], object], at: Iterable[int] | None = None
) -> Iterator[tuple[int, int]]:
    """The same with something else than a kill, after which the writer goes on.

    Hands out the number and the exit code: 1 after an error, which is printed. Without end.
    """
    for number in count(1) if at is None else at:
        child = os.fork()
        if child == 0:
            try:
                _disturb_at(number, disturb)
                write()
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
        yield number, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _disturb_at(number: int, disturb: Callable[[], object]) -> None:
    left = number
    counting = threading.Lock()  # threads of the writer: one of them counts, and disturbs, once

    def due() -> bool:
        nonlocal left
        with counting:
            left -= 1
            return left == 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _TOUCH or left < 1 or (event == "open" and not _writes(arguments)):
            return
        if due():
            disturb()
        elif event == "open" and due():
            path, _, flags = arguments
            with suppress(OSError):
                os.close(os.open(path, flags, 0o666))  # type: ignore[arg-type]
            disturb()

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
