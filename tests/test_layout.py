"""The package as it is installed from a wheel, where nothing else of ours lies around."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import overtile


def tracked(root: Path, *folders: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return [Path(name) for name in done.stdout.splitlines() if (root / name).exists()]


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for file in tracked(root):  # a copy, so that no older build leaks into the wheel
        (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, folder / "source" / file, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder)]
    done = subprocess.run(
        [*command, str(folder / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("overtile-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_outside(code: str, site: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code that sees the wheel's content before any other copy of ours."""
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def test_every_module_of_the_wheel_imports(installed: Path, root: Path, tmp_path: Path) -> None:
    files = tracked(root, "networks", "transforms", "pipelines", "bundles")
    missing = [f for f in files if not (installed / "overtile" / f).is_file()]
    assert not [
        f for f in missing if f.suffix in (".py", ".json", ".conf", ".md", ".html", ".js", ".css")
    ]
    names = [
        ".".join(("overtile", *f.with_suffix("").parts)).removesuffix(".__init__")
        for f in files
        if f.suffix == ".py" and f.stem != "__main__"
        # MONAI Label's app, where MONAI Label is
        if "label" not in f.parts or importlib.util.find_spec("monailabel") is not None
    ]
    code = "import importlib\n" + "\n".join(f"importlib.import_module('{n}')" for n in names)
    code += "\nimport overtile; print(overtile.__file__)"
    done = run_outside(code, installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout
    assert (installed / "overtile" / "py.typed").is_file()


@pytest.mark.parametrize("name", ["networks", "transforms", "pipelines", "bundles"])
def test_folders_are_no_packages_of_their_own(name: str, tmp_path: Path) -> None:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{name}') is not None)"
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


def test_no_path_of_a_machine_and_no_index_is_tracked(root: Path) -> None:
    pattern = re.compile(
        r"(?<![\w.:])/(home|root|work|Users|tmp)/\w|--(extra-)?index-url|pypi\.org"
    )
    for name in tracked(root):
        if not (root / name).is_file():  # a link to a folder
            continue
        if name.suffix not in (".png", ".jpg", ".pt") and root / name != Path(__file__):
            found = pattern.search((root / name).read_text(errors="ignore"))
            assert found is None, f"{name}: {found and found.group()}"


def test_constraints_pin_every_direct_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for requirement in wanted:
        name = re.split(r"[<>=]", requirement)[0].lower()
        assert name in pinned, f"{name} is not in constraints.txt"
        if requirement in project["dependencies"]:
            described = (root / "docs" / "dependencies.md").read_text()
            assert f"| {name} |" in described, f"{name} is not in docs/dependencies.md"


def test_the_citation_names_this_version(root: Path) -> None:
    lines = (root / "CITATION.cff").read_text().splitlines()
    assert f"version: {overtile.__version__}" in lines


def test_type_checkers_of_a_users_project_see_the_package(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    names = ("networks", "transforms", "pipelines", "pipelines.metrics.instances")
    (tmp_path / "users.py").write_text("".join(f"import overtile.{name}\n" for name in names))
    # a missing module is told all the same, and PyTorch is not read
    options = ["--config-file=", "--follow-imports=skip", "--strict", "users.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (tmp_path / "users.py").write_text("import overtile.nonsense\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "overtile.nonsense" in done.stdout


def test_an_editable_install_is_the_links_and_no_copy(root: Path) -> None:
    """Every folder of the package lies, as a link, where the package is found."""
    for name in ("networks", "transforms", "pipelines", "bundles"):
        assert (root / "typings" / "overtile" / name).resolve() == root / name
    for name in ("__init__.py", "py.typed"):
        assert (root / "typings" / "overtile" / name).resolve() == root / "overtile" / name
