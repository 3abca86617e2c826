"""Over HTTP, as viewers do: models, proposals, labels, trainings, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel
import numpy as np
import psutil
import pytest
import tifffile
import zarr
from exhausted import small_disk
from killed import killed_everywhere
from labelling import Server, needs_label, save, serving
from mlflow import MlflowClient
from PIL import Image
from scipy import ndimage
from toy import files, toy_bundle

from overtile.pipelines.errors import DataError, Setting
from overtile.pipelines.files import together
from overtile.pipelines.images.read import read_label
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.label.refusals import (
    ConflictError,
    ForbiddenError,
    MissingError,
    ReplacedError,
    SlowError,
)

ROOT = Path(__file__).resolve().parents[3]
OVERTILE = [sys.executable, "-W", "ignore", "-m", "overtile.pipelines"]
pytestmark = needs_label


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, studies_in: Callable[[Path], Path], cells: Any
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("label")
    studies = studies_in(home / "studies")
    image = cells[0][0]
    save(studies / "picture.png", eight_bits(image))
    save(studies / "many.tiff", np.tile(image, (7, 9)))
    flat = nibabel.Nifti1Image(image.T.astype(np.float32), np.diag([-0.5, -0.5, 2, 1]))
    nibabel.save(flat, studies / "flat.nii.gz")
    volume = np.stack([i for i, _ in cells[:6]]).T.astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), studies / "volume.nii")
    (studies / "broken.png").write_bytes(b"no picture")
    killed = studies / "overtile" / ".tmp" / "overtile-left"  # of a server that was killed
    killed.mkdir(parents=True)
    outside = save(home / "secret.tif", image)
    (studies / "link.tif").symlink_to(outside)
    with serving(studies, home / "log", "--bundle", str(volumes(home / "volumes", volume))) as made:
        yield made


def eight_bits(image: Any) -> np.ndarray[Any, Any]:
    low, high = float(image.min()), float(image.max())
    return np.round((image - low) * (255 / (high - low))).astype(np.uint8)


def volumes(folder: Path, volume: Any) -> Path:
    """A bundle for volumes."""
    toy_bundle(folder, volume[:40, :40])
    configs = ROOT / "bundles/touching_cells/configs"
    shutil.copyfile(configs / "train.json", folder / "configs" / "train.json")
    metadata = json.loads((configs / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["2*n+18"] * 3
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def decoded(body: bytes, path: Path) -> np.ndarray[Any, Any]:
    path.write_bytes(body)
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    if path.suffix in (".gz", ".nii"):
        return np.asarray(nibabel.load(path).dataobj)
    return np.asarray(tifffile.imread(path))


def test_info_lists_the_models(server: Server) -> None:
    info = server.get("/info/").json
    assert {"touching_cells", "em_membranes"} <= info["models"].keys()
    for name in ("touching_cells", "em_membranes"):
        model = info["models"][name]
        assert model["dimension"] == 2
        assert model["labels"] == {"cell": 1}
        assert name in info["trainers"]
    assert info["models"]["volumes"]["dimension"] == 3
    assert {"first", "random", "dropout", "rotations"} <= info["strategies"].keys()
    left_out = info["datastore"]["unreadable"]
    assert left_out.keys() == {"broken.png", "link.tif"}
    assert left_out["broken.png"].endswith("expected an intact image file")
    assert "outside" in left_out["link.tif"]


@pytest.mark.parametrize("name", ["picture.png", "00.tif", "flat.nii.gz", "many.tiff"])
def test_proposals_are_images_like_the_input(server: Server, name: str, tmp_path: Path) -> None:
    answer = server.infer(name.partition(".")[0])
    assert answer.status == 200, answer.body
    suffix = name[name.index(".") :]
    assert suffix in answer.headers["content-disposition"]
    found = decoded(answer.body, tmp_path / f"found{suffix}")
    source = server.studies / name
    given = decoded(source.read_bytes(), tmp_path / f"given{suffix}")
    assert found.shape == given.shape
    assert found.dtype == np.uint16
    if suffix == ".nii.gz":
        np.testing.assert_array_equal(
            nibabel.load(tmp_path / "found.nii.gz").affine, nibabel.load(source).affine
        )
    trained = load_trained(server.work / "model" / "touching_cells", {})
    grey = given.squeeze().astype(np.float32)
    expected = trained.instances(np.asarray(trained.normalize(grey[None])))
    np.testing.assert_array_equal(found.squeeze(), expected)
    if name == "many.tiff":
        assert found.max() > 255


def test_proposals_for_an_image_that_comes_along(server: Server, tmp_path: Path) -> None:
    answer = server.send(
        "POST", "/infer/touching_cells?output=image", server.studies / "picture.png"
    )
    stored = server.infer("picture")
    assert answer.status == 200
    assert answer.body == stored.body
    told = server.send("POST", "/infer/touching_cells?image=picture&output=json", params="{}").json
    found = decoded(stored.body, tmp_path / "found.png")
    assert told["cells"] == found.max() > 5


def test_proposals_that_are_kept(server: Server, tmp_path: Path) -> None:
    save(server.studies / "mit ümlaut.tif", tifffile.imread(server.studies / "04.tif"))
    proposed = decoded(server.infer("04").body, tmp_path / "proposed.tif")
    for image in ("04", "mit%20%C3%BCmlaut"):
        for output in ("image", "json", "all"):
            told = server.send(
                "POST",
                f"/infer/touching_cells?image={image}&output={output}",
                params=json.dumps({"save_label": True, "label_tag": "kept"}),
            )
            assert told.status == 200, told.body
            (kept,) = server.studies.glob("labels/kept/*")  # and the answer has not removed it
            np.testing.assert_array_equal(tifffile.imread(kept), proposed)
            cells = b'"cells": %d' % len(np.unique(proposed[proposed > 0]))
            assert output == "image" or cells in told.body.replace(b":", b": ").replace(b"  ", b" ")
            assert output == "json" or kept.read_bytes() in told.body
            note = server.get(f"/datastore/label/info?label={image}&tag=kept").json
            assert note["model"] == "touching_cells"
        kept.unlink()
    (server.studies / "mit ümlaut.tif").unlink()


def test_volumes_need_a_network_for_volumes(server: Server, tmp_path: Path) -> None:
    assert re.search(r"volume\.nii: a volume of .* 2 dimensions", server.infer("volume").detail)
    assert "3 dimensions" in server.infer("00", "volumes").detail
    answer = server.infer("volume", "volumes")
    assert answer.status == 200, answer.body
    found = decoded(answer.body, tmp_path / "found.nii")
    assert found.shape == (128, 128, 6)


def test_batch_of_proposals_without_a_gpu(server: Server) -> None:
    before = set(server.studies.glob("labels/original/*"))
    assert server.post("/batch/infer/touching_cells?images=unlabeled").status == 200
    while (task := server.get("/batch/infer").json)["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(0.3)
    made = {p.name for p in set(server.studies.glob("labels/original/*")) - before}
    assert {"00.tif", "picture.png", "flat.nii.gz"} <= made, task
    assert "volume.nii" not in made


def test_labels_are_kept_exactly(server: Server, cells: Any, tmp_path: Path) -> None:
    label = cells[1][1].astype(np.int32)
    label[0, 0] = 300
    assert server.label("01", save(tmp_path / "drawn.tif", label)).status == 200
    kept = server.studies / "labels" / "final" / "01.tif"
    np.testing.assert_array_equal(tifffile.imread(kept), label)
    back = server.get("/datastore/label?label=01&tag=final")
    assert back.body == kept.read_bytes()
    turned = nibabel.Nifti1Image(label[:, ::-1].T.astype(np.uint16), np.diag([0.5, -0.5, 2, 1]))
    turned.affine[0, 3] = -0.5 * 127
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    assert server.label("flat", tmp_path / "turned.nii.gz").status == 200
    kept = server.studies / "labels" / "final" / "flat.nii.gz"
    np.testing.assert_array_equal(read_label(kept, 2, server.studies / "flat.nii.gz")[0].T, label)
    status = server.get("/datastore/").json
    assert status["completed"] == 2
    assert server.ask("DELETE", "/datastore/label?id=flat&tag=final").status == 200
    assert not kept.exists()


def test_labels_of_one_image_that_come_at_once(server: Server, cells: Any, tmp_path: Path) -> None:
    many, _ = ndimage.label(np.tile(cells[0][1], (7, 9)))
    drawn = save(tmp_path / "drawn.tif", many.astype(np.uint16))
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: server.label("many", drawn, "busy"), range(12)))
    assert [(answer.status, answer.body) for answer in answers if answer.status != 200] == []
    assert [p.name for p in server.studies.glob("labels/busy/*")] == ["many.tiff"]


def test_polygons_as_the_extension_of_qupath_exchanges_them(server: Server, tmp_path: Path) -> None:
    """The requests are those of qupath-extension-monailabel 0.3.0."""
    assert server.ask("HEAD", "/datastore/image?image=03").status == 200
    region = json.dumps({"level": 0, "location": [0, 0], "size": [0, 0], "params": {}})
    kind = {"Content-Type": "application/json"}
    path = "/infer/wsi/touching_cells?output=asap&image=03"
    answer = server.ask("POST", path, region.encode(), kind)
    assert answer.status == 200, answer.body
    (tmp_path / "cells.xml").write_bytes(answer.body)
    sent = server.label("03", tmp_path / "cells.xml", "drawn")
    assert sent.status == 200, sent.body
    proposed = decoded(server.infer("03").body, tmp_path / "03.tif")
    drawn = tifffile.imread(server.studies / "labels" / "drawn" / "03.tif")
    np.testing.assert_array_equal(drawn > 0, proposed > 0)
    assert len(np.unique(drawn)) >= len(np.unique(proposed))
    patch = server.send(
        "POST",
        "/infer/wsi_v2/touching_cells?output=asap",
        server.studies / "03.tif",
        wsi=region,
    )
    assert patch.body == answer.body
    # the Digital Slide Archive's and CVAT's
    elements = server.ask("POST", path.replace("asap", "dsa"), region.encode(), kind).json
    assert len(elements["elements"]) == answer.body.count(b"<Annotation ")
    told = server.send(
        "POST",
        "/infer/touching_cells?image=03&output=json",
        params=json.dumps({"output": "json"}),
    ).json
    (element,) = told["annotations"][0]["annotation"]["elements"]
    assert len(element["contours"]) == len(elements["elements"])
    assert "no annotations" in server.label("03", save_text(tmp_path / "a.xml", "oops")).detail
    corners = "".join(f'<Coordinate X="{x}" Y="{y}"/>' for x, y in ((900, 0), (990, 0), (990, 9)))
    away = save_text(tmp_path / "b.xml", f"<A><Annotation>{corners}</Annotation></A>")
    assert "no polygon holds a pixel" in server.label("03", away, "drawn").detail
    assert (tifffile.imread(server.studies / "labels" / "drawn" / "03.tif") == drawn).all()


def save_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda label: label[:64], "64x128 pixels for image '02' of 128x128"),
        (lambda label: label + np.float32(0.5), "float32"),
        (lambda label: label.astype(np.uint64) << 40, "expected 0 (background) to 2147483647"),
        (lambda label: (label > 0).astype(np.uint8) * 255, "1 value(s) for "),
        (lambda label: np.stack([label, label * 2, label * 3], -1).astype(np.uint8), "3 channels"),
    ],
)
def test_labels_that_are_none_are_refused(
    server: Server, cells: Any, tmp_path: Path, make: Any, said: str
) -> None:
    label = cells[2][1]
    assert said in server.label("02", save(tmp_path / "bad.tif", make(label))).detail
    assert not list(server.studies.glob("labels/final/02*"))
    (tmp_path / "noise.tif").write_bytes(b"II*\0garbage")
    assert "noise.tif" in server.label("02", tmp_path / "noise.tif").detail
    assert server.get("/info/").status == 200


def test_an_image_of_no_numbers_is_not_taken(server: Server, tmp_path: Path) -> None:
    empty = save(tmp_path / "empty.tif", np.full((64, 64), np.nan, np.float32))
    assert "NaN" in server.send("PUT", "/datastore/image", empty).detail
    assert not (server.studies / "empty.tif").exists()


def test_files_that_promise_too_many_pixels_are_not_decoded(server: Server, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    side = 200_000
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2**20))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    assert "40000000000 bytes" in server.label("picture", bomb).detail
    assert "its header claims" in server.send("PUT", "/datastore/image", bomb).detail
    assert "its header claims" in server.send("POST", "/infer/touching_cells", bomb).detail
    assert not (server.studies / "bomb.png").exists()


def test_names_do_not_leave_the_folder(server: Server, tmp_path: Path) -> None:
    secret = server.studies.parent / "secret.tif"
    names = [
        *("../secret", "../secret.tif", str(secret), "link", "link.tif", ".", "..", "/etc/passwd"),
        *("%2e%2e%2fsecret", "..\\secret", "00/../../secret", "labels", "\0", "00\0"),
    ]
    drawn = save(tmp_path / "drawn.tif", np.zeros((128, 128), np.uint16))
    for name in names:
        code = quote(name, safe="")
        for path in (
            f"/datastore/image?image={code}",
            f"/datastore/image/info?image={code}",
            f"/datastore/label?label={code}&tag=final",
            f"/datastore/label?label=00&tag={code}",
            f"/annotate/image?id={code}",
            f"/annotate/label?id={code}",
            f"/annotate/{code}",
        ):
            assert 400 <= server.get(path).status < 500, path
        assert 400 <= server.infer(code).status < 500, name
        assert 400 <= server.label(code, drawn).status < 500, name
        if not name.isalpha():
            assert 400 <= server.label("00", drawn, code).status < 500, name
        if name in ("labels", "link.tif"):  # plain names, of new files
            continue
        for path in (f"/datastore/image?image={code}", f"/datastore/?image={code}"):
            assert 400 <= server.send("PUT", path, secret).status < 500, (path, name)
    assert (server.studies / "link.tif").is_symlink()
    outside = tmp_path / "evil.tif"
    for name in ("../evil.tif", str(outside), "a/../../evil.tif", "evil.tif\0.png"):
        server.send("PUT", "/datastore/label?image=00&tag=x", drawn, "label", name)
        server.send("PUT", "/datastore/image", secret, "file", name)
    assert not list(server.studies.parent.glob("evil*"))
    assert not outside.exists()
    (server.studies / "labels" / "linked").symlink_to(server.studies.parent)
    assert "outside" in server.label("00", drawn, "linked").detail
    params = json.dumps({"image": str(secret), "upload": str(secret), "bundle_path": "/"})
    answer = server.send("POST", "/infer/touching_cells?image=nothing", params=params)
    assert "no such image" in answer.detail
    assert server.post("/train/touching_cells", {"bundle_path": "/", "max_epochs": 0}).detail
    for path in ("/proxy/dicom/wado/x", "/ohif/index.html", "/session/x"):
        assert server.get(path).status in (404, 405), path
    (server.studies / "evil.tif").unlink(missing_ok=True)


def test_the_page_is_served_file_by_file(server: Server) -> None:
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
    files = [f for f in (ROOT / "pipelines" / "label" / "page").iterdir() if f.suffix in kinds]
    assert len(files) > 10
    for file in files:
        answer = server.get(f"/annotate/{file.name}")
        assert (answer.status, answer.body) == (200, file.read_bytes()), file.name
        assert answer.headers["content-type"] == kinds[file.suffix]
        assert answer.headers["cache-control"] == "no-store"
        assert "script-src 'self'; style-src 'self';" in answer.headers["content-security-policy"]
    for name in ("annotate.html", "nothing.js", "page", "..%2fapp.py", "%2e%2e%2fmiddleware.py"):
        assert 400 <= server.get(f"/annotate/{name}").status < 500, name
    scripts = re.findall(r"<script[^>]*>[^<]*", server.get("/annotate/").body.decode())
    assert scripts == ['<script type="module" src="/annotate/annotate.js">']


def test_requests_of_other_pages_are_refused(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert server.ask("GET", "/info/", headers={"Origin": f"http://{own}"}).status == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert "origin" in server.ask("GET", "/info/", headers={"Origin": origin}).detail
        assert server.ask("DELETE", "/train/", headers={"Origin": origin}).status == 403
    assert "evil.example" in server.ask("GET", "/info/", headers={"Host": "evil.example"}).detail
    page = server.get("/annotate/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    # nor does any other answer let scripts of elsewhere in
    log = server.get("/logs/")
    assert (log.status, log.headers["content-type"][:10]) == (200, "text/plain")
    assert server.get("/docs").status == 404
    for answer in (log, server.get("/info/"), server.get("/docs")):
        assert answer.headers["content-security-policy"] == policy
    told = server.ask("GET", "/info/", headers={"Host": "evil.example"}).detail
    assert told.count("127.0.0.1") == 1
    for header in ({"Host": "["}, {"Origin": "http://["}):
        assert "no address" in server.ask("GET", "/info/", headers=header).detail
    assert (
        "networks are changed by training"
        in server.send("PUT", "/model/touching_cells", server.studies / "00.tif").detail
    )


def test_mistakes_are_answered_in_one_sentence(server: Server, tmp_path: Path) -> None:
    assert "touching_cells" in server.infer("00", "nothing").detail
    assert "no such image" in server.infer("nothing").detail
    assert "no JSON" in server.send("POST", "/infer/touching_cells?image=00", params="{oops").detail
    assert "expected one of" in server.post("/train/nothing").detail
    assert "max_epochs" in server.post("/train/touching_cells", {"max_epochs": -1}).detail
    assert "start" in server.post("/train/touching_cells", {"start": "elsewhere"}).detail
    assert "expected one of" in server.post("/activelearning/nothing").detail
    assert "expected one of" in server.post("/scoring/nothing").detail
    assert "no training" in server.ask("DELETE", "/train/").detail.lower()
    assert "expected one of" in server.post("/batch/infer/nothing").detail
    for tag in (5, ["x"]):
        wrong = {"label_tag": tag, "save_label": True}
        told = server.send("POST", "/infer/touching_cells?image=00", params=json.dumps(wrong))
        assert (told.status, "label_tag" in told.detail) == (400, True)
        told = server.post("/batch/infer/touching_cells?run_sync=true", wrong)
        assert (told.status, "label_tag" in told.detail) == (400, True)
    final = json.dumps({"save_label": True, "label_tag": "final"})
    told = server.send("POST", "/infer/touching_cells?image=00", params=final)
    assert "would replace the labels of annotators" in told.detail
    told = server.post("/batch/infer/touching_cells?run_sync=true", {"max_batch_size": "a"})
    assert (told.status, "max_batch_size" in told.detail) == (400, True)
    assert server.post("/activelearning/dropout", {"model": [5]}).status == 404
    assert server.ask("PUT", "/datastore/image/info?image=00", b"[1]").status < 500
    for wrong in ({"max_batch_size": -2}, {"label_tag": "../x"}, {"label_tag": "final"}):
        assert next(iter(wrong)) in server.post("/batch/infer/touching_cells", wrong).detail
    assert "limit_cases -1" in server.get("/datastore/dataset?limit_cases=-1").detail
    deep = "[" * 200_000
    many = "9" * 5000  # Python converts no number of so many digits
    for told in (
        server.send("POST", "/infer/touching_cells?image=00", params=f'{{"x": {many}}}'),
        server.send(
            "POST", "/infer/wsi_v2/touching_cells?image=00", wsi=f'{{"size": [{many}, 1]}}'
        ),
        server.send("PUT", "/datastore/image/info?image=00", info=many),
        server.send("PUT", "/datastore/image/info?image=00", info="[1]"),
        server.send("PUT", "/datastore/label/info?label=00&tag=final", info="[1]"),
        server.send("PUT", "/datastore/updatelabelinfo?label=00&tag=final", params="[1]"),
        server.ask("HEAD", "/datastore/image?image=00&check_sum=FOO:12"),
    ):
        assert told.status == 400
    for told in (
        server.post("/infer/wsi/touching_cells?image=00", {"location": [10**400, 0]}),
        server.get(f"/logs/?lines={10**30}"),
    ):
        assert told.status == 422
    kept = json.dumps({"save_label": "false"})
    told = server.send("POST", "/infer/touching_cells?image=00", params=kept)
    assert "expected true or false" in told.detail
    upload = server.studies / "00.tif"
    kept = json.dumps({"save_label": True})
    told = server.send("POST", "/infer/touching_cells", upload, params=kept)
    assert "is not kept" in told.detail
    for told in (
        server.send("POST", "/infer/touching_cells?image=00", params=deep),
        server.send("PUT", "/datastore/image/info?image=00", info=deep),
    ):
        assert "nested" in told.detail
    drawn = save(tmp_path / "drawn.tif", np.zeros((128, 128), np.uint16))
    for odd in ('{"x": NaN}', '{"x": "\\ud800"}'):  # Python reads both, and could not answer them
        told = server.send("PUT", "/datastore/label?image=00&tag=odd", drawn, "label", params=odd)
        assert "no JSON" in told.detail
    (server.studies / "labels" / "plain").write_text("")
    told = server.label("00", drawn, "plain")
    assert (told.status, "labels/plain: " in told.detail) == (403, True)
    assert "/" not in told.detail.replace("labels/plain", "")
    note = json.dumps({"uncertainty_dropout_touching_cells": "x"})
    assert server.send("PUT", "/datastore/image/info?image=00", info=note).status == 200
    assert server.post("/activelearning/dropout").status == 200
    (tmp_path / "noise.png").write_bytes(b"noise")
    assert server.label("picture", tmp_path / "noise.png").detail.count("'") % 2 == 0
    told = server.ask("PUT", "/annotate/label?id=00&width=x&height=128", b"")
    assert (told.status, told.detail[:6]) == (422, "width:")
    assert server.get("/info/").status == 200


def test_what_viewers_send_besides_is_left_out(server: Server) -> None:
    """MONAI Label takes all of it, into a command line and into the path of modules."""
    more = {"model": "nothing", "bundle_path": str(server.studies), "method": "x", "x": "x" * 2**18}
    told = server.post("/batch/infer/touching_cells?images=labeled", more).json
    assert (told["request"]["model"], "x" in told["request"]) == ("touching_cells", False)
    assert server.post("/activelearning/first", {"strategy": "nothing", **more}).json["id"]
    told = server.post("/scoring/dropout_touching_cells", more).json
    assert told["request"].keys() <= {"method", "gpus"}
    for task in ("/batch/infer", "/scoring/"):
        while (state := server.get(task).json["status"]) in ("SUBMITTED", "RUNNING"):
            time.sleep(0.3)
        assert state == "DONE"


def test_a_second_server_does_not_start(server: Server) -> None:
    done = subprocess.run(
        [*OVERTILE, "label", "--port", "18998", "--studies", str(server.studies)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "another server works in this folder" in done.stderr


def test_the_next_image(server: Server) -> None:
    labelled = {"01"}
    firsts = server.post("/activelearning/first").json
    assert firsts["id"] == "00"
    assert firsts["path"] == str(server.studies / "00.tif")
    again = [server.post("/activelearning/random", {"seed": 3}).json["id"] for _ in range(3)]
    assert len(set(again)) == 1
    for strategy in ("dropout", "rotations"):
        chosen = server.post(f"/activelearning/{strategy}", {"model": "touching_cells"}).json
        assert chosen["weight"] > 0
        assert chosen["id"] not in labelled
        noted = {
            i: info.get(f"uncertainty_{strategy}_touching_cells", {}).get("value", 0)
            for i in ("00", "02", "03", "picture", "many", "flat")
            for info in [server.get(f"/datastore/image/info?image={i}").json]
        }
        assert chosen["weight"] >= max(noted.values())
        assert server.post(f"/activelearning/{strategy}").json["id"] == chosen["id"] or any(
            v == 0 for v in noted.values()
        )


def test_proposals_are_the_same_while_images_are_scored(server: Server) -> None:
    """Dropout is on for the scores, in the network that proposes."""
    before = server.infer("06").body
    for name in server.get("/annotate/data").json["images"]:
        note = json.dumps({"uncertainty_dropout_touching_cells": {}})
        path = f"/datastore/image/info?image={name['id']}"
        assert server.send("PUT", path, info=note).status == 200
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(server.post, "/activelearning/dropout", {"model": "touching_cells"})
        during = [server.infer("06").body]
        while not asked.done():
            during.append(server.infer("06").body)
        assert asked.result().json["weight"] > 0
    assert set(during) == {before}


def test_scores_are_made_in_the_background(server: Server) -> None:
    assert server.post("/scoring/rotations_touching_cells").status == 200
    while (task := server.get("/scoring/").json)["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(0.3)
    assert task["status"] == "DONE", task
    info = server.get("/datastore/image/info?image=07").json
    assert info["uncertainty_rotations_touching_cells"]["value"] > 0


def test_uploads_have_a_limit(
    tmp_path: Path, studies_in: Callable[[Path], Path], cells: Any
) -> None:
    studies = studies_in(tmp_path / "studies")
    limit = {"OVERTILE_LABEL_LIMIT": str(2**20)}
    with serving(studies, tmp_path / "log", "--read-only", **limit) as server:
        large = tmp_path / "large.tif"
        large.write_bytes(bytes(2**20 + 1))
        assert server.send("PUT", "/datastore/image?image=x", large).status == 413
        chunked = server.ask(
            "PUT",
            "/annotate/label?id=00&width=128&height=128",
            (bytes(2**16) for _ in range(17)),  # type: ignore[arg-type]
            {"Transfer-Encoding": "chunked"},
        )
        assert chunked.status == 413
        form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.tif"\r\n\r\n'
        chunked = server.ask(
            "PUT",
            "/datastore/image?image=x",
            iter([form, *(bytes(2**16) for _ in range(17)), b"\r\n--b--\r\n"]),  # type: ignore[arg-type]
            {"Transfer-Encoding": "chunked", "Content-Type": "multipart/form-data; boundary=b"},
        )
        assert (chunked.status, "expected less" in chunked.detail) == (413, True)
        # a folder that may not be written: proposals, but no labels and no training
        drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
        assert "read-only" in server.label("00", drawn).detail
        assert server.infer("00").status == 200
        assert 400 <= server.post("/train/touching_cells").status < 500
        assert server.get("/datastore/").json["read_only"]
        locked = server.get("/annotate/data").json["locked"]
        assert all("read-only" in why for why in locked.values())
        assert not (studies / "labels").exists()
        # files that come and go are seen
        (studies / "00.tif").unlink()
        assert "no such image" in server.infer("00").detail
        save(studies / "later.tif", cells[9][0])
        assert server.infer("later").status == 200


def test_what_a_killed_server_left_is_gone(server: Server) -> None:
    assert list((server.work / ".tmp").glob("overtile-left")) == []
    assert (server.work / ".tmp").is_dir()


def test_a_body_that_never_comes_is_not_waited_for(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"PUT /annotate/label?id=00&width=128&height=128 HTTP/1.1\r\n"
            b"Host: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n"
        )
        client.settimeout(15)
        assert client.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_breaks_off_is_not_waited_for() -> None:
    """Nor is what is no longer a body: a client that stays."""
    from overtile.pipelines.label.middleware import SecurityMiddleware

    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await receive()  # waits for the client to leave

    def serve(parts: list[dict[str, Any]]) -> None:
        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.sleep(10)
            return parts.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/infer", "headers": []}
        asyncio.run(SecurityMiddleware(app, (), 100, 0.01)(scope, receive, send))  # type: ignore[arg-type]

    part = {"type": "http.request", "body": b"x", "more_body": True}
    with pytest.raises(SlowError):
        serve([part])
    serve([part, {**part, "more_body": False}, {"type": "http.disconnect"}])


def test_a_label_does_not_stay_without_its_image(
    server: Server, cells: Any, tmp_path: Path
) -> None:
    image, drawn = save(tmp_path / "i.tif", cells[0][0]), save(tmp_path / "l.tif", cells[0][1])
    left = server.studies / "labels" / "final"
    for _ in range(6):
        assert server.send("PUT", "/datastore/image?image=brief", image).status == 200
        with ThreadPoolExecutor(3) as pool:
            saved = [pool.submit(server.label, "brief", drawn) for _ in range(2)]
            gone = pool.submit(server.ask, "DELETE", "/datastore/?id=brief")
        assert gone.result().status == 200
        assert {answer.result().status for answer in saved} <= {200, 400, 404}
        assert not list(left.glob("brief*"))
    noted = json.loads((server.studies / "labels" / "info.json").read_text())
    assert "brief" not in noted["labels"].get("final", {})


def test_bodies_that_are_too_long_are_not_kept(server: Server) -> None:
    """Nor is their memory: nothing of 4 bytes for each pixel more than the image has."""
    process = psutil.Process(server.process.pid)
    path, size = "/annotate/label?id=00&width=4096&height=4096", 4 * 4096**2
    before = process.memory_info().rss
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.ask, "PUT", path, bytes(size)) for _ in range(2)]
    assert all("expected the same size" in answer.result().detail for answer in asked)
    assert process.memory_info().rss - before < size


def test_an_image_that_is_removed_by_hand_takes_the_label_that_is_being_saved(
    tmp_path: Path, cells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overtile.pipelines.label import datastore as module

    (tmp_path / "studies").mkdir()
    image = save(tmp_path / "studies" / "a.tif", cells[0][0])
    datastore, write = module.ImageFolderDatastore(tmp_path / "studies"), module.write_label

    def removing(*arguments: Any) -> Path:
        image.unlink()
        return write(*arguments)

    monkeypatch.setattr(module, "write_label", removing)
    with pytest.raises(MissingError, match="removed meanwhile"):
        datastore.save_cells("a", cells[0][1], "final", {})
    assert [p.name for p in (tmp_path / "studies" / "labels" / "final").iterdir()] == []


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    with serving(tmp_path / "studies", tmp_path / "log") as server:
        assert server.get("/info/").json["datastore"]["total"] == 0
        assert server.post("/activelearning/first").json == {}
        assert server.post("/activelearning/dropout").json == {}
        assert "no image has a final label" in server.post("/train/touching_cells").detail


def test_a_folder_that_changes(tmp_path: Path, studies_in: Any, cells: Any) -> None:
    studies = studies_in(tmp_path / "studies", 2)
    os.mkfifo(studies / "pipe.png")
    (studies / "circle.png").symlink_to("circle.png")
    with serving(studies, tmp_path / "log") as server:
        listed = server.get("/annotate/data").json
        assert [image["id"] for image in listed["images"]] == ["00", "01"]
        assert "neither a file nor a folder" in listed["unreadable"]["pipe.png"]
        assert "symbolic links" in listed["unreadable"]["circle.png"]
        server.label("00", save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16)))
        for _ in range(2):
            archive = zipfile.ZipFile(io.BytesIO(server.get("/datastore/dataset").body))
            assert sorted(archive.namelist()) == ["images/00.tif", "labels/00.tif"]
        # a second file of the same name without suffix: both get longer names, the label stays
        save(studies / "00.png", eight_bits(cells[0][0]))
        listed = server.get("/annotate/data").json
        labelled = {image["id"]: image["labelled"] for image in listed["images"]}
        assert labelled == {"00.png": False, "00.tif": True, "01": False}
        # a score is of an image as it was
        assert server.post("/scoring/dropout_touching_cells?run_sync=true").status == 200
        before = server.post("/scoring/dropout_touching_cells?run_sync=true").json
        assert before == {}
        save(studies / "01.tif", cells[7][0])
        after = server.post("/scoring/dropout_touching_cells?run_sync=true").json
        assert after.keys() == {"01"}
        notes = studies / "labels" / "info.json"
        for broken in ("[]", '{"images": []}', '{"images": {"01": 5}}', '{"labels": {"final": 5}}'):
            notes.write_text(broken)
            told = server.label("01", tmp_path / "drawn.tif")
            assert (told.status, "labels/info.json: no JSON object" in told.detail) == (400, True)
            assert "info.json" in server.get("/datastore/image/info?image=01").detail
        assert not (studies / "labels" / "final" / "01.tif").exists()
        # nothing is written outside, whatever becomes of the folder
        (studies / "labels").rename(tmp_path / "labels")
        (tmp_path / "elsewhere").mkdir()
        (studies / "labels").symlink_to(tmp_path / "elsewhere")
        info = server.send("PUT", "/datastore/image/info?image=01", info='{"a": 1}')
        assert "outside" in info.detail
        assert "outside" in server.label("01", tmp_path / "drawn.tif").detail
        assert not list((tmp_path / "elsewhere").iterdir())
        studies.rename(tmp_path / "gone")
        for path in ("/info/", "/annotate/data", "/datastore/", "/annotate/image?id=01"):
            assert "expected the folder" in server.get(path).detail
        (tmp_path / "gone").rename(studies)


def test_labels_stay_with_their_images_whatever_comes_and_goes(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore

    folder = tmp_path / "studies"
    folder.mkdir()
    datastore = ImageFolderDatastore(folder)
    drawn = str(save(tmp_path / "drawn.png", cells[0][1].astype(np.uint16)))
    for name in ("a.png", "b.png"):
        save(folder / name, eight_bits(cells[0][0]))
        datastore.save_label(name[0], drawn, FINAL, {})
    for added in ("a.jpg", "a.tif"):  # a label of the first would have the suffix of one of a.png
        Image.fromarray(eight_bits(cells[1][0])).save(folder / added)
        done = datastore.labelled()
        assert {i: image.name for i, (image, _) in done.items()} == {"a.png": "a.png", "b": "b.png"}
    datastore.save_label("a", drawn, FINAL, {})  # who opened it before has the id that it had then
    assert datastore.labelled().keys() == {"a.png", "b"}
    datastore.save_label("a.tif", drawn, FINAL, {})
    for gone in ("a.jpg", "a.tif"):
        datastore.remove_image(gone)
    assert datastore.images().keys() == datastore.labelled().keys() == {"a", "b"}
    # a label that is named as an image is that image's
    save(folder / "c.png.tif", cells[0][0])
    datastore.save_label("c.png", drawn, FINAL, {})
    save(folder / "c.png", eight_bits(cells[1][0]))
    assert datastore.labelled().keys() == {"a", "b", "c.png.tif"}
    datastore.save_label("c", drawn, FINAL, {})
    assert datastore.labelled().keys() == {"a", "b", "c", "c.png.tif"}
    for gone in ("c", "c.png"):
        datastore.remove_image(gone)
    # nor is one of an image that is gone that of another, of whatever kind
    for before, after in (("d.png", "d.tif"), ("e.jpg", "e.png")):
        Image.fromarray(eight_bits(cells[0][0])).save(folder / before)
        datastore.save_label(before[0], drawn, FINAL, {"note": "first"})
        save(folder / after, eight_bits(cells[1][0]))
        (folder / before).rename(folder / f".{before}")
        assert before[0] not in datastore.labelled()
        (left,) = (p for p in folder.glob("labels/final/*") if p.name[0] == before[0])
        assert f"of {before}, which is gone" in datastore.unreadable()[f"labels/final/{left.name}"]
        kept = left.read_bytes()
        datastore.save_label(before[0], drawn, FINAL, {})
        assert before[0] in datastore.labelled()
        assert left.read_bytes() == kept
        (folder / f".{before}").rename(folder / before)
        assert {before, after} < datastore.labelled().keys()
        assert datastore.get_label_info(before, FINAL)["note"] == "first"
        datastore.remove_image(after)
        assert datastore.labelled()[before[0]][1] == left
        datastore.remove_image(before)
        assert not [p for p in folder.glob("labels/final/*") if p.name[0] == before[0]]
    # made by hand, noted nowhere: of two images the one that is called as it is
    for name in ("h.png", "h.bmp"):
        Image.fromarray(eight_bits(cells[0][0])).save(folder / name)
    shutil.copyfile(drawn, folder / "labels" / "final" / "h.png")
    assert "h.png" in datastore.labelled()
    assert "h.bmp" not in datastore.labelled()
    datastore.remove_image("h.png")
    assert "h" not in datastore.labelled()
    datastore.remove_image("h")
    # names that look like those of others
    for name in ("a.tif", "a.png.tif"):
        save(folder / name, cells[0][0])
    assert datastore.images().keys() == {"a.png", "a.tif", "a.png.tif", "b"}
    # a label that was left behind is not of the next image of this name
    (folder / "b.png").unlink()
    with pytest.raises(ConflictError, match=r"labels/final/b\.png is left from another image"):
        datastore.add_image("b", str(save(tmp_path / "new.png", eight_bits(cells[2][0]))), {})


def test_a_label_of_many_cells_stays_with_its_image(tmp_path: Path, cells: Any) -> None:
    """It is a TIFF, for PNG has no such numbers, and may look like that of another image."""
    from overtile.pipelines.data.layouts import find_pairs
    from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore

    datastore = ImageFolderDatastore(tmp_path)
    save(tmp_path / "a.png", eight_bits(cells[0][0]))
    drawn = np.where(cells[0][1] > 0, cells[0][1].astype(np.uint32) + 70_000, 0)
    file = str(save(tmp_path / ".drawn.tif", drawn))
    datastore.save_label("a", file, FINAL, {})
    save(tmp_path / "a.tif", cells[1][0])
    assert {i: p[1].name for i, p in datastore.labelled().items()} == {"a.png": "a.tif"}
    pairs = [(p.image.name, p.label.name) for p in find_pairs(tmp_path)[1]["train"]]
    assert pairs == [("a.png", "a.tif")]
    datastore.save_label("a.tif", file, FINAL, {})
    assert datastore.labelled().keys() == {"a.png", "a.tif"}
    datastore.remove_label("a.tif", FINAL)
    datastore.save_label("a.png", file, FINAL, {})  # takes the place of the first
    assert len(list(tmp_path.glob("labels/final/*"))) == 1


def test_what_is_noted_stays_with_its_image(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore

    datastore = ImageFolderDatastore(tmp_path)
    for name in ("a.png", "b.png"):
        save(tmp_path / name, eight_bits(cells[0][0]))
    datastore.update_image_info("a", {"patient": "A"})
    datastore.update_image_info("a", {"stain": "DAPI"})
    assert datastore.get_image_info("a")["patient"] == "A"
    # a label that somebody put there; whose it is, is not a client's to say
    (tmp_path / "labels" / "final").mkdir()
    save(tmp_path / "labels" / "final" / "a.png", cells[0][1].astype(np.uint16))
    datastore.update_label_info("a", FINAL, {"image": "b.png", "file": "a.png", "seen": True})
    assert datastore.labelled().keys() == {"a"}
    assert datastore.get_label_info("a", FINAL) == {"seen": True}
    (tmp_path / "a.png").unlink()
    save(tmp_path / "a.tif", cells[1][0])
    assert "patient" not in datastore.get_image_info("a")
    assert "a" not in datastore.noted()
    datastore.update_image_info("a", {"patient": "B"})
    assert "stain" not in datastore.get_image_info("a")


def test_an_upload_has_an_id_of_its_own(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    (tmp_path / "studies").mkdir()
    datastore = ImageFolderDatastore(tmp_path / "studies")
    new = str(save(tmp_path / "new.tif", cells[2][0]))
    save(datastore.folder / "a.png", eight_bits(cells[0][0]))
    datastore.images()  # so that it has been told of "a"
    Image.fromarray(eight_bits(cells[1][0])).save(datastore.folder / "a.bmp")
    for taken in ("a", "a.png", "a.bmp"):
        with pytest.raises(ConflictError, match="exists already"):
            datastore.add_image(taken, new, {})
    assert datastore.path_of(datastore.add_image("b", new, {})).name == "b.tif"
    assert datastore.path_of(datastore.add_image("c.v2", new, {"x": 1})).name == "c.v2.tif"
    assert datastore.get_image_info("c.v2")["x"] == 1


def test_what_cannot_be_used_is_listed_and_the_rest_served(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore

    (tmp_path / "studies").mkdir()
    datastore = ImageFolderDatastore(tmp_path / "studies")
    home = datastore.folder
    save(home / "good.tif", cells[0][0])
    save(home / f"{'n' * 245}.tif", cells[0][0])
    zarr.save_array(home / "bare.zarr", cells[0][0])
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    described = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    for kept, image in ((home / "own.zarr", cells[0][0]), (tmp_path / "x.zarr", cells[1][0])):
        group = zarr.create_group(kept, attributes={"ome": described})
        group.create_array("0", data=image)
    shutil.copytree(home / "own.zarr", home / "linked.zarr")
    shutil.rmtree(home / "linked.zarr" / "0")
    (home / "linked.zarr" / "0").symlink_to(tmp_path / "x.zarr" / "0")
    assert datastore.images().keys() == {"good", "own", "bare"}
    told = datastore.unreadable()
    assert "at most 230 bytes" in told[f"{'n' * 245}.tif"]
    assert "0 is a link to a place outside" in told["linked.zarr"]
    # an image that is a folder is not removed, and keeps its label
    drawn = str(save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16)))
    datastore.save_label("own", drawn, FINAL, {})
    with pytest.raises(ForbiddenError, match="by hand"):
        datastore.remove_image("own")
    assert datastore.labelled().keys() == {"own"}
    (home / "labels" / "alias").symlink_to("final")
    with pytest.raises(ForbiddenError, match="a link to labels/final"):
        datastore.save_label("own", drawn, "alias", {})


def test_a_folder_that_cannot_be_listed_is_no_image(
    tmp_path: Path, cells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lost+found on a disk of its own. Root may list all, so the system is made to refuse."""
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    save(tmp_path / "good.tif", cells[0][0])
    (tmp_path / "lost+found").mkdir()
    listed, allowed = Path.iterdir, os.access

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(os, "access", lambda p, mode: "lost" not in str(p) and allowed(p, mode))
    assert ImageFolderDatastore(tmp_path).images().keys() == {"good"}


def test_proposals_are_not_kept_for_an_image_that_was_replaced(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.app import OvertileLabel
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    (tmp_path / "studies").mkdir()
    image = save(tmp_path / "studies" / "a.tif", cells[0][0])

    class Slow:
        bundle = Path("slow")

        def propose(self, path: Path, polygons: bool) -> tuple[Any, dict[str, Any]]:
            save(tmp_path / "new.tif", cells[1][0]).replace(image)
            return cells[0][1], {}

    app = OvertileLabel.__new__(OvertileLabel)
    app._infers = {"slow": Slow()}
    request = {"model": "slow", "image": "a", "save_label": True}
    with pytest.raises(ReplacedError, match="was replaced"):
        app.infer(request, ImageFolderDatastore(tmp_path / "studies"))
    assert not list((tmp_path / "studies").glob("labels/*/*.tif"))


def test_images_of_one_name_that_come_at_once(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    (tmp_path / "studies").mkdir()
    datastore = ImageFolderDatastore(tmp_path / "studies")
    files = [save(tmp_path / f"{n}.tif", image) for n, (image, _) in enumerate(cells[:6])]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(datastore.add_image, "same", str(file), {}) for file in files]
    refusals = [answer.exception() for answer in asked]
    assert sum(refusal is None for refusal in refusals) == 1
    assert all(isinstance(refusal, ConflictError | None) for refusal in refusals)
    kept = tifffile.imread(tmp_path / "studies" / "same.tif")
    assert (kept == cells[refusals.index(None)][0]).all()


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    file = save(tmp_path / "good.png", eight_bits(cells[0][0]))
    try:
        shutil.copyfile(file, os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))
    except OSError:
        pytest.skip("this file system takes names of text alone")
    datastore = ImageFolderDatastore(tmp_path)
    assert datastore.images().keys() == {"good"}
    assert "not UTF-8" in datastore.unreadable()["bad\\xff.png"]
    json.dumps(datastore.status(), ensure_ascii=False).encode()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, studies_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the system is made to say that it may not."""
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    datastore = ImageFolderDatastore(studies_in(tmp_path / "studies", 2))
    assert not datastore.read_only
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert datastore.status()["read_only"]
    with pytest.raises(ForbiddenError, match="read-only"):
        datastore.update_image_info("00", {"a": 1})
    assert not (datastore.folder / "labels").exists()


def test_what_cannot_be_trained_on_is_left_out(tmp_path: Path, studies_in: Any, cells: Any) -> None:
    studies = studies_in(tmp_path / "studies", 2)
    save(studies / "nan.tif", np.full((128, 128), np.nan, np.float32))
    save(studies / "rgb.tif", np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8))
    drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
    empty = save(tmp_path / "empty.tif", np.zeros((128, 128), np.uint16))
    with serving(studies, tmp_path / "log") as server:
        assert "NaN" in server.get("/annotate/image?id=nan").detail
        assert server.label("nan", drawn).status == 200
        assert "nan.tif: 16384 pixels" in server.post("/train/touching_cells").detail
        assert server.label("00", empty).status == 200
        assert "no cell" in server.post("/train/touching_cells").detail
        for image in ("00", "rgb", "01"):
            assert server.label(image, drawn).status == 200
        (studies / "labels" / "final" / "01.tif").write_bytes(b"torn")
        with ThreadPoolExecutor() as pool:  # and of several requests at once one is served
            asked = [pool.submit(server.post, "/train/touching_cells", LONG) for _ in range(4)]
            answers = sorted((a.result() for a in asked), key=lambda answer: answer.status)
        assert [answer.status for answer in answers] == [200, 409, 409, 409]
        left_out = answers[0].json["left_out"]
        assert left_out.keys() == {"01", "nan", "rgb"}
        assert left_out["01"].startswith("labels/final/01.tif: ")
        assert "--" not in left_out["01"]  # no option of other commands
        assert left_out["rgb"].startswith("rgb.tif: 3 channels")


def test_a_training_has_the_files_as_they_were(tmp_path: Path, cells: Any) -> None:
    from overtile.pipelines.label.train import linked

    files = [save(tmp_path / f"{kind}.tif", cells[0][0]) for kind in ("image", "label")]
    data = linked([dict(zip(("image", "label"), map(str, files), strict=True))], tmp_path / "data")
    files[0].unlink()
    save(tmp_path / "new.tif", cells[1][0]).replace(files[1])
    for kind in ("images", "labels"):
        assert (tifffile.imread(data / kind / "0000.tif") == cells[0][0]).all()


def test_a_training_has_the_files_under_suffixes_of_any_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overtile.pipelines.images import formats
    from overtile.pipelines.label.train import linked

    class Volume(type(formats.all_formats()[0])):  # type: ignore[misc]
        suffixes = (".vol.gz",)

    every = (Volume(), *formats.all_formats())
    monkeypatch.setattr(formats, "all_formats", lambda: every)
    suffixes = {suffix for format in every if not format.folders for suffix in format.suffixes}
    assert suffixes > {".vol.gz", ".nii.gz", ".ome.tif", ".png"}
    files = [tmp_path / f"a.b{suffix}" for suffix in sorted(suffixes)]
    for file in files:
        file.touch()
    data = linked([{"image": str(file)} for file in files], tmp_path / "data")
    made = sorted(path.name for path in (data / "images").iterdir())
    assert made == [f"{n:04d}{suffix}" for n, suffix in enumerate(sorted(suffixes))]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, cells: Any) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("colours")
    (home / "studies").mkdir()
    grey = eight_bits(cells[0][0])
    save(home / "studies" / "grey.png", grey)
    save(home / "studies" / "colour.png", np.stack([grey[::-1], grey, 255 - grey], -1))
    with serving(home / "studies", home / "log", "--channels", "1") as made:
        yield made


def test_one_channel_of_colours(colours: Server) -> None:
    expected = colours.infer("grey")
    assert len(expected.body) > 200  # cells
    assert colours.infer("colour").body == expected.body
    shown = [colours.get(f"/annotate/image?id={i}").body for i in ("grey", "colour")]
    assert shown[0] == shown[1]


@pytest.mark.slow
def test_a_training_on_one_channel_of_colours(colours: Server, cells: Any, tmp_path: Path) -> None:
    drawn = save(tmp_path / "drawn.png", cells[0][1].astype(np.uint16))
    assert colours.label("colour", drawn).status == 200
    quick = {"max_epochs": 1, "samples_per_epoch": 2}
    assert colours.post("/train/touching_cells", quick).status == 200
    task = colours.trained()
    assert task["status"] == "DONE", task


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--studies", "nowhere"], "nowhere: no such folder"),
        (["--studies", ".", "--host", "0.0.0.0"], "without a password"),
        (["--studies", ".", "--channels", "[0"], "'[0'; expected e.g. 0,2 or [0, 'DAPI']"),
        (["--studies", ".", "--bundle", "empty"], "no configs/inference.json"),
        (["--studies", "linked"], "a link out of the folder"),
        (["--studies", "pairs"], "no image in it, but in images/, and folders in it are not"),
        (["--studies", "nnunet"], "give --studies nnunet/imagesTr"),
        (["--studies", ".", "--bundle", "x/em_membranes"], "another model is named em_membranes"),
    ],
)
def test_the_command_refuses(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "labels").symlink_to(tmp_path / "empty")
    for folder in ("pairs/images", "pairs/labels", "nnunet/imagesTr"):
        (tmp_path / folder).mkdir(parents=True)
        save(tmp_path / folder / "a.tif", np.zeros((8, 9), np.uint8))
    done = subprocess.run(
        [*OVERTILE, "label", "--port", "18999", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("[!.]*/overtile")), "nothing is written"


def test_hints_are_worded_for_whoever_runs_the_server() -> None:
    from overtile.pipelines.cli.label import label as command
    from overtile.pipelines.label.refusals import as_option, sentence

    home = Path("/archive/cells")
    skip, limit = Setting("skip_unreadable", True, "to go on"), Setting("image_memory_limit", 5)
    error: Any = DataError(home / "a.tif", ("of", home / "b.tif"), "one channel", (skip, limit))
    assert sentence(error, home) == "a.tif: of b.tif; expected one channel"
    error = DataError("a.tif", "3 channels", hint=("save one", skip, Setting("channels", "0 to 2")))
    told = sentence(error, home)
    assert told == "a.tif: 3 channels; save one, or give overtile label --channels 0 to 2"
    options = {option.name: option for option in command.params}
    known = [name for name in options if name and as_option(Setting(name, "X"))]
    assert known == ["studies", "work", "host", "port", "channels", "read_only"]
    for name in (*known, "bundle"):  # each is an option of the command
        worded = as_option(Setting(name, True))
        assert worded is not None
        assert any(worded.split()[-1] in option.opts for option in options.values())
    for name in ("quiet", "checkpoint", "set", "output_dir"):
        assert as_option(Setting(name, "X")) is None


def test_a_bundle_of_an_earlier_version_is_refused_in_one_line(
    bundle: Any, cells: Any, tmp_path: Path
) -> None:
    save(tmp_path / "image.tif", cells[0][0])
    old = tmp_path / "old"
    shutil.copytree(ROOT / "bundles" / "touching_cells", old)
    config = old / "configs" / "inference.json"
    config.write_text(
        re.sub(r"overtile\.networks\.[\w.]*Net", "overtile.unet.UNet", config.read_text())
    )
    label = ("label", "--studies", tmp_path, "--port", "18997")
    for times in range(2):  # and nothing of it is left for the second time
        done = bundle.overtile(*label, "--bundle", old)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), (times, done.stderr)
        assert "overtile.unet" in done.stderr
        assert not (tmp_path / "overtile" / "model" / "old").exists()
    # the same, copied by the version that it is of
    model = tmp_path / "overtile" / "model" / "touching_cells"
    shutil.copyfile(config, model / "configs" / "inference.json")
    done = bundle.overtile(*label)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"remove {model} to copy the bundle anew" in done.stderr
    assert "overtile.unet" in done.stderr


# trainings


SUMMARY = {"images": 2, "scores": {"seg": 0.7123, "ap50": 0.5}}


def model_of(folder: Path, settings: str | None) -> tuple[Path, Path]:
    """A model with weights of a few bytes, and a run of it."""
    models, run = folder / "model" / "toy" / "models", folder / "runs" / "toy-1"
    models.mkdir(parents=True)
    for name in ("model.pt", "shipped.pt"):
        (models / name).write_bytes(b"shipped")
    if settings is not None:
        (models / "settings.json").write_text(settings)
        (models / "shipped.json").write_text(settings)
    (run / "models").mkdir(parents=True)
    trained(run, "trained")
    return models.parent, run


def trained(run: Path, weights: str) -> None:
    (run / "models" / "model.pt").write_text(weights)
    (run / "models" / "settings.json").write_text(json.dumps({"of": weights}))


@pytest.mark.parametrize("settings", [None, '{"of": "shipped"}'])
def test_a_trained_network_is_named_and_can_be_left(tmp_path: Path, settings: Any) -> None:
    from overtile.pipelines.label.models import back, network, publish

    model, run = model_of(tmp_path, settings)
    models = model / "models"
    assert network(model) is None
    for _ in range(2):
        publish(model, run, 8, SUMMARY)
        publish(model, run, 8, SUMMARY)
        assert (models / "model.pt").read_bytes() == b"trained"
        assert (models / "settings.json").read_text() == '{"of": "trained"}'
        told = network(model)
        assert told is not None
        assert re.fullmatch(r"trained \d{4}-\d\d-\d\d \d\d:\d\d on 8 images", told["told"])
        assert told["reached"] == "trained on 8 images, SEG 0.71 on 2 of them"
        back(model)
        assert network(model) is None
        assert (models / "model.pt").read_bytes() == b"shipped"
        assert (models / "settings.json").read_text() == (settings or "{}")
    publish(model, run, 1, {"images": 0, "scores": {}})
    told = network(model)
    assert told is not None
    assert told["told"].endswith("on 1 image")
    assert "on 1 image; from 5 on" in told["reached"]


def test_who_is_killed_while_networks_change_leaves_one_with_its_settings(tmp_path: Path) -> None:
    from overtile.pipelines.label.models import back, held, network, publish

    model, run = model_of(tmp_path, '{"of": "shipped"}')

    def found() -> tuple[str, str | None]:
        with held(model) as models:
            weights = (models / "model.pt").read_text()
            assert json.loads((models / "settings.json").read_text()) == {"of": weights}
        told = network(model)
        return weights, told and told["told"].rpartition(" on ")[2]

    shipped, first, second = ("shipped", None), ("trained", "8 images"), ("again", "9 images")
    assert found() == shipped
    publish(model, run, 8, SUMMARY)
    trained(run, "again")
    for _ in killed_everywhere(lambda: publish(model, run, 9, SUMMARY)):
        assert found() in (first, second)
    assert found() == second
    kills = 0
    for kills in killed_everywhere(lambda: back(model)):
        assert found() in (second, shipped), kills
    assert kills > 5
    assert found() == shipped


def test_a_network_is_read_with_its_settings_while_another_takes_its_place(tmp_path: Path) -> None:
    from overtile.pipelines.label.models import back, held, publish

    model, run = model_of(tmp_path, '{"of": "shipped"}')

    def change() -> None:
        for _ in range(8):
            publish(model, run, 8, SUMMARY)
            back(model)

    with ThreadPoolExecutor(1) as pool:
        changing, seen = pool.submit(change), 0
        while not changing.done() or not seen:
            with held(model) as models:
                weights = (models / "model.pt").read_text()
                assert json.loads((models / "settings.json").read_text()) == {"of": weights}
            seen += 1
    changing.result()


def test_who_is_killed_while_the_app_is_made_leaves_one_that_starts(tmp_path: Path) -> None:
    from overtile.pipelines.label.launch import prepare

    main = tmp_path / "work" / "main.py"
    for _ in killed_everywhere(lambda: prepare(tmp_path, main.parent)):
        assert not main.exists() or "OvertileLabel" in main.read_text()
    whole = main.read_bytes()
    for _ in killed_everywhere(lambda: prepare(tmp_path, main.parent)):
        assert main.read_bytes() == whole


def toy_files(bundle: Path) -> set[str]:
    """Make what a bundle has to have, each file with its name in it."""
    own = {f"configs/{name}.json" for name in ("inference", "train", "metadata")}
    own |= {"models/model.pt", "models/settings.json"}
    for part in own:
        (bundle / part).parent.mkdir(parents=True, exist_ok=True)
        (bundle / part).write_text(json.dumps({"name": part}))
    return own


def test_a_run_that_was_killed_is_copied_with_the_settings_of_its_network(tmp_path: Path) -> None:
    from overtile.pipelines.label.models import copied

    toy_files(tmp_path / "toy")

    def save_best(text: str) -> None:
        with together(tmp_path / "toy" / "models") as folder:
            (folder / "model.pt").write_text(text)
            (folder / "settings.json").write_text(text)

    save_best("old")
    for number in killed_everywhere(lambda: save_best("new")):
        models = copied(tmp_path / "toy", tmp_path / str(number), tested=True) / "models"
        texts = {(models / name).read_text() for name in ("model.pt", "settings.json")}
        assert texts in ({"old"}, {"new"}), number
        save_best("old")


def test_who_is_killed_while_a_bundle_is_copied_leaves_no_half_model(tmp_path: Path) -> None:
    from overtile.pipelines.label.models import copied

    own = toy_files(tmp_path / "toy")
    home = tmp_path / "model"
    home.mkdir()
    for _ in killed_everywhere(lambda: copied(tmp_path / "toy", home, tested=True)):
        for model in home.iterdir():
            if model.name[0] != ".":  # which no server takes for a model
                found = {str(p.relative_to(model)) for p in model.rglob("*") if p.is_file()}
                assert found == own | {"models/shipped.pt", "models/shipped.json"}
                shutil.rmtree(model)
    assert [model.name for model in home.iterdir()] == ["toy"]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_who_is_killed_while_a_label_is_kept_leaves_the_old_or_the_new(
    tmp_path: Path, cells: Any, suffix: str
) -> None:
    from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore

    datastore = ImageFolderDatastore(tmp_path)
    save(tmp_path / f"a{suffix}", eight_bits(cells[0][0])[:24, :16])
    # in a PNG image's own format, and then not
    drawn = [cells[0][1][:24, :16].astype(np.uint32) % 7 + first for first in (1, 70_000)]
    datastore.save_cells("a", drawn[0], FINAL, {"user": "0"})

    def kept() -> int:
        """Which of the two, as one finds it after a restart; what is noted is of that one."""
        store = ImageFolderDatastore(tmp_path)
        ((image, label),) = store.labelled().values()
        (number,) = (n for n in (0, 1) if (read_label(label, 2, image)[0] == drawn[n]).all())
        assert store.get_label_info("a", FINAL).get("user") in (None, str(number))
        return number

    kills = 0
    for kills in killed_everywhere(
        lambda: datastore.save_cells("a", drawn[1], FINAL, {"user": "1"})
    ):
        if kept() == 1:
            datastore.save_cells("a", drawn[0], FINAL, {"user": "0"})
        assert kept() == 0, kills
    assert kills > 5
    assert kept() == 1
    assert datastore.get_label_info("a", FINAL)["user"] == "1"
    left = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name[0] != "."]
    assert len(left) == 3, left


def test_who_is_killed_while_an_image_comes_leaves_all_of_it_or_nothing(
    tmp_path: Path, cells: Any
) -> None:
    from overtile.pipelines.label.datastore import ImageFolderDatastore

    (tmp_path / "studies").mkdir()
    datastore = ImageFolderDatastore(tmp_path / "studies")
    new = save(tmp_path / "new.tif", cells[0][0][:24, :16])
    for _ in killed_everywhere(lambda: datastore.add_image("a", str(new), {"note": 1})):
        assert not datastore.unreadable()
        for image in datastore.images().values():
            assert image.read_bytes() == new.read_bytes()
            image.unlink()
    assert datastore.images().keys() == {"a"}
    assert datastore.get_image_info("a")["note"] == 1


def test_what_is_noted_of_a_label_is_of_that_file(tmp_path: Path, cells: Any) -> None:
    """napari and others save under the name of a label."""
    from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore

    datastore = ImageFolderDatastore(tmp_path)
    save(tmp_path / "a.tif", cells[0][0])
    datastore.save_cells("a", cells[0][1], FINAL, {"user": "me"})
    datastore.update_label_info("a", FINAL, {"seen": True, "sha256": "mine"})
    told = datastore.get_label_info("a", FINAL)
    assert (told["user"], told["seen"]) == ("me", True)
    save(tmp_path / "labels" / "final" / "a.tif", cells[1][1].astype(np.uint16))
    assert datastore.get_label_info("a", FINAL) == {"image": "a.tif", "file": "a.tif"}
    datastore.update_label_info("a", FINAL, {"seen": False})
    told = datastore.get_label_info("a", FINAL)
    assert (told["image"], told["seen"], "user" in told) == ("a.tif", False, False)


@pytest.fixture(scope="module")
def training(
    tmp_path_factory: pytest.TempPathFactory, studies_in: Callable[[Path], Path], cells: Any
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("training")
    studies = studies_in(home / "studies")
    save(studies / "nan.tif", np.full((128, 128), np.nan, np.float32))
    with serving(studies, home / "log") as server:
        assert server.label("nan", save(home / "nan.tif", cells[0][1])).status == 200
        for number in range(3):
            drawn = save(home / "drawn.tif", cells[number][1].astype(np.uint16))
            assert server.label(f"{number:02d}", drawn).status == 200
        yield server


LONG = {"max_epochs": 50, "samples_per_epoch": 20}


def runs(server: Server) -> list[Any]:
    client = MlflowClient(f"sqlite:///{server.work / 'runs' / 'mlflow.db'}")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return sorted(found, key=lambda run: run.info.start_time)


def child(server: Server) -> psutil.Process:
    """The process that trains, once it does."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        task = server.get("/train/").json
        if task["progress"]["max_epochs"]:
            for process in psutil.Process(server.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
                    if "monai.bundle" in process.cmdline() and process.children():
                        return process
        assert task["status"] in ("SUBMITTED", "RUNNING"), task
        time.sleep(0.2)
    raise AssertionError("no training began")


@pytest.mark.slow
def test_a_training_changes_the_proposals(training: Server) -> None:
    before = training.infer("05").body
    shipped = (training.work / "model" / "touching_cells" / "models" / "model.pt").read_bytes()
    quick = {"max_epochs": 2, "samples_per_epoch": 5, "learning_rate": 0.01}
    assert training.post("/train/touching_cells", quick).status == 200
    assert "a training goes on" in training.post("/train/touching_cells", quick).detail
    assert training.infer("06").status == 200  # the server answers meanwhile
    task = training.trained()
    assert task["status"] == "DONE", task
    assert task["progress"] == {"epoch": 2, "max_epochs": 2, "done": 1.0}
    assert training.infer("05").body != before
    models = training.work / "model" / "touching_cells" / "models"
    assert (models / "shipped.pt").read_bytes() == shipped
    (run,) = runs(training)
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["max_epochs"] == "2"
    assert params["initial_weights"].endswith("shipped.pt")
    assert len(params["data/digest"]) == 64
    assert params["data/train_images"] == "3"
    assert run.data.metrics["train_loss"] > 0
    client = MlflowClient(f"sqlite:///{training.work / 'runs' / 'mlflow.db'}")
    kept = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert "figures/training_sample.png" in kept
    stats = training.get("/info/").json["train_stats"]["touching_cells"]
    assert stats["mlflow_run"] == run.info.run_id
    # and back to the network that came with the bundle
    known = training.get("/annotate/data").json["trained"]["touching_cells"]
    assert known["reached"].startswith("trained on 3 images; from 5 on")
    score = {"model": "touching_cells", "skip": []}
    trained = training.post("/activelearning/dropout", score).json
    assert training.post("/annotate/shipped?model=touching_cells").status == 200
    assert training.get("/annotate/data").json["trained"]["touching_cells"] is None
    assert training.infer("05").body == before
    assert training.post("/activelearning/dropout", score).json["weight"] != trained["weight"]
    assert "model" in training.post("/annotate/shipped?model=nothing").detail


@pytest.mark.slow
def test_a_training_that_is_stopped(training: Server) -> None:
    weights = training.work / "model" / "touching_cells" / "models" / "model.pt"
    before, known = weights.read_bytes(), len(runs(training))
    assert training.post("/train/touching_cells", LONG).status == 200
    process = child(training)
    refused = training.post("/annotate/shipped?model=touching_cells")
    assert (refused.status, "a training goes on" in refused.detail) == (409, True)
    answer = training.ask("DELETE", "/train/")
    assert answer.json["status"] == "STOPPED"
    process.wait(30)
    assert training.trained()["status"] == "STOPPED"
    assert [run.info.status for run in runs(training)[known:]] == ["KILLED"]
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_a_training_that_is_killed(training: Server) -> None:
    known = len(runs(training))
    assert training.post("/train/touching_cells", LONG).status == 200
    process = child(training)
    process.kill()
    task = training.trained()
    assert task["status"] == "ERROR"
    assert "the training ended with code -9" in training.get("/train/").json["error"]
    assert [run.info.status for run in runs(training)[known:]] == ["FAILED"]
    # and the next one is a run of its own
    fresh = {"max_epochs": 1, "samples_per_epoch": 2, "pretrained": False}
    assert training.post("/train/touching_cells", fresh).status == 200
    assert training.trained()["status"] == "DONE"
    assert [run.info.status for run in runs(training)[known:]] == ["FAILED", "FINISHED"]
    assert runs(training)[-1].data.params["initial_weights"] == "None"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_stops_its_training(
    tmp_path: Path, studies_in: Callable[[Path], Path], cells: Any, number: signal.Signals
) -> None:
    studies = studies_in(tmp_path / "studies", 2)
    with serving(studies, tmp_path / "log") as server:
        drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
        assert server.label("00", drawn).status == 200
        assert server.post("/train/touching_cells", LONG).status == 200
        process = child(server)
        server.process.send_signal(number)
        server.process.wait(60)
    assert not process.is_running()
    assert [run.info.status for run in runs(server)] == ["KILLED"]


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_run_open(
    tmp_path: Path, studies_in: Callable[[Path], Path], cells: Any
) -> None:
    studies = studies_in(tmp_path / "studies", 2)
    with serving(studies, tmp_path / "log") as server:
        drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
        assert server.label("00", drawn).status == 200
        assert server.post("/train/touching_cells", LONG).status == 200
        child(server)
        for process in [*psutil.Process(server.process.pid).children(True), server.process]:
            process.kill()
    assert [run.info.status for run in runs(server)] == ["RUNNING"]
    with serving(studies, tmp_path / "log") as server:
        assert [run.info.status for run in runs(server)] == ["FAILED"]


def test_a_label_for_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 2**21):
        studies = disk / "studies"
        studies.mkdir()
        save(studies / "a.tif", np.random.default_rng(0).integers(0, 99, (64, 64)).astype(np.uint8))
        old = np.zeros((64, 64), np.uint16)
        old[4:20, 4:20], old[30:50, 30:50] = 1, 2
        new = (np.arange(64 * 64).reshape(64, 64) // 40 + 1).astype(np.uint16)
        with serving(studies, tmp_path / "log", "--work", str(tmp_path / "work")) as server:
            assert server.label("a", save(tmp_path / "old.tif", old)).status == 200
            kept = files(studies)
            with (
                (disk / "filling").open("wb", buffering=0) as filling,
                contextlib.suppress(OSError),
            ):
                while True:
                    filling.write(bytes(4096))
            answer = server.label("a", save(tmp_path / "new.tif", new))
            assert answer.status == 507
            assert answer.json["detail"].startswith("labels/final/a.tif: No space left on device")
            assert answer.json["detail"].endswith(": make room on its disk")
            assert files(studies) == kept
            (disk / "filling").unlink()
            assert server.label("a", tmp_path / "new.tif").status == 200
            assert np.array_equal(tifffile.imread(studies / "labels/final/a.tif"), new)
