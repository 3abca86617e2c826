"""The rooms of the house: what may import what, and that no circle comes about."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# from the ground up; rooms of one line do not know each other
FLOORS = (
    ("overtile",),
    ("networks",),
    ("transforms",),
    ("errors", "files", "interrupts", "notices"),
    ("metrics", "images", "bundle"),
    ("data",),
    ("reporting",),
    ("inference",),
    ("training", "segment"),
    ("label",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {"overtile": ROOT / "overtile" / "__init__.py"}
    for folder in ("networks", "transforms", "pipelines"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(("overtile", *parts)).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports_of(name: str, file: Path) -> Iterator[str]:
    """Modules of ours that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("overtile"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("overtile"))


def room_of(module: str) -> str | None:
    """None for the face and the command, which may know everything."""
    parts = module.split(".")
    if parts[1:2] == ["pipelines"]:
        return parts[2] if len(parts) > 2 and parts[2] != "__main__" else None
    return parts[1] if len(parts) > 1 else parts[0]


ARROWS = {name: set(imports_of(name, file)) - {name} for name, file in MODULES.items()}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    room = room_of(name)
    if room is None:
        return
    for other in ARROWS[name]:
        target = room_of(other)
        assert target is not None, f"{name} imports the face {other}"
        assert target == room or FLOOR_OF[target] < FLOOR_OF[room], f"{name} imports {other}"


def test_every_room_has_a_floor() -> None:
    assert {r for r in map(room_of, MODULES) if r is not None} <= set(FLOOR_OF)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty without one."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if ring := walk(other, [*path, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(arrows) if (ring := walk(name, []))), [])


def test_no_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]  # a ring is seen
    assert not circle(ARROWS)


def test_every_room_says_what_is_in_it_and_is_on_the_map() -> None:
    rooms = [file.parent for file in (ROOT / "pipelines").glob("*/__init__.py")]
    assert 5 < len(rooms) <= 12
    page = (ROOT / "docs" / "reference" / "pipelines.md").read_text()
    drawn = (ROOT / "CONTRIBUTING.md").read_text()
    for room in rooms:
        assert f"`overtile.pipelines.{room.name}`" in page
        assert f"  {room.name}/" in drawn or f" {room.name}/ " in drawn
    for file in (file for file in MODULES.values() if file.name == "__init__.py"):
        said = ast.get_docstring(ast.parse(file.read_text()))
        assert said, f"{file}: what is in this room?"
        assert "\n" not in said.split("\n\n")[0], f"{file}: one sentence first"
