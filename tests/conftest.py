"""What tests share: where the repository and the real data are, and how a user runs a bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, for what they start too
    os.environ.setdefault("OMP_NUM_THREADS", "1")
_CACHE = tempfile.TemporaryDirectory(prefix="overtile-cache-")  # gone with the tests
os.environ["OVERTILE_CACHE"] = _CACHE.name
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CASES = DATA.with_name("cases")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip("no ../shared/data: tests on real images are left out")
    return DATA


@pytest.fixture(scope="session")
def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip("no ../shared/cases: tests on files of the field are left out")
    return CASES


class Bundle:
    """Runs ``python -m monai.bundle run`` in a folder of its own, as a user types it.

    `run` forks a process that has imported it already (`tests/warm.py`); `start` starts anew.
    """

    def __init__(self, folder: Path, warm: subprocess.Popen[str]) -> None:
        self.folder, self.warm = folder, warm

    def command(self, name: str, run: str, *overrides: object) -> list[str]:
        bundle = ROOT / "bundles" / name
        config = "train" if run.startswith("train") else run
        return [
            *(sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run),
            *("--bundle_root", str(bundle)),
            *("--config_file", str(bundle / "configs" / f"{config}.json")),
            *(str(o) for o in overrides),
        ]

    def run(
        self,
        name: str,
        run: str,
        *overrides: object,
        env: dict[str, str] | None = None,
        **limits: float | None,
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(name, run, *overrides)
        arguments = command[command.index("monai.bundle") + 1 :]
        return self.fork("monai.bundle", arguments, env, **limits)

    def overtile(
        self, *words: object, env: dict[str, str] | None = None, **limits: float | None
    ) -> subprocess.CompletedProcess[str]:
        return self.fork("overtile.pipelines", [str(w) for w in words], env, **limits)

    def fork(
        self,
        module: str,
        arguments: list[str],
        env: dict[str, str] | None = None,
        **limits: float | None,
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            outputs = [str(Path(folder) / name) for name in ("stdout", "stderr")]
            code = self.ask(module, arguments, outputs, env, **limits)
            texts = [Path(path).read_text(errors="replace") for path in outputs]
        return subprocess.CompletedProcess([module, *arguments], code, *texts)

    def background(self, module: str, arguments: list[str], log: Path) -> int:
        """The number of a process that goes on; whoever starts it ends it."""
        return self.ask(module, arguments, [str(log), str(log)], background=True)

    def ask(
        self,
        module: str,
        arguments: list[str],
        outputs: list[str],
        env: dict[str, str] | None = None,
        **others: float | None,
    ) -> int:
        job = {
            "module": module,
            "arguments": arguments,
            "cwd": str(self.folder),
            "env": self.environment(env),
            "stdout": outputs[0],
            "stderr": outputs[1],
            **others,
        }
        print(json.dumps(job), file=self.warm.stdin, flush=True)
        assert self.warm.stdout is not None
        return int(self.warm.stdout.readline())

    def start(self, name: str, run: str, *overrides: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(name, run, *overrides),
            cwd=self.folder,
            env=self.environment(None),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a shell's background jobs ignore Ctrl-C, and so would what they start
        )

    def environment(self, extra: dict[str, str] | None) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        return {**own, **(extra or {})}


@pytest.fixture(scope="session")
def bundle_in() -> Iterator[Callable[[Path], Bundle]]:
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "warm.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as warm:
        yield lambda folder: Bundle(folder, warm)
        assert warm.stdin is not None
        warm.stdin.close()


@pytest.fixture
def bundle(tmp_path: Path, bundle_in: Callable[[Path], Bundle]) -> Bundle:
    return bundle_in(tmp_path)
