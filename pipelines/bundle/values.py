"""What a value of a configuration may be: types that pydantic checks, in words too."""

from __future__ import annotations

import ast
import difflib
import math
import re
import reprlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
LITERALS = {"true": True, "false": False, "null": None, "none": None}
"""What texts stand for that a command line did not take for what they mean."""
_ANSWERS = {"yes": True, "on": True, "no": False, "off": False}
_LIMITS: dict[str, Any] = {"from": Ge, "above": Gt, "to": Le, "to below": Lt}
_BASES = {int: "a whole number", float: "a number", bool: "True or False", NoneType: "None"}


class Words(str):
    """What a type allows, where that cannot be read from the type itself."""


SIDE = 8192
"""The longest side of a tile, in pixels."""


def whole(low: int, high: int) -> Any:
    """A whole number."""
    return Annotated[int, Ge(low), Le(high)]


def number(
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A finite number from ``low`` to ``high``, or ``above`` to ``below`` these."""
    limits = (_LIMITS["from"], low), (_LIMITS["to"], high)
    strict = (_LIMITS["above"], above), (_LIMITS["to below"], below)
    bounds = (kind(n) for kind, n in (*limits, *strict) if n is not None)
    # a tensor is no number, though pydantic makes one of it
    return Annotated[(float, _checked(_is_number, BeforeValidator), *bounds)]


def one_of(*names: str) -> Any:
    """One of these texts."""
    return Literal[names]


def _checked(
    good: Callable[[Any], bool],
    when: type[AfterValidator] | type[BeforeValidator] = AfterValidator,
) -> AfterValidator | BeforeValidator:
    def check(value: Any) -> Any:
        if not good(value):
            raise ValueError
        return value

    return when(check)


def _is_device(value: Any) -> bool:
    try:
        device = torch.device(value) if isinstance(value, str) else value
        if not isinstance(device, torch.device):
            return False
        there = torch.get_device_module(device)
    except RuntimeError:  # no device, or none that this PyTorch computes on
        return False
    return bool(there.is_available()) and (device.index or 0) < there.device_count()


def is_expression(value: Any) -> bool:
    """Whether MONAI evaluates a value: ``$...``, ``@...`` or ``%...``."""
    return isinstance(value, str) and value[:1] in ("$", "@", "%") and len(value) > 1


def _is_component(value: Any) -> bool:
    target = value.get("_target_") if isinstance(value, dict) else None
    return is_expression(value) or (isinstance(target, str) and bool(target.strip(" $")))


def _is_list(value: Any) -> bool:
    return is_expression(value) or (
        isinstance(value, list) and all(isinstance(v, dict) or is_expression(v) for v in value)
    )


def _does_something(value: Any) -> bool:
    """Whether a part is there to be run: a constant, or the name of a thing, would do nothing."""
    if isinstance(value, list):
        return any(map(_does_something, value))
    if not isinstance(value, str) or not value.startswith("$"):
        return _is_component(value)
    try:
        nodes = [*ast.walk(ast.parse(re.sub(r"@[\w:#]*", "_", value[1:]).strip()))]
    except SyntaxError:
        return True  # which says more when it is evaluated
    return any(isinstance(node, (ast.Call, ast.Import, ast.ImportFrom)) for node in nodes)


def _is_section(value: Any) -> bool:
    return is_expression(value) or (isinstance(value, dict) and bool(value))


def _are_components(value: Any) -> bool:
    return is_expression(value) or (
        isinstance(value, dict) and bool(value) and all(map(_is_component, value.values()))
    )


def _is_scale(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(_is_number(v) for v in value) and 0.01 <= value[0] <= value[1] <= 100


def _is_spacing(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
        return False
    return all(_is_number(v) and 0 < v <= 1e6 for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_whole(value: Any, counts: range) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) in counts
        and all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= SIDE for v in value)
    )


def _are_per_level(value: Any, choices: tuple[int, int]) -> bool:
    """A list with an entry a level, each one of the choices, or one an axis."""

    def chosen(one: Any) -> bool:
        return isinstance(one, int) and not isinstance(one, bool) and one in choices

    def level(one: Any) -> bool:
        return chosen(one) or (_is_list_of(one, chosen) and len(one) in (2, 3))

    return _is_list_of(value, level)


def _is_list_of(value: Any, good: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(good, value))


def _is_text(value: Any) -> bool:
    # "null" and the like are what a command line makes of a value that was meant to be none
    return bool(value.strip()) and value.strip().lower() not in LITERALS


def _is_path(value: Any) -> bool:
    return _is_text(str(value)) and not any(mark in str(value) for mark in ("#", "::", "\0"))


def _are_channels(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_channel, value)) and not _repeats(value)
    return _is_channel(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_name, value))


def _is_channel(value: Any) -> bool:
    return _is_name(value) or (
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**16
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _is_text(value)


def _repeats(values: Any) -> bool:
    return any(one == other for i, one in enumerate(values) for other in values[:i])


LAYOUT = Annotated[str, _checked(_is_text), Words("auto, or the name of a layout, as pairs")]
TEXT = Annotated[str, _checked(_is_text), Words("a text")]
PATH = Annotated[str | Path, _checked(_is_path), Words("a path with no # or :: in it")]
DEVICE = Annotated[
    Any, _checked(_is_device), Words("a device of this machine, as cpu, cuda or cuda:1")
]
SCALE = Annotated[
    Any,
    _checked(_is_scale),
    Words("two numbers from 0.01 to 100, the smaller one first, as [0.8, 1.25]"),
]
FEATURES = Annotated[
    Any,
    _checked(lambda value: _are_whole(value, range(2, 17))),
    Words(f"a list of at least two whole numbers from 1 to {SIDE}, as [32, 64, 128]"),
]
CHANNELS = Annotated[
    Any,
    _checked(_are_channels),
    Words("all, luminance, a number from 0, a name, or a list of these without repeats, as [0, 2]"),
]
NAMES = Annotated[
    Any,
    _checked(_are_names),
    Words("a list of names, as ['DAPI', 'GFP']"),
]
CLASSES = Annotated[
    Any,
    _checked(lambda value: _is_list_of(value, _is_channel) and not _repeats(value)),
    Words("a list of classes without repeats, by number (from 0) or name, as [1, 2]"),
]
CLASS_NAMES = Annotated[
    Any,
    _checked(lambda value: _is_list_of(value, _is_name) and len(value) > 1 and not _repeats(value)),
    Words("a list of at least two names that differ, of class 0 on"),
]
_PER_LEVEL = "a list with one a level, each for all axes or with one an axis"
KERNELS = Annotated[
    Any,
    _checked(lambda value: _are_per_level(value, (1, 3))),
    Words(f"{_PER_LEVEL}, as [[1, 3, 3], 3, 3]"),
]
STRIDES = Annotated[
    Any,
    _checked(lambda value: _are_per_level(value, (1, 2))),
    Words(f"{_PER_LEVEL}, as [[1, 2, 2], 2]"),
]
SPACING = Annotated[
    Any, _checked(_is_spacing), Words("a list of a number above 0 for each axis, as [1, 1, 2.5]")
]
SIDES = Annotated[
    Any, _checked(lambda value: _are_whole(value, range(2, 4))), Words("one for each axis")
]
COMPONENT = Annotated[
    Any, _checked(_is_component), Words("an object with _target_, or an expression that gives one")
]
SECTION = Annotated[Any, _checked(_is_section), Words("an object of parts, or an expression")]
COMPONENTS = Annotated[
    Any, _checked(_are_components), Words("an object of objects with _target_, or an expression")
]
LIST = Annotated[Any, _checked(_is_list), Words("a list of objects and expressions")]
STEPS = Annotated[
    Any,
    _checked(lambda value: bool(value) and _is_list(value)),
    Words("a list of at least one object or expression"),
]
PART = Annotated[
    Any,
    _checked(lambda value: _does_something(value) and (_is_component(value) or _is_list(value))),
    Words("an object with _target_, an expression that calls something, or a list of these"),
]


def allowed(kind: Any) -> str:
    """What a type allows, in words."""
    if get_origin(kind) in (Union, UnionType):
        return _listed([allowed(part) for part in get_args(kind)])
    if get_origin(kind) is Literal:
        return _listed(list(get_args(kind)))
    if get_origin(kind) is not Annotated:
        return _BASES[kind]
    words = [note for note in kind.__metadata__ if isinstance(note, Words)]
    limits = (f" {word} {_told(limit)}" for word, limit in limits_of(kind).items())
    return words[0] if words else _BASES[get_args(kind)[0]] + "".join(limits)


def _told(limit: float) -> str:
    short = f"{limit:g}"  # 1e+09, where that is exact
    return short if float(short) == limit and abs(limit) >= 1e10 else str(limit)


def _listed(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def limits_of(kind: Any) -> dict[str, float]:
    """Of a number: the limit for each of ``from``, ``above``, ``to`` and ``to below`` it has."""
    notes = {type(note): note for note in kind.__metadata__}
    found = ((word, notes.get(limit)) for word, limit in _LIMITS.items())
    return {
        word: getattr(note, type(note).__name__.lower()) for word, note in found if note is not None
    }


def refuses(kind: Any, value: Any) -> bool:
    """Whether a value is none of a type; ``5.0`` is no whole number, ``True`` no number."""
    try:
        _adapter(kind).validate_python(value)
    except ValidationError:
        return True
    return False


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=_STRICT)


def choices(kind: Any) -> list[Any]:
    """The texts and truth values that a type names one by one."""
    if get_origin(kind) in (Union, UnionType):
        return [name for part in get_args(kind) for name in choices(part)]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [True, False] if kind is bool else []


def takes_text(kind: Any) -> bool:
    """Whether a type allows any text, and no number."""
    return not refuses(kind, "text of any kind") and refuses(kind, 0)


def meant(kind: Any, value: Any) -> tuple[Any, ...]:
    """The value of a type that was probably meant by another, if that can be told."""
    if not isinstance(value, (str, int, float)):
        return ()
    named = {str(name).lower(): name for name in choices(kind)}
    near = difflib.get_close_matches(str(value).lower(), named, n=1, cutoff=0.5)
    if near:
        return (named[near[0]],)
    guess = (
        {**LITERALS, **_ANSWERS}.get(str(value).lower(), value) if isinstance(value, str) else value
    )
    if guess is not None and not isinstance(guess, bool):
        try:
            number = float(guess)
        except (TypeError, ValueError, OverflowError):
            return ()
        guess = int(number) if number.is_integer() else number
    return () if guess is value or refuses(kind, guess) else (guess,)


def shown(value: Any) -> str:
    """A value as a message shows it: short, texts in quotes."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)
