"""A folder of images and their labels, as MONAI Label's datastore.

Images lie in the folder itself, labels under ``labels/TAG/`` with the name of their image, and
what is noted about both in ``labels/info.json``. The files are the truth: one that is put there or
taken away by hand is seen at the next request.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from numpy.typing import NDArray
from scipy import ndimage

from overtile.pipelines.data import check_memory
from overtile.pipelines.errors import DataError
from overtile.pipelines.formats import GOES_ON, is_image
from overtile.pipelines.label.refusals import (
    ConflictError,
    ForbiddenError,
    MissingError,
    RefusedError,
)
from overtile.pipelines.label.results import spatial_dims_of, suffix_of, write_label
from overtile.pipelines.reading import open_view, read_image, read_label, stem

FINAL = DefaultLabelTag.FINAL.value
_NAME = re.compile(r"[^\W_][\w .()+,=@-]{0,199}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_INFO = "info.json"


class Studies(Datastore):
    """The images of one folder, with their labels.

    An image's id is its file name without suffix, or with it where two have the same. Files that
    no reader opens are left out, and listed in `status`; so are links that lead out of the folder.

    Args:
        folder: of the images.
        read_only: take no label and no image.

    Raises:
        DataError: if there is no such folder.
    """

    def __init__(self, folder: str | Path, read_only: bool = False) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; give one that holds images")
        self.read_only = read_only
        self._archives: tempfile.TemporaryDirectory[str] | None = None
        self._probed: dict[Path, tuple[tuple[int, int], str | None]] = {}

    # what there is

    def images(self) -> dict[str, Path]:
        """The readable images by id, in order of their names."""
        files = [file for file in self._files() if self._fault(file) is None]
        names = Counter(map(stem, files))
        return {stem(f) if names[stem(f)] == 1 else f.name: f for f in files}

    def unreadable(self) -> dict[str, str]:
        """Why files that look like images are left out, by name."""
        faults = {file.name: self._fault(file) for file in self._files()}
        return {name: fault for name, fault in faults.items() if fault is not None}

    def _files(self) -> list[Path]:
        return [p for p in sorted(self.folder.iterdir()) if is_image(p) and p.name[0] != "."]

    def _fault(self, file: Path) -> str | None:
        """Why a file cannot be used; looked up again once it changes."""
        try:
            if not file.resolve(strict=True).is_relative_to(self.folder):
                return f"{file.name}: a link to a place outside of the folder"
            seen = file.stat()
        except OSError as error:
            return f"{file.name}: {error.strerror}"
        if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)):
            return f"{file.name}: neither a file nor a folder"  # opening a pipe would wait for ever
        stamp = seen.st_mtime_ns, seen.st_size
        if file not in self._probed or self._probed[file][0] != stamp:
            try:
                open_view(file, spatial_dims_of(file))
                fault = None
            except DataError as error:
                fault = str(error).removesuffix(f" {GOES_ON}")  # an option of other commands
            self._probed[file] = stamp, fault
        return self._probed[file][1]

    def path_of(self, image_id: str) -> Path:
        """The file of an image.

        Raises:
            MissingError: if there is no such image.
        """
        found = self.images().get(image_id)
        if found is None:
            raise MissingError(f"image {image_id!r}: no such image in the studies folder")
        return found

    def label_of(self, image_id: str, tag: str) -> Path | None:
        """The label of an image, if it has one of this tag."""
        image = self.images().get(image_id)
        return None if image is None else self._label(image_id, image, tag)

    def labelled(self, tag: str = FINAL) -> dict[str, tuple[Path, Path]]:
        """Images with their labels of a tag, by id."""
        found = ((i, image, self._label(i, image, tag)) for i, image in self.images().items())
        return {i: (image, label) for i, image, label in found if label is not None}

    def _label(self, image_id: str, image: Path, tag: str) -> Path | None:
        if not _TAG.fullmatch(tag):
            return None
        own = suffix_of(image)
        names = [f"{image_id}{s}" for s in dict.fromkeys((own, ".tif", ".nii.gz", ".png"))]
        if image_id != stem(image):  # it may have been labelled before another took the same stem
            alike = [f for f in self._files() if stem(f) == stem(image) and suffix_of(f) == own]
            names += [f"{stem(image)}{own}"] if alike == [image] else []
        for name in names:
            file = self.folder / "labels" / tag / name
            if file.is_file() and file.resolve().is_relative_to(self.folder):
                return file
        return None

    def _tags(self) -> list[str]:
        home = self.folder / "labels"
        found = sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
        return [tag for tag in found if _TAG.fullmatch(tag)]

    # MONAI Label's interface

    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    def set_name(self, name: str) -> None:
        """Refused: the folder has the name."""
        raise ForbiddenError("the data set is named as its folder")

    def description(self) -> str:
        """For people."""
        return f"images in {self.folder.name}"

    def set_description(self, description: str) -> None:
        """Refused, likewise."""
        raise ForbiddenError("the data set is described by its folder")

    def list_images(self) -> list[str]:
        """Ids of all images."""
        return list(self.images())

    def get_labeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Ids of the images that have a label of this tag (default: final)."""
        return list(self.labelled(label_tag or FINAL))

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        """Ids of the images that have none."""
        done = self.labelled(label_tag or FINAL)
        return [i for i in self.images() if i not in done]

    def datalist(self, full_path: bool = True) -> list[dict[str, str]]:
        """Images with their final labels, to train on."""
        pairs = [{"image": i, "label": k} for i, k in self.labelled().values()]
        if not full_path:
            pairs = [{k: p.relative_to(self.folder) for k, p in pair.items()} for pair in pairs]
        return [{kind: str(path) for kind, path in pair.items()} for pair in pairs]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Ids of an image's labels by tag."""
        return {tag: image_id for tag in self._tags() if self.label_of(image_id, tag)}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """Id of an image's label, or nothing."""
        return image_id if self.label_of(image_id, tag) else ""

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """The bytes of an image's file."""
        return io.BytesIO(self.path_of(image_id).read_bytes())

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image."""
        return str(self.path_of(image_id))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """The bytes of a label's file."""
        return io.BytesIO(Path(self.get_label_uri(label_id, label_tag)).read_bytes())

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label."""
        found = self.label_of(label_id, label_tag)
        if found is None:
            raise MissingError(f"label {label_id!r}: none with the tag {label_tag!r}")
        return str(found)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is noted of an image, with its name, path and size."""
        file = self.path_of(image_id)
        seen = open_view(file, spatial_dims_of(file))
        return {
            **self.noted().get(image_id, {}),
            "name": file.name,
            "path": str(file),
            "shape": list(seen.shape),
        }

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is noted of a label."""
        self.get_label_uri(label_id, label_tag)
        noted: dict[str, Any] = self._info()["labels"].get(label_tag, {}).get(label_id, {})
        return noted

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of an image."""
        self.path_of(image_id)
        _check_object("info", info)
        self._note(info, "images", image_id)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label."""
        self.get_label_uri(label_id, label_tag)
        _check_object("params", info)
        self._note(info, "labels", label_tag, label_id)

    def refresh(self) -> None:
        """Look at every file again."""
        self._probed.clear()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take an image into the folder.

        Raises:
            RefusedError: for a name that is no plain file name, or a file that is no image.
            ConflictError: for a name that is taken.
        """
        self.check_writable()
        source = Path(image_filename)
        name = image_id or stem(source)
        if not _NAME.fullmatch(name) or ".." in name:
            raise RefusedError(
                f"image {name!r}: expected a plain file name of letters, digits, . - _"
            )
        suffix = source.name[len(stem(source)) :]
        target = self.folder / f"{name}{suffix}"
        if not suffix or not is_image(source):
            raise RefusedError(f"{source.name}: expected TIFF, PNG, JPEG or NIfTI")
        if target.exists() or name in self.images():
            raise ConflictError(
                f"image {name!r}: exists already; give another name, or remove it first"
            )
        dims = spatial_dims_of(source)
        check_memory(source, open_view(source, dims).shape)
        read_image(source, dims, channel=0)  # decodes all of it, or raises
        _copy(source, target)
        self._note({**image_info, "ts": int(time.time())}, "images", name)
        return name

    def remove_image(self, image_id: str) -> None:
        """Delete an image and its labels."""
        self.check_writable()
        file = self.path_of(image_id)
        for tag in self._tags():
            if self.label_of(image_id, tag):
                self.remove_label(image_id, tag)
        file.unlink()

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Keep a label, in the format of its image.

        Raises:
            MissingError: if there is no such image.
            DataError: if the file is no label of it: another size, floats, colours.
            RefusedError: for a tag that is no plain word.
        """
        self.check_writable()
        image = self.path_of(image_id)
        tag = label_tag or FINAL
        if not _TAG.fullmatch(tag):
            raise RefusedError(f"tag {tag!r}: expected a word of letters, digits, - and _")
        dims = spatial_dims_of(image)
        # before it is decoded: a small file may promise any number of pixels
        sizes = [
            (*((view.count,) if view.count > 1 else ()), *view.shape)
            for view in (open_view(label_filename, dims, image), open_view(image, dims))
        ]
        if sizes[0] != sizes[1]:
            drawn, wanted = map(_text, sizes)
            raise RefusedError(
                f"label of {drawn} pixels for image {image_id!r} of {wanted}; "
                "expected the same size"
            )
        label, _ = read_label(label_filename, dims, image)
        _check_numbered(image_id, label)
        base = self.folder / "labels" / tag / image_id
        if not base.parent.resolve().is_relative_to(self.folder):
            raise ForbiddenError(f"labels/{tag}: a link to a place outside of the folder")
        base.parent.mkdir(parents=True, exist_ok=True)
        before = self._label(image_id, image, tag)
        written = write_label(base, label, image)
        if before is not None and before != written:
            before.unlink()
        self._note({**label_info, "ts": int(time.time())}, "labels", tag, image_id)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label."""
        self.check_writable()
        Path(self.get_label_uri(label_id, label_tag)).unlink()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP file of the images that have final labels, with these."""
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            raise MissingError("no image has a final label")
        # MONAI Label never removes it, so the next one takes its place, and all go with the server
        if self._archives is None:
            self._archives = tempfile.TemporaryDirectory(prefix="overtile-archive-")
        file = Path(self._archives.name) / f"{self.folder.name}.zip"
        partial = file.with_name(f"{uuid.uuid4().hex}.partial")
        with zipfile.ZipFile(partial, "w") as archive:
            for pair in pairs:
                for kind, path in pair.items():
                    archive.write(path, f"{kind}s/{Path(path).name}")
        partial.replace(file)
        return str(file)

    def status(self) -> dict[str, Any]:
        """Counts, and the files that are left out."""
        tags = {tag: len(self.labelled(tag)) for tag in self._tags()}
        return {
            "total": len(self.images()),
            "completed": tags.get(FINAL, 0),
            "label_tags": {tag: count for tag, count in tags.items() if count},
            "unreadable": self.unreadable(),
            "read_only": self.read_only,
        }

    def json(self) -> dict[str, Any]:
        """Everything, as MONAI Label's clients read it."""
        noted = self._info()
        objects = {
            image_id: {
                "image": {
                    "ext": file.name[len(stem(file)) :],
                    "info": noted["images"].get(image_id, {}),
                },
                "labels": {
                    tag: {"ext": label.name[len(image_id) :], "info": {}}
                    for tag in self._tags()
                    if (label := self._label(image_id, file, tag))
                },
            }
            for image_id, file in self.images().items()
        }
        return {"name": self.name(), "description": self.description(), "objects": objects}

    # notes

    def noted(self) -> dict[str, dict[str, Any]]:
        """What is noted of the images, by id."""
        found: dict[str, dict[str, Any]] = self._info()["images"]
        return found

    def _info(self) -> dict[str, Any]:
        file = self.folder / "labels" / _INFO
        try:
            noted = json.loads(file.read_text()) if file.is_file() else {}
        except ValueError:
            noted = None
        if not isinstance(noted, dict):
            raise DataError(
                f"labels/{_INFO}: no JSON object; mend it, or remove it: it holds notes, and the "
                "labels are files of their own"
            )
        return {"images": {}, "labels": {}, **noted}

    def _note(self, info: dict[str, Any], *place: str) -> None:
        if self.read_only:
            return
        home = self.folder / "labels"
        home.mkdir(exist_ok=True)
        with FileLock(home / f".{_INFO}.lock"):
            noted = self._info()
            entry = noted
            for key in place:
                entry = entry.setdefault(key, {})
            entry.update(info)
            partial = home / f".{_INFO}.partial"
            partial.write_text(json.dumps(noted, indent=1, default=str))
            partial.replace(home / _INFO)

    def check_writable(self) -> None:
        """Refuse to change anything in a folder that is read-only.

        Raises:
            ForbiddenError: if it is.
        """
        if self.read_only or not os.access(self.folder, os.W_OK):
            raise ForbiddenError(
                f"{self.folder.name}: read-only; labels and images cannot be saved"
            )


def _check_object(name: str, given: Any) -> None:
    if not isinstance(given, dict):
        raise RefusedError(f"{name}: {type(given).__name__}; expected a JSON object")


def _check_numbered(image_id: str, label: NDArray[Any]) -> None:
    """Refuse a mask, which would be taken for a single cell."""
    top = int(label.max(initial=0))
    if top and not ((label > 0) & (label < top)).any():
        pieces = ndimage.label(label, np.ones((3,) * label.ndim))[1]
        if pieces > 1:
            raise RefusedError(
                f"label of image {image_id!r}: {pieces} pieces, all of number {top}; expected a "
                "number for every cell: number the pieces of the mask"
            )


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
