"""What a user typed behind MONAI's command, before Fire made values of it.

Fire takes a folder called ``2024_11_17`` for a number, ``a,b`` for two values, and what follows a
``#`` for a comment; MONAI leaves out every ``None``.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fire.parser import DefaultParseValue
from monai import bundle
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

_OPTION = re.compile(r"--|-[a-zA-Z]")


def in_monais_command() -> bool:
    """Whether this program is ``python -m monai.bundle``."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def typed(words: Sequence[str]) -> dict[str, str | None]:
    """The text of every override among the words of a command; None for one without a value."""
    own = {*inspect.signature(bundle.run).parameters, "workflow_name"}
    return {name: value for name, value in _options(words).items() if name not in own}


def given(words: Sequence[str]) -> set[str]:
    """Top-level names that a command sets, as overrides or in files beside the bundle's own."""
    options = {name: DefaultParseValue(text or "") for name, text in _options(words).items()}
    files = ensure_tuple(options.get("config_file"))[1:] + ensure_tuple(options.get("args_file"))
    names = [name for file in files if file for name in ConfigParser.load_config_file(file)]
    return {re.split("#|::", name.lstrip("+"))[0] for name in (*typed(words), *names)}


def _options(words: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for place, word in enumerate(words):
        if not _OPTION.match(word):
            continue
        name, equals, text = word.lstrip("-").partition("=")
        after = words[place + 1] if place + 1 < len(words) else "--"
        value = text if equals else None if _OPTION.match(after) else after
        found[name.replace("-", "_")] = value
    return found


def is_none(text: str | None) -> bool:
    """Whether Fire takes a text for None."""
    return text is not None and text.strip() == "None"


def without_quotes(text: str) -> str:
    """The text that was meant by one in quotes of its own."""
    try:
        inner = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return inner if isinstance(inner, str) else text
