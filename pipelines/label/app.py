"""The app that MONAI Label runs: bundles as models, a folder of images as datastore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

import overtile
from overtile.pipelines.bundle.json_file import REPLACE, read_object
from overtile.pipelines.errors import ConfigurationError, OvertileError, printable
from overtile.pipelines.images.channels import Chosen, check_channels, takes_several
from overtile.pipelines.images.stored import stamp
from overtile.pipelines.inference.uncertainty import METHODS
from overtile.pipelines.label.classes import LABELS, classes_of
from overtile.pipelines.label.datastore import FINAL, ImageFolderDatastore, check_tag
from overtile.pipelines.label.infer import Segmenter
from overtile.pipelines.label.refusals import MissingError, RefusedError, ReplacedError, sentence
from overtile.pipelines.label.strategies import (
    MostUncertain,
    Plain,
    Uncertainty,
    by_chance,
    in_order,
)
from overtile.pipelines.label.train import Trainer


class OvertileLabel(MONAILabelApp):
    """Every bundle in ``model/`` of the app's folder is a model and its training.

    Args:
        app_dir: the app's folder; runs go to ``runs/`` in it.
        studies: folder of the images.
        conf: of MONAI Label's command; ``models`` names bundles, separated by commas, all without;
            ``channels``, as JSON, are those to take of images.

    Raises:
        ConfigurationError: if there is no such bundle.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.home = Path(app_dir)
        conf = conf or {}
        self.bundles = _bundles(self.home / "model", conf.get("models", ""))
        self.channels = _channels(conf.get("channels"))
        super().__init__(
            app_dir,
            studies,
            conf,
            name="Overtile",
            description="U-Net with exact tiles: touching cells, membranes, and your own",
            version=overtile.__version__,
        )

    @property
    def shown(self) -> Chosen:
        """Which channels the page reads, of which it shows the first."""
        if self.channels is not None:
            return self.channels
        configs = (read_object(b / "configs" / "inference.json", REPLACE) for b in self.bundles)
        told = (check_channels(config.get("channels")) for config in configs)
        return next((channels for channels in told if takes_several(channels)), None)

    @property
    def runs(self) -> Path:
        """Folder of the trainings."""
        return self.home / "runs"

    def init_datastore(self) -> ImageFolderDatastore:
        """The folder of images, whose labels are what the models make and learn."""
        store = ImageFolderDatastore(self.studies, settings.MONAI_LABEL_DATASTORE_READ_ONLY)
        for bundle in self.bundles:
            shape = read_object(bundle / "configs" / "metadata.json", REPLACE)
            dims = len(shape["network_data_format"]["inputs"]["image"]["spatial_shape"])
            store.learners.append((bundle.name, dims, classes_of(bundle)))
        return store

    def init_infers(self) -> dict[str, Segmenter]:
        """A model for every bundle."""
        return {folder.name: Segmenter(folder, self.channels) for folder in self.bundles}

    def init_trainers(self) -> dict[str, Trainer]:
        """A training for every bundle."""
        return {folder.name: Trainer(folder, self.runs, self.channels) for folder in self.bundles}

    def init_scoring_methods(self) -> dict[str, Uncertainty]:
        """Both kinds of uncertainty for every model."""
        return {
            f"{method}_{name}": Uncertainty(segmenter, method)
            for name, segmenter in self._infers.items()
            for method in METHODS
        }

    def init_strategies(self) -> dict[str, Any]:
        """How the next image is chosen."""
        first = self.bundles[0].name
        uncertain = {
            method: MostUncertain(
                {name: Uncertainty(segmenter, method) for name, segmenter in self._infers.items()},
                first,
            )
            for method in METHODS
        }
        return {
            "first": Plain("First by name", in_order),
            "random": Plain("Any of them", by_chance),
            **uncertain,
        }

    def init_batch_infer(self) -> BatchInferTask:
        """Proposals for many images."""
        return _OneByOne()

    def segmenter(self, model: str) -> Segmenter:
        """The model of a name.

        Raises:
            MissingError: if there is none.
        """
        if not isinstance(model, str) or model not in self._infers:
            raise MissingError(f"model {model!r}", expected=f"one of {', '.join(self._infers)}")
        found: Segmenter = self._infers[model]
        return found

    def infer(
        self, request: dict[str, Any], datastore: ImageFolderDatastore | None = None
    ) -> dict[str, Any]:
        """Segment an image of the studies folder, or the one at ``request["upload"]``.

        ``file`` of the answer is that of the kept label, or else one for the asker to remove.
        Whatever else ``request["image"]`` may name, a path is never followed.
        """
        task, saves = self.segmenter(request.get("model", "")), request.get("save_label", False)
        if not isinstance(saves, bool):
            raise RefusedError(f"save_label {saves!r}", expected="true or false")
        tag = proposals_tag(request) if saves else _tag(request)
        images = datastore or self.datastore()
        if saves:
            images.check_writable()
        image = request.get("image")
        if not isinstance(image, str):
            raise RefusedError("image", expected="the id of an image in the studies folder")
        upload = request.get("upload")
        if saves and upload:
            raise RefusedError(
                "save_label",
                "the image that comes with the request is not kept, so neither is its label",
                hint="add it with PUT /datastore/image first",
            )
        path, polygons = Path(upload) if upload else images.path_of(image), request.get("polygons")
        if not saves:
            file, told = task({"image": str(path), "polygons": polygons})
            return {"label": file, "tag": tag, "file": file, "params": told}
        seen = stamp(path)
        cells, told = task.propose(path, bool(polygons))
        if stamp(path) != seen:
            raise ReplacedError(
                f"image {image!r}", "not saved, for its file was replaced", hint="ask again"
            )
        noted = {"model": task.bundle.name, "params": told, LABELS: task.kind}
        label = images.save_cells(image, cells, tag, noted)
        file = images.get_label_uri(label, tag)
        return {"label": label, "tag": tag, "file": file, "params": told}


class _OneByOne(BatchInferTask):
    """Proposals for many images, kept as labels; one that fails does not end the others.

    MONAI Label's own divides by the number of GPUs, also where there is none.
    """

    def __call__(
        self, request: dict[str, Any], datastore: ImageFolderDatastore, infer: Any
    ) -> dict[str, Any]:
        """What was said of each image, by id."""
        most, tag = batch_options(request)
        images = sorted(self.get_images(request, datastore))[:most]
        found: dict[str, Any] = {}
        wanted = {"model": request["model"], "label_tag": tag}
        for number, image in enumerate(images, 1):
            try:
                result = infer({**wanted, "image": image, "save_label": True}, datastore)
                found[image] = {k: v for k, v in result.items() if k != "file"}
            except OvertileError as error:
                found[image] = {"error": sentence(error, datastore.folder)}
            print(
                f"{number} of {len(images)}: {printable(found[image].get('error', image))}",
                flush=True,
            )
        return found


def batch_options(request: dict[str, Any]) -> tuple[int | None, str]:
    """How many images to propose labels for, None for all, and the tag of these.

    Raises:
        RefusedError: for a value that is out of range, and for the tag of annotators' labels.
    """
    most = request.get("max_batch_size") or None
    if most is not None and (not isinstance(most, int) or most < 0):
        raise RefusedError(f"max_batch_size {most!r}", expected="a number of images, 0 for all")
    return most, proposals_tag(request)


def proposals_tag(request: dict[str, Any]) -> str:
    """The tag to keep proposals under.

    Raises:
        RefusedError: for the tag of annotators' labels.
    """
    if (tag := _tag(request)) == FINAL:
        raise RefusedError(
            "label_tag 'final'",
            "proposals would replace the labels of annotators",
            hint="give another tag",
        )
    return tag


def _tag(request: dict[str, Any]) -> str:
    return check_tag("label_tag", request.get("label_tag") or "original")


def _channels(text: str | None) -> Chosen:
    return None if text is None else check_channels(json.loads(text))


def _bundles(folder: Path, names: str) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if (p / "configs" / "inference.json").is_file())
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    known = {p.name: p for p in found}
    unknown = [n for n in wanted if n not in known]
    if unknown or not found:
        raise ConfigurationError(
            folder,
            f"no bundle {unknown[0] if unknown else 'at all'}",
            f"one of {', '.join(known) or 'those that come with Overtile'}",
        )
    return [known[n] for n in wanted] or found
