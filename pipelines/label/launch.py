"""Start MONAI Label's server with this app. Imports nothing of MONAI Label before it has to."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

from overtile.pipelines.data.names import IMAGE_FOLDERS, is_one_image
from overtile.pipelines.errors import ConfigurationError, DataError, Setting
from overtile.pipelines.files import alone, remove, whole
from overtile.pipelines.images.channels import Channels
from overtile.pipelines.images.formats import is_image
from overtile.pipelines.label.models import copied

BUNDLES = ("touching_cells", "em_membranes")
_MAIN = '''"""Written by ``overtile label``."""

from overtile.pipelines.label.app import OvertileLabel

__all__ = ["OvertileLabel"]
'''


def check_installed() -> None:
    """Refuse to start without MONAI Label.

    Raises:
        ConfigurationError: saying how to install it.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise ConfigurationError(
            found="MONAI Label is not installed",
            hint="in a checkout `make label` does it: pip install -c constraints.txt -e '.[label]',"
            " then pip install --no-deps monailabel==0.8.5 pydicom-seg==0.4.1",
        )


def check_host(host: str) -> tuple[str, ...]:
    """The names that a server at ``host`` is reached under; none for any name.

    Raises:
        ConfigurationError: for an address that others reach, unless MONAI Label asks for
            passwords.
    """
    if _is_loopback(host):
        return tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", host)))
    if os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() not in ("1", "true", "yes", "on"):
        raise ConfigurationError(
            f"host {host}",
            "others could reach images, labels and trainings without a password",
            "127.0.0.1, or MONAI Label's authentication (MONAI_LABEL_AUTH_ENABLE=true with "
            "MONAI_LABEL_AUTH_REALM_URI of a Keycloak server)",
        )
    return ()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        ConfigurationError: if the server could not listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"host {host}, port {port}",
                error.strerror or str(error),
                hint=Setting("port", "N", "of another number"),
            ) from error


def prepare(studies: Path, work: Path) -> None:
    """Make the app's folder with its ``main.py``.

    Args:
        studies: folder of the images.
        work: the app's folder.

    Raises:
        DataError: if there is no folder of images, they lie in a folder in it, or the app's
            folder cannot be made.
    """
    if not studies.is_dir():
        raise DataError(studies, "no such folder", hint="give one that holds images")
    if is_image(studies) and is_one_image(studies):
        raise DataError(studies, "one image", "a folder of images", "give the folder that it is in")
    if not _holds_images(studies):  # which may come later
        below = next(
            (studies / name for name in IMAGE_FOLDERS if _holds_images(studies / name)), None
        )
        if below is not None:
            raise DataError(
                studies,
                f"no image in it, but in {below.name}/, and folders in it are not looked into",
                hint=Setting("studies", str(below)),
            )
    labels = studies / "labels"
    if labels.exists() and not labels.resolve().is_relative_to(studies.resolve()):
        raise DataError(labels, "a link out of the folder", "a folder", "move it in")
    try:
        (work / "model").mkdir(parents=True, exist_ok=True)
        with whole(work / "main.py") as unfinished:
            unfinished.write_text(_MAIN)
    except OSError as error:
        raise DataError(
            work,
            str(error.strerror),
            "a folder that can be written, for networks and trainings",
            Setting("work", "DIR"),
        ) from error


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(is_image(file) for file in folder.iterdir())


def copy_bundles(work: Path, bundles: Sequence[Path]) -> list[str]:
    """Make a model in the app's folder of every bundle that is not there yet.

    Args:
        work: the app's folder.
        bundles: further ones; those that come with Overtile always are.

    Returns:
        The names of the models.

    Raises:
        ConfigurationError: for a folder that is no bundle with a trained network, or whose name
            another one has.
    """
    for bundle in bundles:
        name = bundle.resolve().name
        if [*BUNDLES, *(b.resolve().name for b in bundles)].count(name) > 1:
            raise ConfigurationError(
                ("bundle", bundle), f"another model is named {name} too", hint="rename the folder"
            )
    with as_file(files("overtile.bundles")) as home:
        own = [copied(home / name, work / "model", tested=True) for name in BUNDLES]
    return [model.name for model in (*own, *(copied(b, work / "model") for b in bundles))]


def only_server(work: Path) -> AbstractContextManager[None]:
    """Be the only server that works in the app's folder.

    Raises:
        ConfigurationError: if there is another: each would take the other's training for dead.
    """
    other = ConfigurationError(
        work,
        "another server works in this folder",
        hint=("use that one", "stop it", Setting("work", "DIR", "for networks of its own")),
    )
    return alone(work / ".server.lock", other)


def open_page(address: str, host: str, port: int) -> None:
    """Open the page in the browser once the server listens, from a thread of its own."""

    def wait() -> None:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
                webbrowser.open(address)
                return
            time.sleep(0.2)

    threading.Thread(target=wait, daemon=True).start()


def serve(
    studies: Path,
    work: Path,
    models: Sequence[str],
    host: str,
    port: int,
    read_only: bool,
    channels: Channels = None,
) -> None:
    """Run the server until it is told to stop, and end a training that still goes on."""
    os.environ.update(
        MONAI_LABEL_AUTO_UPDATE_SCORING="false",  # somebody may be waiting for the two cores
        MONAI_LABEL_SESSIONS="false",  # they unpack archives that anybody sends
        MONAI_LABEL_DATASTORE_READ_ONLY=str(read_only).lower(),
        OVERTILE_LABEL_HOSTS=",".join(check_host(host)),
    )
    temporary = work / ".tmp"  # of this server alone: what a killed one left goes
    remove(temporary)
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None  # it was looked up before
    from monailabel.main import Main

    from overtile.pipelines.label import train

    train.close_abandoned(work / "runs")
    sys.argv = ["monailabel", "start_server", "--app", str(work), "--studies", str(studies)]
    sys.argv += ["--host", host, "--port", str(port), "--verbose", "WARNING"]
    sys.argv += ["--conf", "models", ",".join(models), "--log_level", "warning"]
    if channels is not None:
        sys.argv += ["--conf", "channels", json.dumps(channels)]
    sys.argv += ["--uvicorn_app", "overtile.pipelines.label.server:app"]
    logging.getLogger("timeloop").addFilter(lambda _: False)  # six lines on timers
    # the server ends by the signal that it was sent; as an exception, since a training goes first
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        Main(loglevel=logging.WARNING).run()
    finally:
        train.stop_training(work / "runs")
