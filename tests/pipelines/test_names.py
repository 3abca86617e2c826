"""Names are text: nothing draws, obeys or refuses what is in them."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from mlflow import MlflowClient
from toy_run import Run, write_images

from overtile.pipelines.errors import DataError, Setting, printable
from overtile.pipelines.reporting.look import as_text, look
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.summary import print_summary, read_summary

NAMES = (
    "cost $x_{ or $5",
    "\x1b[31mred\x07 and\nnew lines",
    os.fsdecode("caf\u00e9".encode("latin-1")),
    "<b>&amp; %s {0} # [x]",
    "\u202etfel-ot-thgir",
)
ANY = st.text(st.characters(codec=None, exclude_categories=[]))


@given(ANY)
def test_what_is_shown_does_nothing(name: str) -> None:
    shown = printable(name)
    shown.encode()
    kinds = {unicodedata.category(letter) for letter in shown}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(letter) for letter in shown} & {
        "RLO",
        "LRO",
        "RLE",
        "RLI",
    }
    assert printable(shown) == shown
    if not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in name):
        assert shown == name


@given(ANY, ANY)
def test_an_error_names_a_file_as_it_is(where: str, found: str) -> None:
    said = str(DataError(where, found, "another", Setting("channels", 1)))
    said.encode()
    assert said.startswith(printable(where)), "spaces in names too"
    assert said.isprintable() or all(c.isprintable() or not c.isascii() for c in said)


def checked(text: str) -> str:
    """Text of ours: UTF-8, and nothing that a terminal obeys but the ends of lines."""
    text.encode()
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t"]
    assert "\u202e" not in text
    return text


def test_a_run_on_files_of_any_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    drawn: list[str] = []
    draw = Text.draw

    def note(text: Text, *arguments: Any, **more: Any) -> Any:
        drawn.append(text.get_text())
        return draw(text, *arguments, **more)

    monkeypatch.setattr(Text, "draw", note)
    folder = tmp_path / "of $a$ \x1b[1m" / os.fsdecode(b"\xe9t\xe9")
    run = Run(tmp_path)
    run.out = tmp_path / os.fsdecode(b"run $\x1b[1m \xe9$")
    images = write_images(folder, NAMES, scored=len(NAMES))
    run.train(dataset_dir=str(images), max_epochs=1)
    run.train(dataset_dir=str(images), max_epochs=2, resume=True)
    print_summary(read_summary(run.out), run.out)

    summary = json.loads((run.out / "summary.json").read_text())
    assert summary["images"] == len(NAMES)
    page = checked(write_report(run.out).read_bytes().decode())
    assert r"\\x1b[31mred\\x07 and\\x0anew lines.tif" in page
    table = (run.out / "evaluation.csv").read_bytes().decode()
    told = {Path(row["image"]).name for row in csv.DictReader(table.splitlines())}
    assert told == {f"{printable(name)}.tif" for name in NAMES}

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tracked,) = client.search_runs(["1"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["data/name"] == printable(images.name)
    for text in (*tracked.data.params.values(), *tracked.data.tags.values()):
        text.encode()

    found = look(images, picture=tmp_path / "sheet.png")
    checked(as_text(found))
    for name in NAMES:
        shown = printable(name)
        titles = [t for t in drawn if shown in t or shown[:10] in t]
        assert titles, "drawn as it is"
    for text in drawn:
        checked(text)
    for text in (*capsys.readouterr(), caplog.text):
        checked(text)
