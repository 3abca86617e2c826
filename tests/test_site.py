"""The documentation as a site: it builds without a warning, and a browser shows it offline."""

from __future__ import annotations

import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from browser import QUIET, chromium

ROOT = Path(__file__).resolve().parents[1]
# what a page shows, written into the page itself, where --dump-dom finds it
LOOK = """<script>addEventListener("load", () => {
  const found = {
    pictures: Object.fromEntries(Array.from(document.querySelectorAll("article img"),
      i => [i.getAttribute("src"), i.naturalWidth])),
    fetched: performance.getEntriesByType("resource").map(e => e.name),
    styled: getComputedStyle(document.querySelector("article h1")).fontFamily,
    wide: document.documentElement.scrollWidth > innerWidth,
  };
  const result = document.createElement("pre");
  result.id = "found";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});</script></head>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name}: `make docs` installs what builds the documentation")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_built_and_reachable(site: Path) -> None:
    contents = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs").with_suffix(".html"))
        assert (site / name).is_file()
        if name != "index.html":
            assert f'href="{name}"' in contents, f"{name} is not in the table of contents"


def test_reference_holds_the_docstrings(site: Path) -> None:
    for page, names in {
        "networks": ["networks.ValidUNet", "networks.OverlapTileInferer.__call__"],
        "transforms": ["transforms.RandDeformedTiled", "transforms.Deformation.apply"],
        "pipelines": ["pipelines.data.find.find_data", "pipelines.metrics.instances.seg_measure"],
    }.items():
        text = (site / "reference" / f"{page}.html").read_text()
        for name in names:
            assert f'id="overtile.{name}"' in text, name


def test_no_page_takes_anything_from_the_network(site: Path) -> None:
    """Links may lead outside, what the browser loads by itself may not."""
    loaded = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"")
    for page in site.rglob("*.html"):
        for target in loaded.findall(page.read_text()):
            assert not re.match(r"(https?:)?//", target), f"{page.relative_to(site)}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site over HTTP, with a script in each page that reports what the page shows."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            page = Path(self.translate_path(self.path))
            if page.suffix != ".html" or not page.is_file():
                super().do_GET()
                return
            body = page.read_text().replace("</head>", LOOK, 1).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    handler = partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def opened(address: str, page: str, folder: Path) -> dict[str, Any]:
    browser = chromium("the built pages are not opened")
    options = [*QUIET, "--virtual-time-budget=20000", f"--user-data-dir={folder}", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, address + page],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(unescape(found.group(1)))
    return result


@pytest.mark.parametrize(
    ("page", "pictures"),
    [("index.html", 1), ("concepts/tiles.html", 3), ("reference/configuration.html", 0)],
)
def test_a_browser_shows_the_page(address: str, page: str, pictures: int, tmp_path: Path) -> None:
    found = opened(address, page, tmp_path)
    assert len(found["pictures"]) == pictures
    assert all(width > 0 for width in found["pictures"].values()), found["pictures"]
    assert any(name.endswith(".css") or ".css?" in name for name in found["fetched"])
    assert all(name.startswith(address) for name in found["fetched"]), found["fetched"]
    assert "sans-serif" in found["styled"], "the theme's style sheet is applied"
    assert not found["wide"], "the page is wider than the window"
