"""Run ``python -m monai.bundle`` or ``overtile`` in forks of one process that has imported both.

Importing takes longer than most commands do. A fork is otherwise what a user starts: its own
arguments, folder, environment and output, the same module run as ``__main__``, the same exit code.
Reads one JSON object a line, answers with one exit code a line, or with the number of a process in
the ``background`` at once; ``kill_after`` seconds end a fork that still runs then, as ``kill -9``
does, no file may grow above ``limit_file`` bytes, and the process not above ``limit_memory``;
``without_roots_rights`` a file is read and written only by whom its mode lets.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import runpy
import signal
import sys
import time
from typing import Any

import monai.bundle  # noqa: F401

import overtile.pipelines.inference.evaluation
import overtile.pipelines.segment.run
import overtile.pipelines.training.run  # noqa: F401


def run(job: dict[str, Any]) -> int:
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if "limit_file" in job:  # bytes; what is larger is refused as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit_file"], resource.RLIM_INFINITY))
    if job.get("without_roots_rights"):
        give_up_roots_rights()
    if "limit_memory" in job:  # bytes of addresses
        resource.setrlimit(resource.RLIMIT_AS, (job["limit_memory"], resource.RLIM_INFINITY))
    sys.argv = [f"python -m {job['module']}", *job["arguments"]]
    sys.path[0] = job["cwd"]
    sys.modules.pop("overtile.pipelines", None)  # a command's first import of it decides something
    try:
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as stopped:
        return exit_code(stopped)
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())
            return 1
        except SystemExit as stopped:
            return exit_code(stopped)


def give_up_roots_rights() -> None:
    """Let the modes of files hold for root too, as they do for everybody else."""
    override = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of Linux
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, low words first
    if libc.capget(head, sets) == 0:
        sets[0] &= ~override
        sets[1] &= ~override
        sets[2] &= ~override
        libc.capset(head, sets)


def exit_code(stopped: SystemExit) -> int:
    return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = run(job)
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if job.get("background"):
            print(child, flush=True)
        else:
            print(os.waitstatus_to_exitcode(wait(child, job.get("kill_after"))), flush=True)


def wait(child: int, kill_after: float | None) -> int:
    if kill_after is not None:
        end = time.monotonic() + kill_after
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    main()
