"""The tables of the reference page of the configurations, built from the schema and the bundles.

``make reference`` puts them into ``docs/reference/configuration.md``, between two marks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from overtile.pipelines.bundle.schema import CONFIGURATIONS, KEYS, Key
from overtile.pipelines.bundle.values import allowed
from overtile.pipelines.files import whole

BEGIN = "<!-- built by `make reference` -->\n"
END = "<!-- end of what is built -->\n"


def page_with_tables(page: str, bundles: Sequence[Path]) -> str:
    """The page with its tables as the schema and the bundles have them now.

    Args:
        page: with the two marks.
        bundles: folders, in the order of the defaults in a row.
    """
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"a page without {BEGIN.strip()} and {END.strip()}")
    tables = "\n".join(line for config in CONFIGURATIONS for line in _tables(config, bundles))
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _tables(config: str, bundles: Sequence[Path]) -> Iterator[str]:
    defaults = [
        (bundle.name, json.loads((bundle / "configs" / f"{config}.json").read_text()))
        for bundle in bundles
    ]
    rows = [key for key in KEYS.values() if key.told.get(config, ("", ""))[0]]
    yield f"## {config}.json: settings\n"
    resumed = config == "train"
    head = ["key", "meaning", "allowed", "default", "change it", *["on resume"] * resumed]
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for key in rows:
        if not key.part:
            meaning, change = key.told[config]
            each = [_default(key.name, *one) for one in defaults]
            told = each[0] if len({*each}) == 1 else " / ".join(each)
            row = [f"`{key.name}`", meaning, _allowed(key), told, change, *[key.resumed] * resumed]
            yield f"| {' | '.join(row)} |"
    yield f"\n## {config}.json: parts\n"
    head = ["key", "what it is", "change it", *["on resume"] * resumed]
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for key in rows:
        if key.part:
            row = [f"`{key.name}`", *key.told[config], *[key.resumed] * resumed]
            yield f"| {' | '.join(row)} |"
    yield ""


def _allowed(key: Key) -> str:
    return allowed(key.type) + (f", in {key.unit}" if key.unit else "")


def _default(name: str, bundle: str, content: dict[str, Any]) -> str:
    value = content.get(name, ...)
    if value is ... or value is None:
        return "-" if value is ... else "None"
    if name == "device":
        return "a GPU, if any"
    return f"`{json.dumps(value).replace(bundle, 'NAME')}`"


if __name__ == "__main__":
    file, *folders = map(Path, sys.argv[1:])
    page = page_with_tables(file.read_text(), folders)
    with whole(file) as unfinished:
        unfinished.write_text(page)
