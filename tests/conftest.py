"""What tests share: where the repository and the real data are, and how a user runs a bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

os.environ["OVERTILE_CACHE"] = tempfile.mkdtemp(prefix="overtile-cache-")
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip("no ../shared/data: tests on real images are left out")
    return DATA


class Bundle:
    """Runs ``python -m monai.bundle run`` in a folder of its own, as a user types it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, name: str, run: str, *overrides: object) -> list[str]:
        bundle = ROOT / "bundles" / name
        config = "train" if run == "training" else run
        return [
            *(sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run),
            *("--bundle_root", str(bundle)),
            *("--config_file", str(bundle / "configs" / f"{config}.json")),
            *(str(o) for o in overrides),
        ]

    def run(
        self, name: str, run: str, *overrides: object, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(name, run, *overrides),
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    def start(self, name: str, run: str, *overrides: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(name, run, *overrides),
            cwd=self.folder,
            env=self.environment(None),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a shell's background jobs ignore Ctrl-C, and so would what they start
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def environment(self, extra: dict[str, str] | None) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        return {**own, **(extra or {})}


@pytest.fixture(scope="session")
def bundle_in() -> type[Bundle]:
    return Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)
