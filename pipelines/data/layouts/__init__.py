"""The layouts of data sets, one a module, and the door through which a folder is asked for its own.

A layout is known as soon as its module lies in this folder, or in another one on ``__path__``.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from overtile.pipelines.data.layout import Layout, Pair
from overtile.pipelines.data.names import SPLITS, folder_of, images_of
from overtile.pipelines.errors import DataError, Setting, UnknownLayoutError
from overtile.pipelines.files import settle
from overtile.pipelines.images.formats import check_file


def all_layouts() -> dict[str, Layout]:
    """Every layout by its name, in the order in which they are asked."""
    return _layouts_in(tuple(__path__))


@lru_cache(maxsize=4)
def _layouts_in(folders: tuple[str, ...]) -> dict[str, Layout]:
    names = sorted(module.name for module in iter_modules(folders))
    found: list[Layout] = [import_module(f"{__name__}.{name}").LAYOUT for name in names]
    return {layout.name: layout for layout in sorted(found, key=lambda layout: layout.rank)}


def find_pairs(root: Path, layout: str = "auto") -> tuple[str, dict[str, list[Pair]]]:
    """The layout of a folder, and its labelled images by split.

    Args:
        root: the folder; ``train/``, ``val/`` and ``test/`` in it are splits.
        layout: the name of one, or ``"auto"`` to look which.

    Raises:
        DataError: if nothing is found, or an image has no label or the reverse. Of what was
            annotated in the page of ``overtile label``, images without one are left out.
    """
    layouts = all_layouts()
    if layout not in ("auto", *layouts):
        near = get_close_matches(layout.lower(), ("auto", *layouts), n=1)
        hint = tuple(Setting("layout", name) for name in near)
        raise DataError("layout", repr(layout), f"auto, {', '.join(layouts)}", hint)
    check_file(root)
    settle(root)
    folders = {split: folder_of(root, names) for split, names in SPLITS.items()}
    train, own = folders["train"], _recognised(root)
    if train is None or (own is not None and own.whole):
        wanted = _wanted(root, layout, own)
        return wanted.name, {"train": wanted.pairs(root)}
    if own is not None:
        raise DataError(
            root, f"both {train.name}/ and images of its own (layout {own.name})", "one of them"
        )
    wanted = _wanted(train, layout, _recognised(train))
    found = {}
    for split, folder in folders.items():
        if folder is not None and not (split == "test" and not _has_labels(folder)):
            found[split] = wanted.pairs(folder)
    return wanted.name, found


def _recognised(folder: Path) -> Layout | None:
    if not folder.is_dir():
        return None
    return next((one for one in all_layouts().values() if one.recognises(folder)), None)


def _has_labels(folder: Path) -> bool:
    own = _recognised(folder)
    return own is not None and own.has_labels(folder)


def _wanted(folder: Path, layout: str, own: Layout | None) -> Layout:
    if layout != "auto":
        return all_layouts()[layout]
    if own is None:
        bare = " (images, but no labels)" if images_of(folder) else ""
        ways = [one.expected for one in all_layouts().values()]
        raise UnknownLayoutError(
            folder,
            f"no layout recognised{bare}",
            f"{', '.join(ways[:-1])}, or {ways[-1]} (most of them also under train/, val/, test/)",
        )
    return own
