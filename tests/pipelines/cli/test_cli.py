"""The command ``overtile`` as a user types it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile

from overtile import __version__
from overtile.pipelines.cli.main import overtile as program
from overtile.pipelines.cli.options import Command
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.synthesis.membranes import membranes
from overtile.pipelines.data.write import written_layouts
from overtile.pipelines.errors import Setting
from overtile.pipelines.label.refusals import _OPTIONS

HEAVY = ("torch", "monai", "matplotlib", "mlflow", "scipy", "numba", "pydicom", "zarr", "pandas")
COMMANDS = (
    (),
    ("show",),
    ("report",),
    ("data",),
    ("data", "look"),
    ("data", "synth"),
    ("segment",),
    ("label",),
    ("completion",),
)
BUNDLE = str(Path(__file__).parents[3] / "bundles" / "touching_cells")
FEW = ("--train", "2", "--val", "1", "--test", "1", "--size", "32x40")
SUMMARY = {
    "images": 2,
    "unseen": True,
    "scores": {"seg": 0.5},
    "best_epoch": 3,
    "training_seconds": 1.0,
    "resumed": False,
    "mlflow": "http://localhost:5000",
    "network": "models/model.pt",
    "figures": "figures",
}


def environment(**extra: str) -> dict[str, str]:
    """Where ``overtile`` is on the path, as in an activated environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, **extra}


def overtile(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["overtile", *map(str, words)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps(SUMMARY))
    return tmp_path / "run"


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_ends_with_examples_that_are_commands(words: tuple[str, ...], option: str) -> None:
    done = overtile(*words, option)
    assert (done.returncode, done.stderr) == (0, "")
    for listed in ("-q, --quiet", "-v, --verbose", "-h, --help"):
        assert listed in done.stdout
    _, examples = done.stdout.split("Examples:\n")
    assert examples.strip()
    for line in examples.strip().splitlines():
        assert line.strip().startswith(" ".join(("overtile", *words)))


@pytest.mark.parametrize("words", [(), ("data",)])
def test_a_group_alone_prints_its_help(words: tuple[str, ...]) -> None:
    done = overtile(*words)
    assert (done.returncode, done.stdout) == (0, overtile(*words, "--help").stdout)


def test_version() -> None:
    done = overtile("--version")
    assert (done.returncode, done.stdout) == (0, f"overtile {__version__}\n")
    module = [sys.executable, "-m", "overtile.pipelines", "--version"]
    assert subprocess.check_output(module, text=True) == done.stdout


MISTAKES = {
    "shw": "No such command 'shw'; did you mean 'show'? (see: overtile --help)",
    "data synht DIR": "No such command 'synht'; did you mean 'synth'? (see: overtile data --help)",
    "data synth new --sizes 32": "No such option '--sizes'; did you mean '--size'?",
    "data synth": "Missing argument 'DIR'; see: overtile data synth --help",
    "data synth new --kind membrane": "'membrane' is not one of 'cells', 'membranes'",
    "data synth new --layout pears": "'pears' is not one of 'stack', 'ctc', 'pairs', 'kaggle'",
    "data synth new --layout stack --format png": "format: 'png'; expected tif for layout stack",
    "data synth new --size 32x": "'32x'; expected height x width, each 16 to 16384, e.g. 256x320",
    "data synth new --size 3x4x5": "'3x4x5'; expected height x width",
    "data synth new --size 15": "'15'; expected height x width, each 16 to",
    "data synth new --train -1": "Invalid value for '--train': -1 is not in the range",
    "data synth new --seed x": "Invalid value for '--seed': 'x' is not a valid integer",
    "data synth new --train 0 --val 0 --test 0": "are all 0; expected at least one image",
    "data synth new -q -v": "--quiet and --verbose exclude each other",
    "-q data synth new -v": "--quiet and --verbose exclude each other",
    "data synth full": "full: not empty; expected a new or empty folder",
    "data synth full/file": "full/file: a file; expected a new or empty folder",
    "data synth full/file/below": "full/file/below: cannot be written (Not a directory)",
    "data look": "Missing argument 'DIR'; see: overtile data look --help",
    "data look new": "new: no such folder; give one that holds images",
    "data look full --channels [0": "'[0'; expected e.g. 0,2 or [0, 'DAPI']",
    "segment a b --bundle c --set x": "'x'; expected KEY=VALUE, e.g. threshold=0.6",
    "data look full --picture no/x.png": "no/x.png: no folder no; make it, or name another",
    "data look full --labels masks": "'masks' is not one of 'instances', 'mask', 'membranes'",
    "data look full": "full: no images; expected DICOM, NIfTI, OME-Zarr, TIFF or pictures",
    "completion": "Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish",
    "completion tcsh": "'tcsh' is not one of 'bash', 'zsh', 'fish'",
    "show": "Missing argument 'RUN'",
    "show new": "new/summary.json: no such file; expected the folder of a finished run",
    "show full": "full/summary.json: no JSON",
    "report": "Missing argument 'RUN'",
    "report new": "new: no such folder; give that of a training or an evaluation",
    "report full/file": "full/file: no such folder",
    "report odd": "odd: no results; expected evaluation.json or history.csv",
    "report scored": "scored/evaluation.json: no JSON",
    "report trained --output no/page.html": "no/page.html: no folder no; expected the name of a",
    "report trained --output full": "full: a folder; expected the name of a file to write",
    "show evaluated": "evaluated: an evaluation; expected the folder of a finished training: "
    "overtile report evaluated makes its page",
    "segment full/file new.tif --bundle nowhere": "bundle nowhere: no such folder; give --bundle "
    "DIR with a bundle or the folder of a run",
    "segment full/file new.tif --bundle full/file": "bundle full/file: a file; give --bundle DIR",
    "show odd": "odd/summary.json: no summary of a run; expected the entries best_epoch, figures",
}


FILES = (
    *(("full/file", "x"), ("full/summary.json", "{"), ("odd/summary.json", "{}")),
    ("evaluated/evaluation.json", "{}"),
    *(("scored/evaluation.json", "{"), ("trained/history.csv", "epoch,train_loss\n1,0.5\n")),
)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_costs_one_line_and_exit_code_2(tmp_path: Path, line: str) -> None:
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = overtile(*line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("overtile: error: ")
    assert done.stderr.count("\n") == 1
    assert MISTAKES[line] in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {name.split("/")[0] for name, _ in FILES}


LIGHT = [" ".join((*words, "--help")) for words in COMMANDS]
LIGHT += ["--version", "completion bash", "show run", "show run --json"]
LIGHT += [line for line in MISTAKES if "below" not in line and line != "data look full"]


def test_help_and_mistakes_import_nothing_heavy(run: Path) -> None:
    (run.parent / "full").mkdir()
    (run.parent / "full" / "file").touch()
    code = f"""
import sys
from overtile.pipelines.cli.main import main
for line in {LIGHT!r}:
    try:
        main(line.split())
    except SystemExit:
        pass
    loaded = {{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r})
    assert not loaded, f"{{line}} imports {{loaded}}"
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=run.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seg" in done.stdout, "it did run the commands"


@pytest.mark.parametrize(
    ("words", "setting", "expected"),
    [
        ("segment", Setting("skip_unreadable", True), "--skip-unreadable"),
        ("segment", Setting("channels", "0 to 2"), "--channels 0 to 2"),
        ("segment", Setting("threshold", 0.6), "--set threshold=0.6"),
        ("data look", Setting("spatial_dims", 3), "--spatial-dims 3"),
        ("data look", Setting("skip_unreadable", True), None),
        ("label", Setting("work", "DIR"), "--work DIR"),
        ("label", Setting("read_only", False), None),
        ("report", Setting("open", False), "--no-open"),
    ],
)
def test_a_hint_is_worded_with_the_options_of_the_command(
    words: str, setting: Setting, expected: str | None
) -> None:
    command: click.Command = program
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert isinstance(command, Command)
    assert command.worded(setting) == expected


def test_every_command_words_hints() -> None:
    groups: list[click.Group] = [program]
    for group in groups:
        for command in group.commands.values():
            if isinstance(command, click.Group):
                groups.append(command)
            else:
                assert isinstance(command, Command), command.name


def test_show_prints_a_table_or_json(run: Path) -> None:
    done = overtile("show", run)
    assert done.returncode == 0
    assert re.search(r"SEG +0\.5000", done.stdout)
    for words in (("show", run, "--json"), ("-q", "show", "--json", run)):
        done = overtile(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"run": str(run), **SUMMARY}
    assert "  2 unseen images" in overtile("show", run).stdout
    (run / "summary.json").write_text(json.dumps({**SUMMARY, "images": 1}))
    assert re.search(r"^  1 unseen image *$", overtile("show", run).stdout, re.MULTILINE)
    assert f"read {run / 'summary.json'}" in overtile("show", run, "-v").stderr


def test_synth_makes_the_images_of_its_seed(tmp_path: Path) -> None:
    done = overtile("data", "synth", "new/cells", *FEW, "--seed", 7, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "new/cells: train 2, val 1, test 1 images of cells; layout pairs, format tif\n"
    )
    root = tmp_path / "new" / "cells"
    seed = int(np.random.SeedSequence(7).generate_state(1)[0])
    image, labels = touching_cells(seed, (32, 40))
    assert np.array_equal(tifffile.imread(root / "train/images/000.tif"), image)
    assert np.array_equal(tifffile.imread(root / "train/labels/000.tif"), labels)
    assert len(list(root.rglob("*.tif"))) == 8


@pytest.mark.parametrize(
    ("layout", "format"),
    [(layout, f) for layout, fs in written_layouts().items() for f in sorted({fs[0], fs[-1]})],
)
@pytest.mark.parametrize("kind", ["cells", "membranes"])
def test_synth_writes_every_layout(tmp_path: Path, kind: str, layout: str, format: str) -> None:
    options = ("--kind", kind, "--layout", layout, "--format", format, *FEW, "--json")
    done = overtile("data", "synth", "set", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "folder": "set",
        "kind": kind,
        "layout": layout,
        "format": format,
        "size": [32, 40],
        "seed": 0,
        "images": {"train": 2, "val": 1, "test": 1},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    if (kind, layout) == ("membranes", "stack"):
        found = tifffile.imread(tmp_path / "set" / "train-volume.tif")
        assert np.array_equal(found, [membranes(0, (32, 40), k)[0] for k in range(3)])


def test_quiet_verbose_and_a_split_left_out(tmp_path: Path) -> None:
    few = ("--train", 1, "--val", 0, "--test", 0, "--size", 32)
    done = overtile("data", "-q", "synth", "quiet", *few, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.name for p in (tmp_path / "quiet").iterdir()] == ["train"]
    done = overtile("data", "synth", "loud", *few, "-v", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "overtile: making 1 images of 32x32 pixels from seed 0\n"


def in_terminal(folder: Path, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    """A command whose stderr is a terminal, and the other end of that."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        ["overtile", "data", "synth", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        # a shell's background jobs ignore Ctrl-C, and so would what they start
    )
    os.close(theirs)
    return process, ours


def rest_of(terminal: int) -> str:
    text = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            os.close(terminal)
            return text.decode()
        text += part


MANY = ("many", "--train", "400", "--kind", "membranes", "--size", "400")


def test_a_bar_counts_many_images(tmp_path: Path) -> None:
    process, terminal = in_terminal(tmp_path, "some", "--train", "30")
    shown = rest_of(terminal)
    assert process.wait(timeout=60) == 0
    assert re.search(r"\d+/50 ", shown)
    process, terminal = in_terminal(tmp_path, "more", "--train", "30", "--quiet")
    assert rest_of(terminal) == ""
    assert process.wait(timeout=60) == 0


def test_ctrl_c_leaves_nothing_and_exit_code_130(tmp_path: Path) -> None:
    process, terminal = in_terminal(tmp_path, *MANY)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.tif")):  # the partial folder is hidden, but there
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (tmp_path / "many").exists()
    process.send_signal(signal.SIGINT)
    shown = rest_of(terminal)
    assert process.wait(timeout=60) == 130
    assert "overtile: interrupted" in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


SWALLOWED = """
import os, signal, sys
from overtile.pipelines.cli.main import main
from overtile.pipelines.{room} import {module}
inner = {module}.{name}
def swallowing(*given, **more):  # as Cython does while an extension of its is imported
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass
    return inner(*given, **more)
{module}.{name} = swallowing
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("data.write", "_made", ("data", "synth", "cells", *FEW)),
        ("segment.run", "plan", ("segment", "image.tif", "cells.tif", "--bundle", BUNDLE)),
    ],
)
def test_ctrl_c_that_an_import_swallows_is_not_lost(
    module: str, name: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "image.tif", touching_cells(0, (64, 64))[0])
    room, _, leaf = module.partition(".")
    program = SWALLOWED.format(room=room, module=leaf, name=name)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()[:21]) == (130, "overtile: interrupted")
    assert not {"cells", "cells.tif"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str, tmp_path: Path) -> None:
    done = overtile("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_OVERTILE_COMPLETE={shell}_complete" in done.stdout
    script = tmp_path / "script"
    script.write_text(done.stdout)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0


def test_a_report_is_made_and_opened(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.csv").write_text("epoch,train_loss\n1,0.5\n2,0.25\n")
    done = overtile("report", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run/report.html: 0.0 MB")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "[[1,0.5],[2,0.25]]" in page
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o755)
    given = ("report", "run", "--output", "my page.html", "--open", "-q")
    command = ["overtile", *given]
    env = environment(BROWSER=str(browser))
    assert subprocess.check_output(command, cwd=tmp_path, env=env, text=True) == ""
    assert (tmp_path / "my page.html").read_text() == page
    assert (tmp_path / "opened").read_text().strip() == (tmp_path / "my page.html").as_uri()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("overtile ", {"completion", "data", "label", "report", "segment", "show"}),
        ("overtile data sy", {"synth"}),
        ("overtile data synth x --la", {"--layout"}),
        ("overtile data synth --layout k", {"kaggle"}),
        ("overtile completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(line: str, expected: set[str]) -> None:
    """What bash does when TAB is pressed: it fills these variables and calls the function."""
    words = line.split(" ")
    script = f"""
eval "$(overtile completion bash)"
COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}")
COMP_CWORD={len(words) - 1}
_overtile_completion overtile
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    command = ["bash", "--norc", "-c", script]
    found = subprocess.check_output(command, env=environment(), text=True)
    assert set(found.split()) == expected


def test_the_page_on_the_command_line_describes_every_option(root: Path) -> None:
    page = (root / "docs" / "reference" / "command-line.md").read_text()
    for words in COMMANDS:
        for option in re.findall(r"  (--[a-z-]+)", overtile(*words, "--help").stdout):
            assert f"`{option}`" in page or f" {option}`" in page, f"{option} is not described"


def test_the_server_names_the_options_of_its_command() -> None:
    options = [name for one in program.commands["label"].params for name in one.opts]
    own = {name[2:].replace("-", "_") for name in options if name.startswith("--")}
    assert {*_OPTIONS} <= own
    assert own - {*_OPTIONS} == {"open", "quiet", "verbose"}
