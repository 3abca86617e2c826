"""Sphinx configuration: Markdown pages that also read well unbuilt, API pages from docstrings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.util import inspect

from overtile import __version__, pipelines

project = "Overtile"
author = "The Overtile authors"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/README.md"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]
default_role = "py:obj"
nitpicky = False

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "special-members": "__call__",
}
autodoc_inherit_docstrings = False  # MONAI's and PyTorch's are theirs
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"Overtile {version}"
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}


def contents(caption: str, *pages: str) -> str:
    """A part of the table of contents; a page that is named twice appears once."""
    lines = ["```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *pages, "```"]
    return "\n".join(lines)


def api(module: str, imported: bool = False) -> str:
    """What the docstrings of a module say."""
    option = "\n   :imported-members:" if imported else ""
    return f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}{option}\n```"


ROOMS = Path(pipelines.__path__[0])
PIPELINES = sorted(
    ".".join(("overtile.pipelines", *file.relative_to(ROOMS).with_suffix("").parts))
    for file in ROOMS.rglob("*.py")
    if not file.stem.startswith("_") and "label" not in file.parts  # needs an extra
)

# Kept out of the pages themselves, so that they read well as plain Markdown too.
APPENDED = {
    "index": "\n\n".join(
        [
            contents("Start", "start"),
            contents("How to", "how-to/*"),
            contents(
                "Concepts",
                "concepts/tiles",
                "concepts/mirrored-context",
                "concepts/thick-sections",
                "concepts/exact-volumes",
                "concepts/spacing",
                "concepts/weight-map",
                "concepts/deformation",
                "concepts/training",
                "concepts/instances",
            ),
            contents("Reference", "reference/configuration", "reference/metrics", "reference/*"),
            contents("More", "results", "benchmarks", "dependencies"),
        ]
    ),
    "reference/networks": api("overtile.networks", imported=True),
    "reference/transforms": api("overtile.transforms", imported=True),
    "reference/pipelines": "\n\n".join(api(module) for module in PIPELINES),
}


def append_generated(app: Any, page: str, source: list[str]) -> None:
    """Sphinx reads a page: add what is generated."""
    source[0] += "\n\n" + APPENDED.get(page, "")


def arguments_of_init(
    app: Any, what: str, name: str, item: Any, options: Any, signature: str | None, returns: str
) -> tuple[str, str] | None:
    """MONAI's transforms have a ``__new__`` that tells nothing: show ``__init__`` instead."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    found = inspect.signature(item.__init__, bound_method=True)
    text = inspect.stringify_signature(
        found, show_return_annotation=False, unqualified_typehints=True
    )
    return text, returns


def setup(app: Any) -> None:
    """Sphinx starts."""
    app.connect("source-read", append_generated)
    app.connect("autodoc-process-signature", arguments_of_init)
