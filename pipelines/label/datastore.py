"""A folder of images and their labels, as MONAI Label's datastore.

Images lie in the folder itself, labels under ``labels/TAG/`` with the name of their image, and
what is noted about both in ``labels/info.json``. The files are the truth: one that is put there or
taken away by hand is seen at the next request.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from numpy.typing import NDArray

from overtile.pipelines.data.annotations import (
    NOTES,
    noted_owner,
    notes_of,
    spatial_dims_of,
    suffix_of,
    write_label,
)
from overtile.pipelines.data.facts import label_facts
from overtile.pipelines.data.label_kinds import label_faults
from overtile.pipelines.data.unlabelled import check_memory
from overtile.pipelines.errors import DataError, size_text
from overtile.pipelines.files import whole
from overtile.pipelines.images.formats import (
    image_suffix,
    is_image,
    names_of_formats,
    names_to_write,
    stem,
)
from overtile.pipelines.images.read import check_pixels, open_view, read_image, read_label
from overtile.pipelines.images.view import View
from overtile.pipelines.label.classes import LABELS
from overtile.pipelines.label.refusals import (
    ConflictError,
    ForbiddenError,
    MissingError,
    RefusedError,
    sentence,
)

FINAL = DefaultLabelTag.FINAL.value
_NAME = re.compile(r"[^\W_][\w .()+,=@-]{0,199}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LONGEST = 230  # bytes of a name: that of its label is longer, and 255 is what file systems take
_WHOSE = ("image", "file")  # of the notes of a label, those that say which image it is of
_OUTSIDE, _INSIDE = "a link to a place outside of the folder", "a folder in it"
_DIGEST = "sha256"  # of the label that the other notes are of


class ImageFolderDatastore(Datastore):
    """The images of one folder, with their labels.

    An image's id is its file name without suffix, or with it where two have the same; one that it
    had before is still understood. Files that no reader opens are left out, and listed in `status`;
    so are links that lead out of the folder.

    Args:
        folder: of the images.
        read_only: take no label and no image.

    Attributes:
        saving: held while a label is looked at and then replaced.
        learners: name, dimensions and classes of those who learn from the labels; no classes for
            who learns cells.

    Raises:
        DataError: if there is no such folder.
    """

    def __init__(self, folder: str | Path, read_only: bool = False) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise DataError(folder, "no such folder", hint="give one that holds images")
        self._read_only = read_only
        self.saving = threading.RLock()
        self.learners: list[tuple[str, int, tuple[str, ...]]] = []
        self._archives: tempfile.TemporaryDirectory[str] | None = None
        self._probed: dict[Path, tuple[tuple[int, int], str | None]] = {}
        self._told: dict[str, Path] = {}  # images by the ids that they ever had

    # what there is

    def images(self) -> dict[str, Path]:
        """The readable images by id, in order of their names."""
        files = [file for file in self._files() if self._fault(file) is None]
        stems, names = Counter(map(stem, files)), {f.name for f in files}
        unique = {s for s, count in stems.items() if count == 1} - names
        found = {stem(f) if stem(f) in unique else f.name: f for f in files}
        self._told.update(found)
        return found

    def unreadable(self) -> dict[str, str]:
        """Why files that look like images are left out, by name."""
        faults = {file.name: self._fault(file) for file in self._files()}
        for file in self._files(named=False):
            name = os.fsencode(file.name).decode("utf-8", "backslashreplace")
            faults[name] = f"{name}: a name that is not UTF-8; rename the file"
        faults.update(self._left_labels())
        return {name: fault for name, fault in faults.items() if fault is not None}

    def _left_labels(self) -> Iterator[tuple[str, str]]:
        """Final labels whose image is gone, while another one has its stem."""
        by_stem, notes = self._by_stem(), self._info()
        names = {file.name for files in by_stem.values() for file in files}
        for key, noted in notes["labels"].get(FINAL, {}).items():
            label = self.folder / "labels" / FINAL / str(noted.get("file", ""))
            owner = noted_owner(label, notes)
            if owner and owner not in names and key in by_stem and label.is_file():
                name = f"labels/{FINAL}/{label.name}"
                yield name, f"{name}: of {owner}, which is gone; put it back, or remove the label"

    def _files(self, named: bool = True) -> list[Path]:
        """The files that look like images; without ``named``, those whose names are no text."""
        try:
            found = sorted(self.folder.iterdir())
        except OSError as error:
            raise DataError(
                self.folder.name,
                str(error.strerror),
                "the folder of the images",
                "put it back, or start the server with another",
            ) from error
        seen = [p for p in found if is_image(p) and p.name[0] != "."]
        return [p for p in seen if _is_text(p.name) == named]

    def _fault(self, file: Path) -> str | None:
        """Why a file cannot be used; looked up again once it changes."""
        try:
            # `resolve` raises another error on a link that leads in a circle
            if not Path(os.path.realpath(file)).is_relative_to(self.folder):
                return f"{file.name}: a link to a place outside of the folder"
            seen = file.stat()
        except OSError as error:
            return f"{file.name}: {error.strerror}"
        if len(os.fsencode(file.name)) > _LONGEST:
            return f"{file.name}: expected a name of at most {_LONGEST} bytes; rename it"
        if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)):
            return f"{file.name}: neither a file nor a folder"  # opening a pipe would wait for ever
        stamp = seen.st_mtime_ns, seen.st_size
        if file not in self._probed or self._probed[file][0] != stamp:
            try:
                fault = self._links_out(file)
                if fault is None:
                    open_view(file, spatial_dims_of(file))
            except DataError as error:
                fault = sentence(error, self.folder)
            self._probed[file] = stamp, fault
        return self._probed[file][1]

    def _links_out(self, folder: Path) -> str | None:
        """Why an image that is a folder cannot be used, where a link in it leads elsewhere."""
        for place, folders, files in os.walk(folder):
            for part in (Path(place, name) for name in (*folders, *files)):
                if not Path(os.path.realpath(part)).is_relative_to(self.folder):
                    name = part.relative_to(self.folder)
                    return f"{folder.name}: {name} is a link to a place outside of the folder"
        return None

    def path_of(self, image_id: str) -> Path:
        """The file of an image.

        Raises:
            MissingError: if there is no such image.
        """
        return self._found(image_id)[1]

    def _found(self, image_id: str) -> tuple[str, Path]:
        """The id of an image as it is now, and its file."""
        images = self.images()
        if image_id not in images:  # another file may have taken its stem since it was told
            file = self._told.get(image_id)
            now = next((i for i, f in images.items() if f == file), None)
            if now is None:
                raise MissingError(
                    f"image {image_id!r}",
                    "no such image in the studies folder",
                    hint="ask for one of those that are listed",
                )
            image_id = now
        return image_id, images[image_id]

    def label_of(self, image_id: str, tag: str) -> Path | None:
        """The label of an image, if it has one of this tag."""
        try:
            image = self.path_of(image_id)
        except MissingError:
            return None
        return self._label(image, tag, self._by_stem(), self._info())

    def labelled(self, tag: str = FINAL) -> dict[str, tuple[Path, Path]]:
        """Images with their labels of a tag, by id."""
        alike, notes = self._by_stem(), self._info()
        found = {i: (f, self._label(f, tag, alike, notes)) for i, f in self.images().items()}
        return {i: (image, label) for i, (image, label) in found.items() if label is not None}

    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for file in self._files():
            found.setdefault(stem(file), []).append(file)
        return found

    def _label(
        self, image: Path, tag: str, by_stem: Mapping[str, list[Path]], notes: dict[str, Any]
    ) -> Path | None:
        """A label named as the whole file, or as its stem: others of this stem come and go."""
        if not _TAG.fullmatch(tag):
            return None
        names = self._names(image, by_stem)
        for name in (*names, *(f"{stem(image)}{suffix}" for suffix in _suffixes(image))):
            file = self.folder / "labels" / tag / name
            owner = noted_owner(file, notes)
            if (owner == image.name or (owner is None and name in names)) and (
                file.is_file() and file.resolve().is_relative_to(self.folder)
            ):
                return file
        return None

    def _names(self, image: Path, by_stem: Mapping[str, list[Path]]) -> list[str]:
        """How a label of an image may be called, where no note says whose it is."""
        own, short, alike = suffix_of(image), stem(image), by_stem.get(stem(image), [image])
        suffixes = _suffixes(image)
        others = [f.name for f in by_stem.get(image.name, [])]  # images whose labels are named so
        names = [n for suffix in suffixes if (n := f"{image.name}{suffix}") not in others]
        if any(f.name == short for f in by_stem.get(stem(Path(short)), ())):
            return [*names, f"{short}{own}"]  # its others are labels of the image of that name
        if alike == [image]:
            return [*names, *(f"{short}{suffix}" for suffix in suffixes)]
        alone = [f for f in alike if suffix_of(f) == own] == [image]
        return [*names, f"{short}{own}"] if alone or f"{short}{own}" == image.name else names

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
        raise ForbiddenError(found="the data set is named as its folder", hint="rename that")

    def description(self) -> str:
        """For people."""
        return f"images in {self.folder.name}"

    def set_description(self, description: str) -> None:
        """Refused, likewise."""
        raise ForbiddenError(
            found="the data set is described by its folder", hint="note it of the images instead"
        )

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
            raise MissingError(
                f"label {label_id!r}",
                f"none with the tag {label_tag!r}",
                hint="ask for one of those that are listed",
            )
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
        file = Path(self.get_label_uri(label_id, label_tag))
        return _of_this(file, self._info()["labels"].get(label_tag, {}).get(stem(file), {}))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of an image."""
        self.check_writable()
        image_id, file = self._found(image_id)
        _check_object("info", info)
        with self._noting() as noted:
            before = noted["images"].get(image_id, {})
            kept = before if before.get("file") == file.name else {}
            noted["images"][image_id] = {**kept, **info, "file": file.name}

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label."""
        self.check_writable()
        file = Path(self.get_label_uri(label_id, label_tag))
        _check_object("params", info)
        # which label it is of is not a client's to say
        info = {k: v for k, v in info.items() if k not in (*_WHOSE, _DIGEST)}
        with self._noting() as noted:
            of_tag = noted["labels"].setdefault(label_tag, {})
            kept = of_tag.get(stem(file), {})
            digest = {_DIGEST: _digest(file)} if _DIGEST in kept else {}
            of_tag[stem(file)] = {**_of_this(file, kept), **info, **digest}

    def refresh(self) -> None:
        """Look at every file again."""
        self._probed.clear()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take an image into the folder.

        Raises:
            RefusedError: for a name that is no plain file name, or a file that is no image.
            ConflictError: for a name that is taken, or has labels from an image that is gone.
        """
        self.check_writable()
        _check_object("params", image_info)
        source = Path(image_filename)
        name = image_id or stem(source)
        if not _NAME.fullmatch(name) or ".." in name:
            raise RefusedError(
                f"image {name!r}", expected="a plain file name of letters, digits, . - _"
            )
        suffix = source.name[len(stem(source)) :]
        target = self.folder / f"{name}{suffix}"
        if not suffix or not is_image(source):
            raise RefusedError(source.name, expected=names_of_formats(single=True))
        self._check_free(name, target)
        dims = spatial_dims_of(source)
        check_memory(source, open_view(source, dims).shape)
        check_pixels(source, read_image(source, dims, channels="all")[0])  # decodes all of it
        with self._noting() as noted:
            self._check_free(name, target)  # others may have sent the same meanwhile
            with whole(target) as unfinished:
                shutil.copyfile(source, unfinished)
            image_id = next(i for i, file in self.images().items() if file == target)
            noted["images"][image_id] = {**image_info, "file": target.name, "ts": int(time.time())}
        return image_id

    def _check_free(self, name: str, target: Path) -> None:
        by_stem, told = self._by_stem(), self._told.get(name)
        names = {file.name for files in by_stem.values() for file in files}
        # what asks for this id must not find another image
        if target.exists() or {name, told and told.name} & names or stem(target) in by_stem:
            raise ConflictError(
                f"image {name!r}", "exists already", hint="give another name, or remove it first"
            )
        for tag in self._tags() if stem(target) not in by_stem else ():
            for left in self._names(target, by_stem):
                if (self.folder / "labels" / tag / left).is_file():
                    raise ConflictError(
                        f"image {name!r}",
                        f"labels/{tag}/{left} is left from another image",
                        hint="give another name, or remove it first",
                    )

    def remove_image(self, image_id: str) -> None:
        """Delete an image and its labels."""
        self.check_writable()
        file = self.path_of(image_id)
        if file.is_dir():  # other files may lie in it
            raise ForbiddenError(file.name, "a folder", hint="remove it by hand, and its labels")
        with self.saving, self._noting() as noted:  # no label is saved meanwhile
            by_stem = self._by_stem()
            for tag in self._tags():
                if label := self._label(file, tag, by_stem, noted):
                    _drop(label, tag, noted)
            file.unlink(missing_ok=True)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Keep the label that a file holds: it is decoded once, and checked.

        Raises:
            MissingError: if there is no such image.
            DataError: if the file is no label of it: another size, floats, colours, a mask.
            RefusedError: as `save_cells`.
        """
        self.check_writable()
        image_id, image = self._found(image_id)
        dims = spatial_dims_of(image)
        # before it is decoded: a small file may promise any number of pixels
        self._check_size(image_id, image, _size(open_view(label_filename, dims, image)))
        cells, _ = read_label(label_filename, dims, image)
        kind = self._kind_of(image_id, cells, dims, label_info.get("model"))
        return self.save_cells(image_id, cells, label_tag, {**label_info, **kind})

    def _kind_of(
        self, image_id: str, label: NDArray[Any], dims: int, model: object
    ) -> dict[str, str]:
        """What is to be noted of the kind of a label: nothing where it may be either.

        It is what the named model learns; else what any model for images of so many dimensions
        does, and cells where none is.

        Raises:
            RefusedError: for what training would refuse: a mask, which is a single cell, grey
                values, classes for who learns cells, numbers that are no class.
        """
        named = [classes for name, _, classes in self.learners if name == model]
        fitting = [classes for _, own, classes in self.learners if own == dims]
        kinds = named or fitting or [()]
        shown, facts = f"label of image {image_id!r}", label_facts(label)
        cells = next(label_faults({shown: facts}, "instances"), None)
        if () in kinds and cells is None:
            return {} if any(kinds) else {LABELS: "instances"}
        faults = [next(label_faults({shown: facts}, "classes", k), None) for k in kinds if k]
        if None in faults:
            return {LABELS: "classes"}
        if cells is not None and () in kinds:
            raise RefusedError(cells.where, cells.found, cells.expected, "number the cells")
        assert faults[0] is not None
        raise RefusedError(faults[0].where, faults[0].found, faults[0].expected)

    def kind(self, image_id: str, tag: str = FINAL) -> str:
        """Whether a label is noted to be of ``"classes"`` or ``"instances"``; else empty."""
        return str(self.get_label_info(image_id, tag).get(LABELS, ""))

    def save_cells(self, image_id: str, cells: NDArray[Any], tag: str, info: dict[str, Any]) -> str:
        """Keep a label, in the format of its image: all that is drawn, sent or proposed ends here.

        Args:
            image_id: of the image.
            cells: ``[*S]``, of a stack ``[planes, *S]``, integers from 0 to 2^31 - 1, as
                `overtile.pipelines.images.read.read_label` gives them; a cell may have several
                pieces. Of classes their numbers.
            tag: to keep it under.
            info: to note of it.

        Returns:
            The id of the image as it is now.

        Raises:
            MissingError: if there is no such image.
            RefusedError: for a label of another size, and a tag that is no plain word.
            ForbiddenError: if nothing is kept here, or not in this place.
        """
        self.check_writable()
        _check_object("params", info)
        image_id, image = self._found(image_id)
        tag = check_tag("tag", tag or FINAL)
        self._check_size(image_id, image, cells.shape)
        home = self.folder / "labels" / tag
        if not home.resolve().is_relative_to(self.folder):
            raise ForbiddenError(f"labels/{tag}", _OUTSIDE, _INSIDE, "give another tag")
        if tag != FINAL and home.resolve() == home.with_name(FINAL).resolve():
            raise ForbiddenError(
                f"labels/{tag}", f"a link to labels/{FINAL}", _INSIDE, "give another tag"
            )
        # one at a time, in this process (`saving`) and in others, such as a batch of proposals
        with self.saving, self._noting() as noted:
            home.mkdir(parents=True, exist_ok=True)
            self._check_there(image_id, image)
            before = self._label(image, tag, self._by_stem(), noted)
            old = noted["labels"].get(tag, {}).get(image_id, {})
            kept = {home / f"{image_id}{suffix_of(image)}"} - {before}
            if old.get("image", image.name) != image.name:
                kept.add(home / str(old.get("file", image_id)))
            left = any(file.is_file() for file in kept)  # of another image, which may come back
            written = write_label(home / (image.name if left else image_id), cells, image)
            if before is not None and before != written:
                before.unlink()
            if not image.exists():  # removed by hand just now: its label would block the name
                written.unlink()
                self._check_there(image_id, image)
            own = {"image": image.name, "file": written.name, _DIGEST: _digest(written)}
            of_tag = noted["labels"].setdefault(tag, {})
            of_tag[stem(written)] = {**info, **own, "ts": int(time.time())}
        return image_id

    def _check_there(self, image_id: str, image: Path) -> None:
        if not image.exists():
            raise MissingError(f"image {image_id!r}", "removed meanwhile", "one of the folder")

    def _check_size(self, image_id: str, image: Path, drawn: tuple[int, ...]) -> None:
        wanted = _size(open_view(image, spatial_dims_of(image)))
        if drawn != wanted:
            raise RefusedError(
                f"label of {size_text(drawn)} pixels for image {image_id!r} of {size_text(wanted)}",
                expected="the same size",
            )

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label, and what is noted of it."""
        self.check_writable()
        file = Path(self.get_label_uri(label_id, label_tag))
        with self.saving, self._noting() as noted:
            _drop(file, label_tag, noted)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP file of the images that have final labels, with these."""
        if limit_cases is not None and limit_cases < 0:
            raise RefusedError(
                f"limit_cases {limit_cases}", expected="a number of images, 0 for all"
            )
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            raise MissingError(found="no image has a final label", hint="submit one first")
        # MONAI Label never removes it, so the next one takes its place, and all go with the server
        if self._archives is None:
            self._archives = tempfile.TemporaryDirectory(prefix="overtile-archive-")
        file = Path(self._archives.name) / f"{self.folder.name}.zip"
        with whole(file) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
            for pair in pairs:
                for kind, path in pair.items():
                    archive.write(path, f"{kind}s/{Path(path).name}")
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
        info, noted, alike = self.noted(), self._info(), self._by_stem()
        objects = {
            image_id: {
                "image": {
                    "ext": file.name[len(stem(file)) :],
                    "info": info.get(image_id, {}),
                },
                "labels": {
                    tag: {"ext": label.name.removeprefix(image_id), "info": {}}
                    for tag in self._tags()
                    if (label := self._label(file, tag, alike, noted))
                },
            }
            for image_id, file in self.images().items()
        }
        return {"name": self.name(), "description": self.description(), "objects": objects}

    # notes

    def noted(self) -> dict[str, dict[str, Any]]:
        """What is noted of the images, by id; not of others that had the same."""
        found = self._info()["images"]
        return {
            image_id: found[image_id]
            for image_id, file in self.images().items()
            if image_id in found and found[image_id].get("file") == file.name
        }

    def _info(self) -> dict[str, Any]:
        return notes_of(self.folder)

    @contextmanager
    def _noting(self) -> Iterator[dict[str, Any]]:
        """The notes, to be changed; nothing is done where they could not be kept."""
        file = self.folder / NOTES
        home = file.parent
        if not home.resolve().is_relative_to(self.folder):
            raise ForbiddenError("labels", _OUTSIDE, _INSIDE)
        home.mkdir(exist_ok=True)
        with FileLock(home / f".{file.name}.lock"):
            noted = self._info()
            yield noted
            with whole(file) as unfinished:
                unfinished.write_text(json.dumps(noted, indent=1, default=str))

    @property
    def read_only(self) -> bool:
        """Whether no label and no image is taken: by choice, or as the folder is."""
        places = [p for p in (self.folder, self.folder / "labels") if p.exists()]
        return self._read_only or not all(os.access(p, os.W_OK) for p in places)

    def check_writable(self) -> None:
        """Refuse to change anything in a folder that is read-only.

        Raises:
            ForbiddenError: if it is.
        """
        if self.read_only:
            raise ForbiddenError(
                self.folder.name,
                "read-only, so labels and images cannot be saved",
                hint="run overtile label on a folder that can be written, without --read-only",
            )


def _drop(label: Path, tag: str, noted: dict[str, Any]) -> None:
    """Remove a label, and what is noted of it."""
    label.unlink(missing_ok=True)
    noted["labels"].get(tag, {}).pop(stem(label), None)


def check_tag(name: str, tag: Any) -> str:
    """``tag``, if it can be one.

    Raises:
        RefusedError: if it is no plain word.
    """
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise RefusedError(f"{name} {tag!r}", expected="a word of letters, digits, - and _")
    return tag


def _check_object(name: str, given: Any) -> None:
    if not isinstance(given, dict):
        raise RefusedError(name, type(given).__name__, "a JSON object")
    try:
        json.dumps(given, allow_nan=False, ensure_ascii=False, default=str).encode()
    except ValueError as error:  # Python reads more than JSON has, and could not answer it
        raise RefusedError(name, f"no JSON ({error})", "numbers and text") from None


def _suffixes(image: Path) -> list[str]:
    """What labels of an image may end with, what they do end with first."""
    others = (image_suffix(f".{name}", single=True) for name in names_to_write())
    return list(dict.fromkeys((suffix_of(image), *filter(None, others))))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file system that are no UTF-8
        return False
    return True


def _size(seen: View) -> tuple[int, ...]:
    """Of all pixels of a file: planes first, if there are several."""
    return (*((seen.count,) if seen.count > 1 else ()), *seen.shape)


def _of_this(label: Path, noted: dict[str, Any]) -> dict[str, Any]:
    """What is noted of a label; whose it is alone, once another file has taken its place."""
    if noted.get(_DIGEST, digest := _digest(label)) == digest:
        return noted
    return {key: noted[key] for key in _WHOSE if key in noted}


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
