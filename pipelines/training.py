"""Run a training from start to table: train, choose the best, score unseen images, draw."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler
from monai.transforms import Compose
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from overtile.pipelines.bundle.checkpoints import (
    Checkpoints,
    check_settings,
    load_weights,
    read_checkpoint,
)
from overtile.pipelines.bundle.configuration import check_inferer, current_parser
from overtile.pipelines.bundle.run_bundle import check_bundle, write_bundle
from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.evaluation import draw_cases, score
from overtile.pipelines.metrics.instances import seg_measure
from overtile.pipelines.reporting import figures
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.summary import print_summary, write_summary
from overtile.pipelines.tracking import RunTracker
from overtile.transforms import RandDeformedTiled

log = logging.getLogger(__name__)


def prepare_weighted_batch(
    batch: dict[str, Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """MONAI ``prepare_batch``: image ``[B, C, *in]``, and (label, weight) ``[B, 1, *out]`` each.

    Metadata stays behind: a training step needs none.
    """
    image, label, weight = (
        torch.as_tensor(batch[key]).to(device, non_blocking=non_blocking)
        for key in ("image", "label", "weight")
    )
    return _plain(image), (_plain(label), _plain(weight))


class LossOfPair:
    """Call a loss of (logits, labels, weights) as MONAI's trainer does: (logits, target).

    Args:
        loss: e.g. `overtile.networks.PixelWeightedCrossEntropyLoss`.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        self.loss = loss

    def __call__(self, logits: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """Scalar loss of ``target = (labels, weights)``."""
        value: Tensor = self.loss(logits, *target)
        return value


def run_training(
    trainer: SupervisedTrainer,
    evaluator: SupervisedEvaluator,
    checkpoints: Checkpoints,
    tracker: RunTracker,
    test_loader: DataLoader[Any] | None = None,
    postprocessing: Compose | None = None,
    resume: bool = False,
    bundle_root: str | Path | None = None,
    metrics: Mapping[str, IgniteMetricHandler] | None = None,
    initial_weights: str | Path | None = None,
) -> dict[str, Any]:
    """Train, then score the best network on images that it has not seen, and say where all is.

    Args:
        trainer: with all handlers attached.
        evaluator: validates during training, and scores at the end.
        checkpoints: of the trainer.
        tracker: of the trainer.
        test_loader: unseen images; without any, the best network scores the validation images.
        postprocessing: of one prediction, for the figure; gives ``pred``, ``instances``.
        resume: go on with the run in the output folder. Otherwise a run that lies there is
            moved aside, never overwritten.
        bundle_root: of the bundle that trains; the run's folder becomes a bundle that uses the
            network as it was trained.
        metrics: the evaluator's, by name, which score image by image.
        initial_weights: a checkpoint that a new run starts from; None starts from random weights.

    Returns:
        The summary that is printed and written to ``summary.json``.

    Raises:
        ConfigurationError: if there is no epoch to train, network and inferer do not go together,
            nothing can be resumed, or another run uses the output folder.
    """
    if trainer.state.max_epochs < 1:
        raise ConfigurationError(f"max_epochs {trainer.state.max_epochs}: expected at least 1")
    if bundle_root is not None:
        check_bundle(bundle_root)
    check_inferer(trainer.inferer, trainer.network)
    check_inferer(evaluator.inferer, evaluator.network)
    with _alone_in(tracker.output_dir), _stoppable(trainer, evaluator, checkpoints):
        if resume:
            checkpoints.resume(trainer)
            log.info("%d of %d epochs are done", trainer.state.epoch, trainer.state.max_epochs)
        else:
            if initial_weights is not None:
                load_weights(trainer.network, initial_weights)
                check_settings(checkpoints.settings, initial_weights)
            _move_aside(tracker.output_dir)
        parser = current_parser()
        if parser is not None and bundle_root is not None:
            write_bundle(parser, bundle_root, tracker.output_dir, trainer.network)
        start = time.perf_counter()
        with tracker.recording(checkpoints.extra.get("mlflow_run")) as run:
            checkpoints.extra["mlflow_run"] = run
            _warn_of_empty_tiles(trainer.data_loader)
            _draw_training_sample(trainer.data_loader, tracker)
            if trainer.state.epoch < trainer.state.max_epochs:  # else only the end was missing
                trainer.run()
            validated = checkpoints.evaluator is not None
            if validated and evaluator.state.epoch != trainer.state.epoch:  # not the last epoch
                evaluator.run(trainer.state.epoch)
                checkpoints.save(trainer)
            seconds = time.perf_counter() - start
            checkpoints.load_best()
            unseen = test_loader is not None and len(test_loader) > 0
            if test_loader is not None and unseen:
                evaluator.data_loader = test_loader
                evaluator.state.epoch_length = len(test_loader)
            scores: dict[str, float] = {}
            network = str(checkpoints.best_path.relative_to(tracker.output_dir))
            if unseen or validated:
                told = {"network": network, "kind": "unseen" if unseen else "validation"}
                scores = score(evaluator, metrics or {}, tracker.output_dir, told)["scores"]
                kind = "test" if unseen else "best_val"
                values = {f"{kind}_{k}": v for k, v in scores.items()}
                tracker.log_metrics(values, trainer.state.epoch)
                _draw_predictions(evaluator, postprocessing, tracker)
                if (cases := draw_cases(tracker.output_dir)) is not None:
                    tracker.log_file(cases, "figures")
            for path in (checkpoints.best_path, checkpoints.last_path):
                tracker.log_file(path, "models")
            summary = {
                "images": evaluator.state.epoch_length if scores else 0,
                "unseen": unseen,
                "scores": scores,
                "best_epoch": checkpoints.best_epoch,
                "training_seconds": round(seconds, 1),
                "resumed": resume,
                "mlflow": tracker.uri,
                "mlflow_run": run,
                "network": network,
                "figures": "figures",
            }
            write_summary(summary, tracker.output_dir)
            tracker.log_file(tracker.output_dir / "summary.json", "")
            tracker.log_file(write_report(tracker.output_dir), "")
    print_summary(summary, tracker.output_dir)
    return summary


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder of the first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise ConfigurationError(
            f"output_dir {folder}: another run is writing there; give another --output_dir"
        ) from None


@contextmanager
def _stoppable(
    trainer: SupervisedTrainer, evaluator: SupervisedEvaluator, checkpoints: Checkpoints
) -> Iterator[None]:
    """Ctrl-C, and SIGTERM alike, say what is saved and how to go on; exit code 130."""

    asked = threading.Event()

    def terminate(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        os.write(2, b"\nStopping after this step (Ctrl-C again: at once)\n")

    def check(engine: Engine) -> None:
        # Here, not in the signal's handler: an exception that is raised wherever Python happens to
        # be, in a fork or a finaliser, is dropped or printed as a traceback.
        if asked.is_set():
            raise KeyboardInterrupt

    for engine in (trainer, evaluator):
        engine.add_event_handler(Events.ITERATION_COMPLETED, check)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other takes signals
        # also where a shell's background job was told to ignore Ctrl-C
        before = {n: signal.signal(n, terminate) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        message = "\nStopped in the first epoch: nothing is finished yet, start again."
        done = checkpoints.last_path.is_file()
        state = read_checkpoint(checkpoints.last_path) if done else {"epoch": 0}
        if state["epoch"]:
            message = (
                f"\nStopped. Everything up to the end of epoch {state['epoch']} is saved in "
                f"{checkpoints.last_path}; the same command with --resume True goes on from there."
            )
        tqdm.write(message)
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _move_aside(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    number = 1
    while folder.with_name(f"{folder.name}.{number}").exists():
        number += 1
    aside = folder.with_name(f"{folder.name}.{number}")
    folder.rename(aside)
    log.warning("%s holds an earlier run: moved to %s", folder, aside)


def _warn_of_empty_tiles(loader: Any) -> None:
    """A tile that is mostly mirrored context costs time and teaches little."""
    dataset: TileDataset = loader.dataset
    cut = next((t for t in dataset.transform.transforms if isinstance(t, RandDeformedTiled)), None)
    if cut is None:
        return
    largest = tuple(max(sides) for sides in zip(*dataset.image_sizes, strict=True))
    tile = ensure_tuple_rep(cut.size, len(largest))
    if all(t > 2 * side for t, side in zip(tile, largest, strict=True)):
        log.warning(
            "tile %s: more than twice as large as the images (at most %s); a smaller --tile "
            "trains faster",
            *("x".join(map(str, sides)) for sides in (tile, largest)),
        )


def _draw_training_sample(loader: Any, tracker: RunTracker) -> None:
    dataset: TileDataset = loader.dataset
    sample = dataset[0]
    steps = dataset.transform.transforms
    deformed = next((t.recorded for t in steps if isinstance(t, RandDeformedTiled)), None)
    image, label, weight = (_array(sample[key]) for key in ("image", "label", "weight"))
    if deformed is None or image.ndim != 2:
        return
    source = _array(dataset.source_image(0))
    tracker.log_figure(
        figures.training_sample(source, image, label, weight, deformed), "training_sample.png"
    )


def _draw_predictions(
    evaluator: SupervisedEvaluator, postprocessing: Compose | None, tracker: RunTracker
) -> None:
    if postprocessing is None:
        return
    rows = []
    evaluator.network.eval()
    for batch, _ in zip(evaluator.data_loader, range(3), strict=False):
        image = batch["image"].to(evaluator.state.device)
        with torch.no_grad():
            logits = evaluator.inferer(image, evaluator.network)
        label = _array(batch["label"][0])
        done = postprocessing({"pred": logits[0], "label": batch["label"][0]})
        instances = _array(done["instances"])
        rows.append(
            figures.Prediction(
                name=Path(batch["image"].meta["filename_or_obj"][0]).name,
                image=_section(_array(image[0])),
                label=_section(label),
                probability=_section(_array(done["pred"], channel=-1)),
                instances=_section(instances),
                score=seg_measure(label, instances).value,
            )
        )
    if rows:
        tracker.log_figure(figures.predictions(rows), "predictions.png")


def _section(array: NDArray[Any]) -> NDArray[Any]:
    """The image, or the middle section of a volume along its last axis."""
    return array if array.ndim == 2 else array[..., array.shape[-1] // 2]


def _array(image: Any, channel: int = 0) -> NDArray[Any]:
    array: NDArray[Any] = _plain(image)[channel].cpu().numpy()
    return array


def _plain(tensor: Any) -> Tensor:
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain
