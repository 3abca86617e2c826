"""Files whole or not at all, and several together, under kills at every point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from killed import killed_everywhere

from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.files import alone, settle, together, whole


def write_pieces(path: Path, text: str) -> None:
    for letter in text:
        with path.open("a") as file:
            file.write(letter)


def test_a_file_is_old_or_new_wherever_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with whole(path) as unfinished:
            assert unfinished.suffix == ".txt"
            write_pieces(unfinished, "newer")

    kills = 0
    for kills in killed_everywhere(write):
        assert path.read_text() in ("old", "newer"), kills
    assert kills > 5
    assert path.read_text() == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]  # what killed ones left is gone


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def write() -> None:
        with whole(tmp_path / "made") as unfinished:
            unfinished.mkdir()
            (unfinished / "a").write_text("1")
            (unfinished / "b").write_text("2")

    for _ in killed_everywhere(write):
        if (tmp_path / "made").exists():
            assert {p.name for p in (tmp_path / "made").iterdir()} == {"a", "b"}
            break
    if not (tmp_path / "made").exists():
        write()
    assert {p.name for p in (tmp_path / "made").iterdir()} == {"a", "b"}


def test_files_that_belong_together_are_never_a_mixture(tmp_path: Path) -> None:
    def write(text: str) -> None:
        with together(tmp_path) as unfinished:
            (unfinished / "weights").write_text(text)
            (unfinished / "settings").write_text(text)
            (unfinished / "pictures").mkdir()
            (unfinished / "pictures" / "one").write_text(text)

    def found() -> set[str]:
        settle(tmp_path)
        names = ("weights", "settings", "pictures/one")
        return {(tmp_path / name).read_text() for name in names}

    write("old")
    kills = 0
    for kills in killed_everywhere(lambda: write("new")):
        there = (tmp_path / "pictures" / "one").is_file()  # for a reader that settles nothing, too
        assert there or sys.platform != "linux"
        texts = found()
        assert texts in ({"old"}, {"new"}), kills
        write("old")
    assert kills > 8
    assert found() == {"new"}
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"weights", "settings", "pictures"}


def test_a_settling_that_is_killed_is_settled_by_the_next(tmp_path: Path) -> None:
    def write() -> None:
        with together(tmp_path) as unfinished:
            (unfinished / "a").write_text("new")
            (unfinished / "b").mkdir()
            (unfinished / "b" / "c").write_text("new")

    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("old")
    for _ in killed_everywhere(write):
        for _ in killed_everywhere(lambda: settle(tmp_path)):
            pass  # each of them goes on with what the one before left
        texts = {(tmp_path / "a").read_text(), (tmp_path / "b" / "c").read_text()}
        assert len(texts) == 1
    assert texts == {"new"}
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with whole(path) as unfinished:
            unfinished.write_text("half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from overtile.pipelines.files import whole\n"
        "with whole(Path('file')) as path:\n"
        "    path.write_text('theirs'); print('begun', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "begun\n"
        with whole(tmp_path / "file") as path:
            path.write_text("ours")
        assert (tmp_path / "file").read_text() == "ours"
        other.stdin.close()
        assert other.wait() == 0
    assert (tmp_path / "file").read_text() == "theirs"


def test_a_lock_is_taken_by_one(tmp_path: Path) -> None:
    taken = ConfigurationError("folder", "another run is writing there")
    second = alone(tmp_path / "lock", taken)
    with alone(tmp_path / "lock", taken), pytest.raises(ConfigurationError, match="another run"):
        second.__enter__()
    with alone(tmp_path / "lock", taken):
        pass


SETTLING = """
import sys
from pathlib import Path
from overtile.pipelines.files import settle
while not Path("stop").exists():
    settle(Path())
"""


def test_readers_that_settle_do_not_disturb_a_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SETTLING]
    with subprocess.Popen(command, cwd=tmp_path) as reader:
        for number in range(40):
            with together(tmp_path) as unfinished:
                (unfinished / "a").write_text(str(number))
                (unfinished / "b").mkdir()
                (unfinished / "b" / "c").write_text(str(number))
            found = (tmp_path / "a").read_text(), (tmp_path / "b" / "c").read_text()
            assert found == (str(number), str(number))
        (tmp_path / "stop").touch()
        assert reader.wait() == 0
