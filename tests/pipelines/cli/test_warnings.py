"""What a user has to know of stands at the end of a command, and in its JSON."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from toy import toy_bundle

from overtile.pipelines.cli.main import main

IMAGE = np.random.default_rng(0).integers(0, 99, (40, 40)).astype(np.uint16)


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    out, err = capsys.readouterr()
    return out, [line for line in err.splitlines() if line.startswith("overtile: ")]


def test_looking_tells_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", IMAGE)
    (tmp_path / "images" / "b.czi").write_bytes(b"none")
    remark = "left out: 1 file in formats that are not read, as images/b.czi"
    for _ in range(2):  # the second command does not know the warnings of the first
        assert main(["data", "look", "images"]) == 0
        assert said(capsys)[1] == [f"overtile: warning: {remark}"]
    assert main(["data", "look", "images", "--json"]) == 0
    out, lines = said(capsys)
    assert json.loads(out)["warnings"] == [remark]
    assert lines == [f"overtile: warning: {remark}"]
    logging.getLogger("overtile").warning("of nobody's command")
    assert main(["data", "look", "images"]) == 0
    assert said(capsys)[1] == [f"overtile: warning: {remark}"]
    (tmp_path / "images" / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(SystemExit):
        main(["data", "look", "images"])
    lines = said(capsys)[1]
    assert lines[0] == f"overtile: warning: {remark}"
    assert lines[-1].startswith("overtile: error: ")
    assert len(lines) == 2


def test_segmenting_tells_what_it_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = toy_bundle(tmp_path / "bundle", IMAGE)
    spoilt = IMAGE.astype(np.float32)
    spoilt[2, 3] = np.nan
    tifffile.imwrite(tmp_path / "image.tif", spoilt)
    command = ["segment", str(tmp_path / "image.tif"), str(tmp_path / "out.tif")]
    options = ["--bundle", str(bundle), "--chunk", "16", "--skip-unreadable", "--json", "--quiet"]
    assert main([*command, *options]) == 0
    out, lines = said(capsys)
    told = json.loads(out)
    assert told["warnings"] == [f"filled with 0: {line}" for line in told["unreadable"]]
    assert lines == [f"overtile: warning: {line}" for line in told["warnings"]]
    assert len(lines) >= 1
