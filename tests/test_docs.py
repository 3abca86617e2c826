"""Every Python block of README and docs runs, and every file that they link exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted(ROOT.glob("bundles/*/docs/README.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_python_blocks_run(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    namespace: dict[str, object] = {}
    for block in blocks:  # one after the other, as a reader would
        exec(compile(block, name, "exec"), namespace)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name} links {target}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_files_and_configuration_keys_that_exist(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        variables = dict(re.findall(r"^(\w+)=(\S+)$", block, flags=re.MULTILINE))
        for line in block.splitlines():
            for key, value in variables.items():
                line = line.replace(f"${key}", value)
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            if "--config_file" in words:
                config = ROOT / words[words.index("--config_file") + 1]
                keys = config.read_text()
                for word in words:
                    option = word.removeprefix("--").split("#")[0]
                    if word.startswith("--") and option != "config_file":
                        assert f'"{option}":' in keys, f"{name}: {word} is no key of {config.name}"
