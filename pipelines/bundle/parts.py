"""What the parts of a configuration come to, told before any of them is built."""

from __future__ import annotations

import ast
import builtins
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver

from overtile.pipelines.bundle.schema import Key
from overtile.pipelines.bundle.values import allowed, refuses, shown
from overtile.pipelines.errors import ConfigurationError

RUN = "a call of run_training or the like, of the run of an engine, or of a function of yours"
_KNOWN = ("builtins", "monai", "numpy", "overtile", "torch")  # whose functions mostly run nothing
_IMPORT = re.compile(r"\$\s*from\s+(overtile[\w.]*)\s+import\s+(\w+)")
_HARMLESS = {
    *("abs", "bool", "dict", "float", "int", "isinstance", "len", "list", "max", "min", "range"),
    *("round", "set", "sorted", "str", "sum", "tuple", "type"),
}
_UNKNOWN = object()


@dataclass(frozen=True)
class _ObjectOf:
    """What a ``_target_`` gives, of which only the class is known."""

    type: type[Any]


def check_targets(config: Any, place: str = "") -> None:
    """Refuse a ``_target_`` of nothing, arguments that it does not take, and no expressions.

    What Overtile has not got may be of an earlier layout.

    Raises:
        ConfigurationError: naming the place, and the nearest spelling.
    """
    if isinstance(config, (dict, list)):
        for name, value in config.items() if isinstance(config, dict) else enumerate(config):
            check_targets(value, f"{place}#{name}" if place else str(name))
        if isinstance(config, dict) and "_target_" in config:
            _check_arguments(config, place)
    elif isinstance(config, str):
        imported = _IMPORT.match(config)
        if imported:
            _check_exists(imported[1], imported[2], place)
        elif place.endswith("_target_") and config.startswith("overtile."):
            module, _, name = config.rpartition(".")
            _check_exists(module, name, place)
        elif config.startswith("$"):
            try:
                _tree(config)
            except SyntaxError as error:
                found = f"{shown(config)}: {error.msg}"
                raise ConfigurationError(place, found, "an expression of Python") from None


def _check_exists(module: str, name: str, place: str) -> None:
    try:
        there = dir(import_module(module))
    except ImportError:
        there = []
    if name not in there:
        near = difflib.get_close_matches(name, [n for n in there if not n.startswith("_")], n=1)
        raise ConfigurationError(
            place,
            f"{module}.{name} is not in this version of Overtile",
            "",
            f"did you mean {module}.{near[0]}?"
            if near
            else "if an earlier version wrote this configuration, train again with this one",
        )


def _check_arguments(config: Mapping[str, Any], place: str) -> None:
    """A class or function is there, and takes what it is given."""
    target = config["_target_"]
    if not isinstance(target, str) or target.startswith(("$", "@", "%")):
        return
    try:
        found = _located(target)
        parameters = _parameters(found)
    except (ErrorDuringImport, ValueError):  # which says more when it is used; written in C
        return
    except LookupError:
        near = difflib.get_close_matches(target, _names_beside(target), n=1)
        raise ConfigurationError(
            f"{place}#_target_",
            f"{shown(target)} is not there",
            "the Python path of a class or function",
            f"did you mean {near[0]}?" if near else (),
        ) from None
    given = [name for name in config if name not in ConfigComponent.non_arg_keys]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in given:
        if name not in named and all(p.kind is not p.VAR_KEYWORD for p in parameters):
            near = difflib.get_close_matches(name, named, n=1, cutoff=0.5)
            raise ConfigurationError(
                f"{place}#{name}",
                f"{shown(config[name])}: {target} has no argument of this name",
                hint=f"did you mean {place}#{near[0]}?" if near else "leave it out",
            )
    for p in parameters:
        needed = p.name in named and p.default is p.empty and "_mode_" not in config
        if needed and p.name not in given:
            raise ConfigurationError(f"{place}#{p.name}", "nothing", f"what {target} needs")


@cache
def _located(target: str) -> Any:
    """What MONAI finds under a name."""
    module = _locator().get_component_module_name(target)
    module = module[0] if isinstance(module, list) else module
    found = locate(f"{module}.{target}" if module else target)
    if found is None:
        raise LookupError(target)
    return found


@cache
def _locator() -> Any:
    return ComponentLocator()


@cache
def _parameters(function: Any) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


def _names_beside(target: str) -> list[str]:
    """Names among which a misspelt one was probably meant."""
    module, _, _ = target.rpartition(".")
    if not module:
        _locator().get_component_module_name(target)
        return list(vars(_locator())["_components_table"])
    try:
        return [f"{module}.{name}" for name in dir(locate(module))]
    except ErrorDuringImport:
        return []


def check_kind(parser: ConfigParser, key: Key, value: Any) -> None:
    """Refuse a part that gives something else than the rest needs, where that can be told.

    Raises:
        ConfigurationError: naming the part.
    """
    if not key.gives:
        return
    module, _, name = key.gives.rpartition(".")
    kind = getattr(import_module(module), name)
    given = _given(parser, key.name, value)
    if given is _UNKNOWN:
        return
    if isinstance(given, _ObjectOf):
        good = issubclass(given.type, kind)
    else:  # a class is no object
        good = isinstance(given, kind) and not isinstance(given, type)
        good = good and (given != [] or not refuses(key.type, []))
    if not good:
        raise ConfigurationError(key.name, shown(value), f"{allowed(key.type)} ({key.gives})")


def _given(parser: ConfigParser, name: str, value: Any, seen: tuple[str, ...] = ()) -> Any:
    """What an entry gives; unknown where that takes building it."""
    if isinstance(value, dict) and "_target_" in value:
        target = value["_target_"]
        if not isinstance(target, str) or target.startswith("$") or "_mode_" in value:
            return _UNKNOWN
        try:
            found = _located(target)
        except (ErrorDuringImport, LookupError):
            return _UNKNOWN
        return _ObjectOf(found) if isinstance(found, type) else _UNKNOWN
    if not isinstance(value, str) or value[:1] not in ("@", "$"):
        return value
    reference = re.fullmatch(r"\$?@([\w:#]+)", value)
    if reference:
        id = reference[1]
        if id in seen or id not in parser:
            return _UNKNOWN
        return _given(parser, id, parser[id], (*seen, id))
    if "@" in value or any(not _is_harmless(call) for call in _calls(value)):
        return _UNKNOWN
    return parser.get_parsed_content(name)


def _is_harmless(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in _HARMLESS


def runs(parser: ConfigParser, part: Any, seen: tuple[str, ...] = ()) -> bool:
    """Whether a part is a call that runs something, and not of what makes an object or a number."""
    if isinstance(part, list):
        return any(runs(parser, one, seen) for one in part)
    if isinstance(part, dict):
        target = part.get("_target_")
        if isinstance(target, str) and target.startswith("$"):
            return any(map(_is_run, (*_calls(target), _tree(target))))
        return isinstance(target, str) and _is_run_named(target)
    if not isinstance(part, str):
        return False
    if part.startswith("@"):
        id = part[1:]
        return id not in seen and id in parser and runs(parser, parser[id], (*seen, id))
    return part.startswith("$") and any(map(_is_run, _calls(part)))


def _is_run_named(target: str) -> bool:
    try:
        found = _located(target)
    except (ErrorDuringImport, LookupError):
        return True  # which says so itself
    module, name = getattr(found, "__module__", ""), target.rpartition(".")[2]
    own = module.partition(".")[0] not in _KNOWN
    return not isinstance(found, type) and (own or name.startswith("run"))


def _is_run(function: ast.AST) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr.startswith("run")
    if not isinstance(function, ast.Name) or function.id in dir(builtins):
        return False
    known = function.id in dir(import_module("overtile.pipelines"))
    return function.id.startswith("run") or not known


def _calls(expression: str) -> Iterator[ast.expr]:
    """What is called when an expression is evaluated; not what a lambda would call."""
    todo: list[ast.AST] = [_tree(expression)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call):
            yield node.func
        if not isinstance(node, ast.Lambda):
            todo += ast.iter_child_nodes(node)


def _tree(expression: str) -> ast.AST:
    """Of Python, with a name in the place of every reference.

    Raises:
        SyntaxError: if it is none.
    """
    plain = ReferenceResolver.id_matcher.sub("_", expression.replace("#", "::"))[1:].strip()
    tree = ast.parse(plain)
    only = tree.body[0] if len(tree.body) == 1 else tree
    return only.value if isinstance(only, ast.Expr) else only
