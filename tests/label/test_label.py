"""Over HTTP, as viewers do: models, proposals, labels, trainings, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
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
from labelling import Server, needs_label, save, serving
from mlflow import MlflowClient
from PIL import Image
from toy import toy_bundle

from overtile.pipelines.reading import read_label
from overtile.pipelines.trained import load_trained

ROOT = Path(__file__).resolve().parents[2]
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
    expected = trained.instances(np.asarray(trained.normalize(grey[None]))[0])
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


def save_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda label: label[:64], "64x128 pixels for image '02' of 128x128"),
        (lambda label: label.astype(np.float32), "float32"),
        (lambda label: label.astype(np.uint64) << 40, "expected 0 (background) to 2147483647"),
        (lambda label: (label > 0).astype(np.uint8) * 255, "pieces, all of number 255"),
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
    assert "200000x200000" in server.label("picture", bomb).detail
    assert "memory" in server.send("PUT", "/datastore/image", bomb).detail
    assert "memory" in server.send("POST", "/infer/touching_cells", bomb).detail
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
    assert (
        "networks are changed by training"
        in server.send("PUT", "/model/touching_cells", server.studies / "00.tif").detail
    )


def test_mistakes_are_answered_in_one_sentence(server: Server) -> None:
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
    told = server.post("/batch/infer/touching_cells?run_sync=true", {"max_batch_size": "a"})
    assert (told.status, "max_batch_size" in told.detail) == (400, True)
    assert server.post("/activelearning/dropout", {"model": [5]}).status == 404
    assert server.ask("PUT", "/datastore/image/info?image=00", b"[1]").status < 500
    told = server.ask("PUT", "/annotate/label?id=00&width=x&height=128", b"")
    assert (told.status, told.detail[:6]) == (422, "width:")
    assert server.get("/info/").status == 200


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
        assert not (studies / "labels").exists()
        # files that come and go are seen
        (studies / "00.tif").unlink()
        assert "no such image" in server.infer("00").detail
        save(studies / "later.tif", cells[9][0])
        assert server.infer("later").status == 200


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
    with serving(studies, tmp_path / "log") as server:
        listed = server.get("/annotate/data").json
        assert [image["id"] for image in listed["images"]] == ["00", "01"]
        assert "neither a file nor a folder" in listed["unreadable"]["pipe.png"]
        server.label("00", save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16)))
        for _ in range(2):
            archive = zipfile.ZipFile(io.BytesIO(server.get("/datastore/dataset").body))
            assert sorted(archive.namelist()) == ["images/00.tif", "labels/00.tif"]
        # a second file of the same name without suffix: both get longer names, the label stays
        save(studies / "00.png", eight_bits(cells[0][0]))
        listed = server.get("/annotate/data").json
        labelled = {image["id"]: image["labelled"] for image in listed["images"]}
        assert labelled == {"00.png": False, "00.tif": True, "01": False}
        (studies / "labels" / "info.json").write_text("[]")
        told = server.label("01", tmp_path / "drawn.tif")
        assert (told.status, "labels/info.json: no JSON object" in told.detail) == (400, True)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, cells: Any) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("colours")
    (home / "studies").mkdir()
    grey = eight_bits(cells[0][0])
    save(home / "studies" / "grey.png", grey)
    save(home / "studies" / "colour.png", np.stack([grey[::-1], grey, 255 - grey], -1))
    with serving(home / "studies", home / "log", "--channel", "1") as made:
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
        (["--studies", ".", "--channel", "red"], "expected a number from 0"),
        (["--studies", ".", "--bundle", "empty"], "no configs/inference.json"),
        (["--studies", "linked"], "a link out of the folder"),
    ],
)
def test_the_command_refuses(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "labels").symlink_to(tmp_path / "empty")
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


# trainings


@pytest.fixture(scope="module")
def training(
    tmp_path_factory: pytest.TempPathFactory, studies_in: Callable[[Path], Path], cells: Any
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("training")
    studies = studies_in(home / "studies")
    with serving(studies, home / "log") as server:
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


@pytest.mark.slow
def test_a_training_that_is_stopped(training: Server) -> None:
    weights = training.work / "model" / "touching_cells" / "models" / "model.pt"
    before, known = weights.read_bytes(), len(runs(training))
    assert training.post("/train/touching_cells", LONG).status == 200
    process = child(training)
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
    assert [run.info.status for run in runs(training)[known:]] == ["FAILED"]
    # and the next one is a run of its own
    fresh = {"max_epochs": 1, "samples_per_epoch": 2, "pretrained": False}
    assert training.post("/train/touching_cells", fresh).status == 200
    assert training.trained()["status"] == "DONE"
    assert [run.info.status for run in runs(training)[known:]] == ["FAILED", "FINISHED"]
    assert runs(training)[-1].data.params["initial_weights"] == "None"


@pytest.mark.slow
def test_a_server_that_is_stopped_stops_its_training(
    tmp_path: Path, studies_in: Callable[[Path], Path], cells: Any
) -> None:
    studies = studies_in(tmp_path / "studies", 2)
    with serving(studies, tmp_path / "log") as server:
        drawn = save(tmp_path / "drawn.tif", cells[0][1].astype(np.uint16))
        assert server.label("00", drawn).status == 200
        assert server.post("/train/touching_cells", LONG).status == 200
        process = child(server)
    assert not process.is_running()
    assert [run.info.status for run in runs(server)] == ["KILLED"]
