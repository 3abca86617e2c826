"""Every block of README and docs runs, every link leads somewhere, every setting is described."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overtile.pipelines.data.synthesis.datasets import write_touching_cells

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES += sorted(ROOT.glob("bundles/*/docs/README.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks_of(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def files_of(name: str) -> dict[str, str]:
    """Files that the page tells its reader to save: blocks behind a paragraph ending "`x.py`:"."""
    pattern = r"`([\w./]+\.(?:py|json))`[^`]*?:\n\n```(?:python|json)\n(.*?)^```"
    found = re.findall(pattern, (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
    return dict(found)


def commands_of(block: str) -> list[str]:
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


WITH_COMMANDS = [name for name in NAMES if blocks_of(name, "sh")]


@pytest.mark.parametrize("name", [name for name in NAMES if blocks_of(name, "python")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_python_blocks_run(name: str) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks_of(name, "python"):  # one after the other, as a reader would
        exec(compile(block, name, "exec"), namespace)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 3, "val": 1, "test": 1}
    folder = tmp_path_factory.mktemp("images")
    return write_touching_cells(folder, counts, size=(96, 112), large=(150, 230))


@pytest.fixture
def checkout(tmp_path: Path, images: Path) -> Iterator[Path]:
    """A repository whose environment is the one that runs the tests, with a reader's data."""
    folder = tmp_path / "overtile"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("runs", "build"):
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for command, arguments in (("python", ""), ("overtile", "-m overtile.pipelines")):
        file = folder / ".venv" / "bin" / command
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        file.chmod(0o755)
    shutil.copytree(images / "train", folder / "DIR")
    shutil.copytree(images / "large", folder / "IMAGES")
    if (ROOT.parent / "shared").is_dir():
        (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    yield folder
    shutil.rmtree(folder)  # networks and MLflow's store are large


def in_short(command: str) -> str:
    """The command as printed, with what makes it small appended; later values win."""
    if command.startswith("make "):
        return "make -n " + command.removeprefix("make ")
    if re.search(r"-m mlflow (ui|server)", command):
        return command + " --help"  # else it would serve for ever
    if "-m monai.bundle run training" in command:
        command += " --max_epochs 1 --samples_per_epoch 2 --warmup_steps 1"
        # the run's folder remembers it for inference
        if "network" not in command and "initial_weights" not in command:
            command += ' --tile 60 --network_def#features "[4,8]"'
    return command


@pytest.mark.parametrize(
    "name",
    [
        # half a minute each: those of the first hour always, the others with the slow tests
        pytest.param(name, marks=() if name in ("README.md", "docs/start.md") else pytest.mark.slow)
        for name in WITH_COMMANDS
    ],
)
def test_commands_run(name: str, checkout: Path) -> None:
    """Blocks of a page one after the other, each in a shell of its own."""
    for file, content in files_of(name).items():
        (checkout / file).write_text(content)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment["PATH"] = f"{checkout / '.venv' / 'bin'}:{environment['PATH']}"
    left_out = []
    for block in blocks_of(name, "sh"):
        if "../shared/data" in block and not (ROOT.parent / "shared" / "data").is_dir():
            left_out.append(block)
            continue
        script = "\n".join(in_short(command) for command in commands_of(block))
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert done.returncode == 0, f"{name}:\n{script}\n{done.stdout}\n{done.stderr}"
    if left_out:
        pytest.skip(f"no ../shared/data: {len(left_out)} blocks of {name} are left out")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)]*)?\)", page.read_text()):
        if target.startswith("http"):
            continue
        found = page.parent / target if target else page
        assert found.exists(), f"{name} links {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
            anchors = ["#" + re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, f"{name} links {target}{anchor}"


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_name_files_and_configuration_keys_that_exist(name: str) -> None:
    """MONAI takes a misspelt key for a new one, without a word."""
    files = files_of(name)
    for block in blocks_of(name, "sh"):
        variables = dict(re.findall(r"^(\w+)=(\S+)$", block, flags=re.MULTILINE))
        for line in commands_of(block):
            for key, value in variables.items():
                line = line.replace(f"${key}", value)
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            if "--config_file" in words:
                given = words[words.index("--config_file") + 1]
                configs = re.findall(r"[\w./]+\.json", given)  # one, or a list of them
                keys = [files[c] if c in files else bundled(c).read_text() for c in configs]
                for word in words:
                    option = word.removeprefix("--").split("#")[0]
                    if word.startswith("--") and option != "config_file":
                        known = any(f'"{option}":' in text for text in keys)
                        assert known, f"{name}: {word} is no key of {', '.join(configs)}"


def bundled(config: str) -> Path:
    """A configuration of a bundle; that of a run's folder has the keys of the bundle's."""
    path = ROOT / config
    return path if path.is_file() else ROOT / "bundles/touching_cells/configs" / path.name


@pytest.mark.parametrize("package", ["networks", "transforms"])
def test_reference_lists_every_public_name(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    names = {
        a.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names
    }
    # MONAI's other names of dictionary transforms are said in a sentence
    names -= {f"{name[:-1]}{end}" for name in names if name for end in ("D", "Dict")}
    page = (DOCS / "reference" / f"{package}.md").read_text()
    listed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", page, re.MULTILINE))))
    assert listed == names


def test_pictures_of_the_concepts_are_those_that_the_code_draws(tmp_path: Path) -> None:
    drawn = runpy.run_path(str(DOCS / "draw.py"))
    drawn["draw"](tmp_path)
    linked = {
        target
        for page in (DOCS / "concepts").glob("*.md")
        for target in re.findall(r"\]\(\.\./pictures/([^)]+)\)", page.read_text())
    }
    assert linked == {file.name for file in tmp_path.iterdir()}
    for file in tmp_path.iterdir():
        kept = DOCS / "pictures" / file.name
        assert kept.stat().st_size < 200_000
        new, old = (np.asarray(Image.open(f).convert("L"), dtype=float) for f in (file, kept))
        assert new.shape == old.shape, f"{file.name}: run make pictures"
        assert np.abs(new - old).mean() < 1, f"{file.name}: run make pictures"
