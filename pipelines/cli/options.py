"""What commands share: their options, their types, and how much they say."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import click

from overtile.pipelines.errors import (
    DataError,
    OvertileError,
    Setting,
    close_bars,
    exit_with,
    printable,
)
from overtile.pipelines.images.channels import check_channels
from overtile.pipelines.notices import keep_warnings, print_warnings

_SIDES = range(16, 16385)


class Command(click.Command):
    """A command whose mistakes are told with its own options."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        keep_warnings()
        try:
            return super().invoke(ctx)
        except OvertileError as error:
            close_bars()
            print_warnings()
            exit_with(error, self.worded)
        finally:
            print_warnings()

    def worded(self, setting: Setting) -> str | None:
        """A setting as an option of this command, or as ``--set KEY=VALUE`` where it has that."""
        for option in self.params:
            if isinstance(option, click.Option) and setting.name in (
                name.lstrip("-").replace("-", "_") for name in option.opts
            ):
                off = option.is_flag and setting.value is False
                names = option.secondary_opts if off else option.opts
                long = next((name for name in names if name.startswith("--")), None)
                return long if option.is_flag else f"{long} {setting.value}"
        if any("--set" in option.opts for option in self.params):
            return f"--set {setting.name}={setting.value}"
        return None


def _volume(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Keep what ``--quiet`` or ``--verbose`` said, wherever in the line it stood."""
    if given and context.meta.setdefault(__name__, option.name) != option.name:
        raise click.UsageError("--quiet and --verbose exclude each other", context)


def loudness(command: Callable[..., None]) -> Callable[..., None]:
    """The two options that every command has."""
    given: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _volume}
    verbose = click.option("-v", "--verbose", help="Say on stderr what is done.", **given)
    quiet = click.option("-q", "--quiet", help="Print only what was asked for.", **given)
    return quiet(verbose(command))


def is_(loudness: str) -> bool:
    """Whether ``--quiet`` or ``--verbose`` was given."""
    return bool(click.get_current_context().meta.get(__name__) == loudness)


def note(text: str) -> None:
    """Say on stderr what is done, if that is wanted."""
    if is_("verbose"):
        click.echo(f"overtile: {printable(text)}", err=True)


def examples(*lines: str) -> str:
    """What the help of a command ends with; the mark keeps click from filling the lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class Size(click.ParamType[tuple[int, int]]):
    """``256x320`` (height x width), or ``256`` for a square."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Height and width in pixels."""
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(s.isdecimal() and int(s) in _SIDES for s in sides):
            self.fail(
                f"{value!r}; expected height x width, each {_SIDES[0]} to {_SIDES[-1]}, "
                "e.g. 256x320",
                param,
                ctx,
            )
        return int(sides[0]), int(sides[-1])


class _Channels(click.ParamType[Any]):
    """``all``, ``luminance``, a number from 0 or a name; ``0,2`` are two, as ``[0, 2]``."""

    name = "channels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str | tuple[int | str, ...]:
        """The number, the word, or several."""
        given = str(value)
        try:
            found = ast.literal_eval(given) if given.startswith("[") else _listed(given)
            chosen = check_channels(found)
        except (ValueError, SyntaxError):
            self.fail(f"{given!r}; expected e.g. 0,2 or [0, 'DAPI']", param, ctx)
        except DataError as error:
            self.fail(f"{error.found}; expected {error.expected}", param, ctx)
        assert chosen is not None
        return chosen


def _listed(given: str) -> int | str | list[int | str]:
    words = [word.strip() for word in given.split(",")]
    several = len(words) > 1
    words = words[:-1] if several and not words[-1] else words  # DAPI, is a list of one
    found: list[int | str] = [int(word) if word.isdecimal() else word for word in words]
    return found if several else found[0]


def channels_option(command: Callable[..., None]) -> Callable[..., None]:
    """The option ``--channels``."""
    return click.option(
        "--channels",
        type=_Channels(),
        metavar="A,B,...",
        help="Those to take, by number or name: one, several, all, or the luminance.",
    )(command)


class Memory(click.ParamType[int]):
    """``2G``, ``1.5GiB`` or ``800M``: bytes, in steps of 1024."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG])(?:i?B)?", str(value), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r}; expected a number with M or G, e.g. 2G", param, ctx)
        return int(float(found[1]) * {"M": 2**20, "G": 2**30}[found[2].upper()])


class KeyValue(click.ParamType[tuple[str, Any]]):
    """``threshold=0.6``, with the value as a bundle's command line would take it."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Key and value."""
        name, mark, given = str(value).partition("=")
        if not (name and mark and given):
            self.fail(f"{value!r}; expected KEY=VALUE, e.g. threshold=0.6", param, ctx)
        try:
            return name, ast.literal_eval(given)
        except (ValueError, SyntaxError):
            return name, given
