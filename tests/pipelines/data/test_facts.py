"""What is remembered of images between runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile
from killed import killed_everywhere

from overtile.pipelines.data.facts import FactBook


def test_facts_that_somebody_changed_are_looked_at_again(tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    tifffile.imwrite(image, np.arange(20, dtype=np.uint8).reshape(4, 5))

    def look(folder: Path) -> float:
        facts = FactBook(folder, tmp_path)
        found = facts.image(str(image)).high
        facts.save()
        return found

    assert look(tmp_path / "cache") == 19
    (file,) = (tmp_path / "cache").glob("facts-*.json")
    changed = file.read_text().replace('"high": 19.0', '"high": 3.0')
    assert changed != file.read_text()
    file.write_text(changed)
    assert look(tmp_path / "cache") == 19
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    (loose / file.name).write_text(file.read_text())
    assert look(loose) == 19
    assert list(loose.iterdir()) == [loose / file.name]


def test_facts_are_old_or_new_wherever_their_writer_is_killed(tmp_path: Path) -> None:
    images = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for image in images:
        tifffile.imwrite(image, np.arange(20, dtype=np.uint8).reshape(4, 5))

    def look(*those: Path) -> None:
        facts = FactBook(tmp_path / "cache", tmp_path)
        for image in those:
            facts.image(str(image))
        facts.save()

    look(images[0])
    (file,) = (tmp_path / "cache").glob("facts-*.json")
    old = file.read_text()
    counts = set()
    for _ in killed_everywhere(lambda: look(*images)):
        counts.add(len(json.loads(file.read_text())["facts"]))
        file.write_text(old)
    look(*images)
    assert len(json.loads(file.read_text())["facts"]) == 2
    assert counts <= {1, 2}
    assert list(tmp_path.glob("cache/*")) == [file], "what killed ones left is gone"
