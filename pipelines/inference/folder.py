"""Segment images with a trained network: the bundles' ``inference``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader
from tqdm import tqdm

from overtile.networks import TileGeometry
from overtile.pipelines.bundle.checkpoints import check_settings, load_weights
from overtile.pipelines.bundle.configuration import check_inferer
from overtile.pipelines.data.workers import make_room_for_sockets
from overtile.pipelines.errors import ConfigurationError, DataError, Setting
from overtile.pipelines.notices import print_warnings


def run_inference(
    evaluator: SupervisedEvaluator,
    checkpoint: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Segment every image of the evaluator's loader; its postprocessing writes the results.

    Args:
        evaluator: with network, inferer, loader and postprocessing.
        checkpoint: weights of the network.
        settings: how images are read and normalised, to compare with how they were in training.

    Raises:
        ConfigurationError: if there is no image, or network, inferer, checkpoint and settings do
            not go together.
    """
    make_ready(evaluator, checkpoint, settings or {})
    evaluator.run()
    print_warnings()


def make_ready(
    evaluator: SupervisedEvaluator, checkpoint: str | Path, settings: Mapping[str, Any]
) -> None:
    """Check an evaluator, give its network the weights, and show a bar over the images.

    Raises:
        ConfigurationError: as `run_inference`.
    """
    if not len(cast("DataLoader[Any]", evaluator.data_loader)):
        hint = Setting("dataset_dir", "DIR", "with images")
        raise ConfigurationError("dataset_dir", "it is not set", hint=hint)
    check_inferer(evaluator.inferer, evaluator.network)
    make_room_for_sockets()
    load_weights(evaluator.network, checkpoint)
    check_settings(settings, checkpoint)
    evaluator.add_event_handler(Events.ITERATION_STARTED, _check_sections)
    _show_images(evaluator)


def _check_sections(engine: Any) -> None:
    for image in engine.state.batch["image"]:
        name = getattr(image, "meta", {}).get("filename_or_obj", "image")
        check_sections(engine.network, image.shape[1:], name)


def check_sections(network: Any, size: Sequence[int], name: str) -> None:
    """Refuse an image of one pixel along an axis along which a network pools: it sees no context.

    Args:
        network: with or without a geometry.
        size: of the image.
        name: of its file.

    Raises:
        DataError: naming the axis.
    """
    geometry = getattr(network, "geometry", None)
    if not isinstance(geometry, TileGeometry):
        return
    for axis, n in enumerate(size):
        if n == 1 and (multiple := geometry.axis(axis)[1]) > 1:
            raise DataError(
                Path(name),
                f"one pixel along axis {axis}, where the network pools by {multiple}",
                "more of them, or a network that does not pool there",
                (
                    Setting("spatial_dims", 2, "for images"),
                    Setting("network_def#strides", "LIST", "with 1 along that axis"),
                ),
            )


def _show_images(evaluator: SupervisedEvaluator) -> None:
    """A progress bar over the images, above the inferer's own over the tiles of one."""
    count = len(cast("DataLoader[Any]", evaluator.data_loader))
    if count < 2:
        return
    bar = tqdm(total=count, desc="images", unit="image", disable=None)

    def advance(engine: Engine) -> None:
        bar.update()

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, advance)
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: bar.close())
