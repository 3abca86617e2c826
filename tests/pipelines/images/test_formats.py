"""Formats of images: a new one is one file, windows are those of the whole, writers are whole."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from killed import killed_everywhere
from numpy.typing import NDArray
from PIL import Image
from toy import same_cells, toy_bundle

from overtile.pipelines.data.annotations import volume_in_space, write_label
from overtile.pipelines.data.find import find_data
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.data.unlabelled import images_in
from overtile.pipelines.data.write import write_data
from overtile.pipelines.errors import ChannelError, ConfigurationError, DataError, UnreadableError
from overtile.pipelines.images import formats
from overtile.pipelines.images.formats import is_image, open_image, open_source, write_image
from overtile.pipelines.images.formats.ome_zarr import halved
from overtile.pipelines.images.plane_name import Plane, planes_of
from overtile.pipelines.images.read import open_view, read_image, read_label
from overtile.pipelines.images.write_like import write_like
from overtile.pipelines.segment.request import Request, check_request
from overtile.pipelines.segment.run import segment

TOY = '''
"""A header of JSON in a line, and the pixels."""

import json

import numpy as np

from overtile.pipelines.images.stored import Format, Stored


class Toy(Format):
    name = "toys"
    suffixes = (".toy",)
    written = ("toy",)

    def open(self, path, labels=False):
        with path.open("rb") as file:
            head = json.loads(file.readline())
            start = file.tell()
        shape = tuple(head["shape"])

        def pixels(index):
            array = np.frombuffer(path.read_bytes(), head["dtype"], offset=start)
            return array.reshape(shape)[index]

        spacing = head["spacing"]
        return Stored(head["axes"], shape, np.dtype(head["dtype"]), pixels, spacing=spacing)

    def write(self, path, array, like=None, spacing=None):
        axes = "ZYX"[-array.ndim :]
        steps = dict(zip(axes, (spacing or (1.0,) * 3)[-array.ndim :]))
        steps = steps if like is None else like.spacing
        head = {"axes": axes, "shape": array.shape, "dtype": array.dtype.str, "spacing": steps}
        path.write_bytes(json.dumps(head).encode() + b"\\n" + array.tobytes())

    def result_suffix(self, like, ndim):
        return ".toy"

    def label_suffix(self, name):
        return ".toy"


FORMAT = Toy()
'''
SIZE = (90, 120)


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One file that is put into a folder of formats."""
    home = tmp_path / "formats"
    home.mkdir()
    (home / "toy.py").write_text(TOY)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(home)])
    yield
    sys.modules.pop(f"{formats.__name__}.toy", None)


@pytest.mark.usefixtures("one_more")
def test_a_format_is_one_file(tmp_path: Path) -> None:
    image, cells = touching_cells(2, SIZE)
    folder = write_data(tmp_path / "data", {"train": [(image, cells)] * 3}, format="toy")
    found = find_data(folder)
    assert (len(found.items), found.layout) == (3, "pairs")
    item = found.items[1]
    assert {Path(item[key]).suffix for key in item} == {".toy"}
    assert np.array_equal(read_image(item["image"])[0], image)
    assert np.array_equal(read_label(item["label"], 2, item["image"])[0], cells)
    assert read_image(item["image"])[1]["spacing"] == "0.5 x 0.5 µm"
    images = folder / "train" / "images"
    assert [Path(i["image"]).stem for i in images_in(images)] == ["000", "001", "002"]
    source = images / "000.toy"
    assert is_image(source)
    assert not volume_in_space(source)
    assert formats.image_suffix("A.TOY", single=True) == ".toy", "an upload of the page"

    result = write_like(tmp_path / "result", cells, open_image(source))
    assert result.name == "result.toy"
    assert np.array_equal(read_image(result)[0], cells)
    label = write_label(tmp_path / "label", cells, source)
    assert label.name == "label.toy"
    assert np.array_equal(read_label(label, 2, source)[0], cells)

    window = open_source(source).pixels((slice(5, 30), slice(11, 12)))
    assert np.array_equal(window, image[5:30, 11:12])
    with pytest.raises(ConfigurationError, match="no level 1; it has 0: 90x120"):
        open_source(source, level=1)
    with pytest.raises(DataError, match="decoded at once"):
        open_source(source, cache_limit=1000)
    bundle = toy_bundle(tmp_path / "bundle", image)
    targets = [tmp_path / name for name in ("toy.ome.zarr", "tif.ome.zarr")]
    tifffile.imwrite(tmp_path / "image.tif", image)
    for one, target in zip((source, tmp_path / "image.tif"), targets, strict=True):
        segment(Request(one, target, bundle, chunk=48, show=False))
    found_toy, found_tif = (np.asarray(zarr.open(target)["0"]) for target in targets)
    assert found_toy.max() > 3
    assert same_cells(found_toy, found_tif)
    scale = zarr.open(targets[0]).attrs["ome"]["multiscales"][0]["datasets"][0]
    assert scale["coordinateTransformations"][0]["scale"] == [0.5, 0.5]
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(UnreadableError, match=r"000\.toy: cannot be read"):
        read_image(source)


def test_without_its_file_the_format_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a.toy").write_text("{}")
    assert not is_image(tmp_path / "a.toy")
    with pytest.raises(ConfigurationError, match="ends in"):
        check_request(Request(tmp_path / "a.toy", tmp_path / "b.toy", tmp_path))


@pytest.mark.parametrize("name", ["tif", "ome.tif", "ome.zarr", "png", "nii.gz", "dicom"])
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_window_is_a_part_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    home = tmp_path_factory.getbasetemp() / f"windows-{name}"
    if not home.is_dir():
        home.mkdir()
        shape = (13, 17) if name == "png" else (5, 13, 17)
        array = np.random.default_rng(1).integers(0, 999, shape, np.uint16)
        write_image(home / "a", array, name)
    path = formats.unpacked(next(home.glob("a*")), home)
    whole = open_image(path)
    index: list[Any] = []
    for n in whole.shape:
        start = data.draw(st.integers(0, n - 1))
        one = data.draw(st.booleans())
        index.append(start if one else slice(start, data.draw(st.integers(start + 1, n))))
    expected = whole.pixels(tuple(index))
    source = open_source(path)
    try:
        found = source.pixels(tuple(index))
    finally:
        source.close()
    assert (source.axes, source.shape) == (whole.axes, whole.shape)
    assert np.array_equal(found, expected)


def test_errors_call_a_source_by_the_name_that_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-4000])
    source = open_source(path, name="mine.tif")
    with pytest.raises(UnreadableError) as caught:
        source.pixels((slice(None), slice(None)))
    source.close()
    assert caught.value.where == "mine.tif"
    with pytest.raises(UnreadableError) as caught:
        open_source(tmp_path / "b.tif", name="other.tif")
    assert str(caught.value) == "other.tif: no such file or folder"


def test_channels_along_two_axes_are_an_error_of_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    array = np.random.default_rng(0).integers(0, 9, (2, 8, 9, 3), np.uint8)
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "CYXS"}, photometric="rgb")
    with pytest.raises(ChannelError, match="channels along two axes"):
        open_view(path)
    with pytest.raises(DataError) as caught:
        open_view(path, 3)
    assert not isinstance(caught.value, ChannelError)


def test_threads_that_read_large_pictures_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's limit of pixels is one for all: whoever puts it back puts it back for others."""
    for name in "ab":
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / f"{name}.png")
    formats.picture._pillow.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # far less than these have
    inside = {name: threading.Event() for name in ("a.png", "b.png")}
    done, inner = threading.Event(), Image.open

    def held(path: Path, **options: Any) -> Image.Image:
        inside[path.name].set()
        assert (inside["b.png"] if path.name == "a.png" else done).wait(60)
        return inner(path, **options)

    read: list[NDArray[Any]] = []

    def reader(name: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: read.append(read_image(tmp_path / name)[0]))
        thread.start()
        assert inside[name].wait(60)
        return thread

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", held)
        first, second = reader("a.png"), reader("b.png")
        first.join()  # while the second is about to open its file
        done.set()
        second.join()
    assert len(read) == 2
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), seed=st.integers(0, 99))
def test_a_level_of_a_pyramid_is_the_mean_of_four(
    dtype: type, rows: int, columns: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 250, (2, rows, columns)).astype(dtype)
    found = halved(image)
    assert found.dtype == dtype
    assert found.shape == (2, -(-rows // 2), -(-columns // 2))
    for y in range(found.shape[1]):
        for x in range(found.shape[2]):
            four = [
                image[:, min(2 * y + i, rows - 1), min(2 * x + j, columns - 1)].astype(float)
                for i in (0, 1)
                for j in (0, 1)
            ]
            mean = np.mean(four, axis=0)
            assert np.array_equal(found[:, y, x], mean if dtype == np.float32 else np.round(mean))
    assert np.array_equal(halved(image, mean=False), image[:, ::2, ::2])


@given(name=st.sampled_from(["a.tif", "a:b.tif", "a.nii.gz", "x:7"]), number=st.integers(0, 99))
def test_a_plane_comes_back_from_its_text(name: str, number: int) -> None:
    plane = Plane(Path(name), number)
    assert Plane.of(str(plane)) == plane
    assert Plane.of(plane) is plane
    assert planes_of(Path(name), 1) == [Plane(Path(name))]
    assert [p.number for p in planes_of(Path(name), 3)] == [0, 1, 2]


def test_a_file_of_the_name_of_a_plane_wins(tmp_path: Path) -> None:
    assert Plane.of(tmp_path / "a.tif:3") == Plane(tmp_path / "a.tif", 3)
    (tmp_path / "a.tif:3").touch()
    assert Plane.of(tmp_path / "a.tif:3") == Plane(tmp_path / "a.tif:3")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii.gz", "a"])
def test_a_label_that_was_written_is_read_as_it_was(tmp_path: Path, name: str) -> None:
    """Beside images of every format, a DICOM series with its three axes among them."""
    dims = 2 if name == "a.png" else 3
    kinds = {"a": "dicom", "a.nii.gz": "nii.gz", "a.tif": "tif", "a.png": "png"}
    image = np.random.default_rng(0).integers(0, 99, (3, 4, 5)[-dims:], np.uint16)
    (tmp_path / "images").mkdir()
    path = write_image(tmp_path / "images" / "a", image, kinds[name])
    shape = open_view(path, dims).shape
    label = np.arange(np.prod(shape)).reshape(shape)
    written = write_label(tmp_path / "a", label, path)
    assert np.array_equal(read_label(written, dims, path)[0], label)


def test_a_label_is_old_or_new_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    image, home = tmp_path / "a.png", tmp_path / "labels"
    home.mkdir()
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(image)
    old, new = np.zeros((8, 9), np.uint16), np.full((8, 9), 3, np.uint16)
    file = write_label(home / "a", old, image)
    for _ in killed_everywhere(lambda: write_label(home / "a", new, image)):
        found = read_label(file, 2, image)[0]
        assert np.array_equal(found, old) or np.array_equal(found, new)
        assert [path for path in home.iterdir() if is_image(path)] == [file]
        write_label(home / "a", old, image)
    write_label(home / "a", new, image)
    assert np.array_equal(read_label(file, 2, image)[0], new)


def test_what_is_unpacked_is_whole_wherever_it_is_killed(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 999, (3, 5, 6), np.uint16)
    packed = write_image(tmp_path / "v", volume, "nii.gz")
    home = tmp_path / "work"
    home.mkdir()
    for _ in killed_everywhere(lambda: formats.unpacked(packed, home)):
        for file in filter(is_image, home.iterdir()):
            assert np.array_equal(read_image(file, 3)[0], volume.T)
            file.unlink()
    assert np.array_equal(read_image(formats.unpacked(packed, home), 3)[0], volume.T)


def test_a_result_is_old_or_new_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "results"
    home.mkdir()
    like = open_image(write_image(tmp_path / "a", np.zeros((8, 9), np.uint8), "ome.tif"))
    old, new = np.zeros((8, 9), np.uint16), np.full((8, 9), 3, np.uint16)
    file = write_like(home / "a", old, like)
    for _ in killed_everywhere(lambda: write_like(home / "a", new, like)):
        found = read_image(file)[0]
        assert np.array_equal(found, old) or np.array_equal(found, new)
        assert [path for path in home.iterdir() if is_image(path)] == [file]
        write_like(home / "a", old, like)
    assert np.array_equal(read_image(write_like(home / "a", new, like))[0], new)


def test_no_error_is_its_own_cause(tmp_path: Path) -> None:
    """Who follows causes, as Dask's workers do, comes to an end."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    with pytest.raises(ConfigurationError, match="no level 3") as caught:
        open_source(tmp_path / "a.tif", level=3)
    error: BaseException | None = caught.value
    seen: list[BaseException] = []
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__
