"""Configurations and pages name our classes by the faces of the package, and each name is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate

import pytest

import overtile.pipelines

ROOT = Path(__file__).parents[1]
FACES = ("overtile.pipelines", "overtile.networks", "overtile.transforms")
CONFIGS = sorted(ROOT.glob("bundles/*/configs/**/*.json"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def imported(code: str) -> Iterator[str]:
    """Full names of what Python code imports of ours."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("overtile"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("overtile."))


def named_in(file: Path) -> set[str]:
    text = file.read_text()
    names = set(re.findall(r'"_target_": "(overtile\.[^"]+)"', text))
    for code in re.findall(r'"\$((?:from|import) [^"]+)"', text):
        names |= set(imported(code))
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        names |= set(imported(code))
    return names


@pytest.mark.parametrize("file", [*CONFIGS, *PAGES], ids=lambda f: str(f.relative_to(ROOT)))
def test_names_go_through_a_face_and_are_there(file: Path) -> None:
    for name in named_in(file):
        face, _, leaf = name.rpartition(".")
        assert face in FACES, f"{file}: {name} is not a name of {', '.join(FACES)}"
        assert locate(name) is not None, f"{file}: {name} is not there"
        assert leaf[0].isalpha()


def test_configurations_name_something() -> None:
    assert sum(len(named_in(file)) for file in CONFIGS) > 30  # the search above does find names


def test_every_public_name_is_there_and_listed() -> None:
    for path in overtile.pipelines._PUBLIC:
        name = path.rpartition(".")[2]
        assert getattr(overtile.pipelines, name) is locate(path), path
        assert name in dir(overtile.pipelines)
    with pytest.raises(AttributeError, match="nothing"):
        _ = overtile.pipelines.nothing
