"""JSON that Overtile wrote, read back: an object, or one line that says what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from overtile.pipelines.errors import Advice, ConfigurationError, DataError, Setting, ran_out
from overtile.pipelines.files import settle

REPLACE = "copy it again from where it came, or train again"  # of a damaged part of a bundle


def read_object(path: Path, hint: Advice | tuple[Advice, ...] = ()) -> dict[str, Any]:
    """The JSON object in a file of ours.

    Args:
        path: of the file.
        hint: what to do if it is damaged.

    Raises:
        DataError: if it is.
        OvertileError: if it may not be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if text.strip() else None
    except (OSError, ValueError, RecursionError) as error:
        if (lacking := ran_out(error)) is not None:
            raise lacking from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(path, f"no JSON ({reason})", "a JSON object", hint) from error
    if not isinstance(content, dict):
        found = type(content).__name__ if text.strip() else "it is empty"
        raise DataError(path, found, "a JSON object", hint)
    return content


def inference_of(bundle: Path) -> Path:
    """The configuration with which a bundle, or a run, segments.

    Raises:
        ConfigurationError: if there is none.
    """
    another = Setting("bundle", "DIR", "with a bundle or the folder of a run")
    if not bundle.is_dir():
        found = "a file" if bundle.exists() else "no such folder"
        raise ConfigurationError(("bundle", bundle), found, hint=another)
    settle(bundle)
    file = bundle / "configs" / "inference.json"
    if not file.is_file():
        found = "no configs/inference.json in it"
        raise ConfigurationError(("bundle", bundle), found, hint=another)
    return file
