"""A real MONAI Label server with our app, on loopback, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from ports import free_port

needs_label = pytest.mark.skipif(
    importlib.util.find_spec("monailabel") is None,
    reason="MONAI Label is not installed (make install-label)",
)


@dataclass
class Answer:
    """What a server said."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        assert 400 <= self.status < 500, (self.status, self.body[:500])
        sentence: str = self.json["detail"]
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        return sentence


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Server:
    """A server that runs, and a client without any help of a library."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, studies: Path) -> None:
        self.process, self.port, self.studies = process, port, studies
        self.work = studies / "overtile"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 300,
    ) -> Answer:
        address = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, body, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as found:
                return Answer(found.status, found.read(), _lower(found.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), _lower(error.headers))

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, values: dict[str, Any] | None = None) -> Answer:
        return self.ask(
            "POST", path, json.dumps(values or {}).encode(), {"Content-Type": "application/json"}
        )

    def send(
        self,
        method: str,
        path: str,
        file: Path | None = None,
        field: str = "file",
        name: str | None = None,
        **fields: str,
    ) -> Answer:
        """A form of several parts, as browsers and viewers send files."""
        mark = uuid.uuid4().hex
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
            for k, v in fields.items()
        ]
        if file is not None:
            head = f'name="{field}"; filename="{name or file.name}"'
            head = f"--{mark}\r\nContent-Disposition: form-data; {head}\r\n\r\n"
            parts.append(head.encode() + file.read_bytes() + b"\r\n")
        body = b"".join([*parts, f"--{mark}--\r\n".encode()])
        kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        return self.ask(method, path, body, kind)

    def infer(self, image: str, model: str = "touching_cells", **params: Any) -> Answer:
        return self.send(
            "POST", f"/infer/{model}?image={image}&output=image", params=json.dumps(params)
        )

    def label(self, image: str, file: Path, tag: str = "final") -> Answer:
        return self.send("PUT", f"/datastore/label?image={image}&tag={tag}", file, "label")

    def trained(self, seconds: float = 300) -> dict[str, Any]:
        """The training, once it has ended."""
        deadline = time.monotonic() + seconds
        while (task := self.get("/train/").json)["status"] in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < deadline, task
            time.sleep(0.3)
        return dict(task)


@contextmanager
def serving(studies: Path, log: Path, *options: str, **env: str) -> Iterator[Server]:
    """``overtile label`` on the studies, until the end."""
    port = free_port()
    own = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "overtile.pipelines", "label"),
                # relative, as people type it
                *("--studies", os.path.relpath(studies, log.parent), "--port", str(port), *options),
            ],
            env={**own, **env},
            cwd=log.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, port, studies)
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                server.get("/info/")
                break
            except OSError:
                time.sleep(0.3)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def save(path: Path, array: np.ndarray[Any, Any]) -> Path:
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array)
    return path
