"""Run ``python -m monai.bundle`` in forks of one process that has imported it already.

Importing takes longer than most commands do. A fork is otherwise what a user starts: its own
arguments, folder, environment and output, the same module run as ``__main__``, the same exit code.
Reads one JSON object a line, answers with one exit code a line.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import sys
from typing import Any

import monai.bundle  # noqa: F401

import overtile.pipelines.evaluation
import overtile.pipelines.training  # noqa: F401


def run(job: dict[str, Any]) -> int:
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["python -m monai.bundle", *job["arguments"]]
    sys.path[0] = job["cwd"]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as stopped:
        return exit_code(stopped)
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())
            return 1
        except SystemExit as stopped:
            return exit_code(stopped)


def exit_code(stopped: SystemExit) -> int:
    return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = run(json.loads(line))
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
