"""Run a training from start to table: train, choose the best, score unseen images, draw."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler
from monai.utils import ensure_tuple_rep
from torch.utils.data import DataLoader

from overtile.pipelines.bundle.checkpoints import Checkpoints
from overtile.pipelines.bundle.configuration import check_inferer, current_parser
from overtile.pipelines.bundle.run_bundle import check_bundle, write_bundle, write_scores
from overtile.pipelines.data.find import DataSet
from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.data.workers import make_room_for_sockets
from overtile.pipelines.errors import ConfigurationError, size_text
from overtile.pipelines.files import settle
from overtile.pipelines.inference.evaluation import (
    draw_cases,
    score,
    without_reference_no_score,
)
from overtile.pipelines.inference.folder import check_sections
from overtile.pipelines.metrics.score_names import name_of
from overtile.pipelines.notices import kept_warnings, print_warnings
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.summary import print_summary, write_summary
from overtile.pipelines.reporting.tables import FIGURES, REPORT, SUMMARY, results_of
from overtile.pipelines.training.pictures import draw_predictions, draw_training_sample
from overtile.pipelines.training.stop_and_resume import alone_in, begin, go_on, stoppable
from overtile.pipelines.training.tracking import RunTracker
from overtile.pipelines.training.try_out import try_out
from overtile.transforms import RandDeformedTiled

log = logging.getLogger(__name__)


def run_training(
    trainer: SupervisedTrainer,
    evaluator: SupervisedEvaluator,
    checkpoints: Checkpoints,
    tracker: RunTracker,
    test_loader: DataLoader[Any] | None = None,
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
        resume: go on with the run in the output folder. Otherwise a run that lies there is
            moved aside, never overwritten.
        bundle_root: of the bundle that trains; the run's folder becomes a bundle that uses the
            network as it was trained.
        metrics: the evaluator's, by name, which score image by image.
        initial_weights: a checkpoint that a new run starts from; None starts from random weights.

    Returns:
        The summary that is printed and written to ``summary.json``.

    Raises:
        ConfigurationError: if there is no epoch to train, network, inferer, loss, postprocessing
            and metrics do not go together, nothing can be resumed, or not with these settings or
            images, or another run uses the output folder.
        DataError: if a file to resume from is damaged.
    """
    _check(trainer, evaluator, bundle_root)
    make_room_for_sockets()
    without_reference_no_score(evaluator, metrics or {})
    folder = tracker.output_dir
    with alone_in(folder), stoppable(trainer, evaluator, checkpoints):
        settle(folder)
        _check_sections(trainer)
        names = checkpoints.settings.get("class_names")
        channels = try_out(trainer, evaluator, metrics or {}, test_loader, names)
        tracker.reach()
        if resume:
            go_on(trainer, checkpoints, folder, tracker.data, initial_weights)
        else:
            begin(trainer, checkpoints, folder, tracker.data, initial_weights)
        _make_a_bundle(folder, bundle_root, trainer, channels, tracker.data, names)
        with tracker.recording(checkpoints.extra.get("mlflow_run")) as run:
            checkpoints.extra["mlflow_run"] = run
            seconds = _train(trainer, evaluator, checkpoints, tracker)
            checkpoints.load_best()
            if checkpoints.evaluator is not None and checkpoints.best is None:
                key = name_of(str(evaluator.state.key_metric_name), names or ())
                log.warning(
                    "no epoch has a score (%s): the network of the last one, %d, is kept",
                    key,
                    checkpoints.best_epoch,
                )
            with results_of(folder) as results:
                network = str(checkpoints.best_path.relative_to(folder))
                told = {"network": network}
                scored = _score(
                    evaluator, checkpoints, test_loader, metrics or {}, results, told, names
                )
                summary = {
                    **scored,
                    "best_epoch": checkpoints.best_epoch,
                    "training_seconds": round(seconds, 1),
                    "resumed": resume,
                    "mlflow": tracker.uri,
                    "mlflow_run": run,
                    "network": network,
                    "figures": FIGURES,
                    "warnings": kept_warnings(),
                }
                write_summary(summary, results)
                with _no_loss("the report"):
                    write_report(results, name=folder.resolve().name)
            write_scores(folder, summary["scores"])
            _track(tracker, checkpoints, summary, trainer.state.epoch)
    print_summary(summary, folder)
    print_warnings()
    return summary


@contextmanager
def _no_loss(what: str) -> Iterator[None]:
    """Within, what people look at may fail: the network and its scores are kept all the same."""
    try:
        yield
    except Exception as error:
        log.warning("%s is left out: %s: %s", what, type(error).__name__, error)


def _check(
    trainer: SupervisedTrainer, evaluator: SupervisedEvaluator, bundle_root: str | Path | None
) -> None:
    """All that can be said before anything is read or written."""
    if trainer.state.max_epochs < 1:
        raise ConfigurationError("max_epochs", str(trainer.state.max_epochs), "at least 1")
    if bundle_root is not None:
        check_bundle(bundle_root)
    check_inferer(trainer.inferer, trainer.network)
    check_inferer(evaluator.inferer, evaluator.network)


def _check_sections(trainer: SupervisedTrainer) -> None:
    """Refuse images of one pixel along an axis that the network pools."""
    dataset = getattr(trainer.data_loader, "dataset", None)
    if isinstance(dataset, TileDataset):
        for item, size in zip(dataset.data, dataset.image_sizes, strict=True):
            check_sections(trainer.network, size, str(item["image"]))


def _make_a_bundle(
    folder: Path,
    bundle_root: str | Path | None,
    trainer: SupervisedTrainer,
    channels: tuple[int, int],
    data: DataSet,
    class_names: Sequence[str] | None,
) -> None:
    """Make the run's folder a bundle, if one trains."""
    parser = current_parser()
    if parser is not None and bundle_root is not None:
        told = data.channel_names, class_names, data.spacing
        write_bundle(parser, bundle_root, folder, trainer.network, channels, *told)


def _train(
    trainer: SupervisedTrainer,
    evaluator: SupervisedEvaluator,
    checkpoints: Checkpoints,
    tracker: RunTracker,
) -> float:
    """Train the epochs that are left, the last one with a validation; returns the seconds."""
    start = time.perf_counter()
    _warn_of_empty_tiles(trainer.data_loader)
    with _no_loss("the picture of a training sample"):
        draw_training_sample(trainer.data_loader, tracker)
    if trainer.state.epoch < trainer.state.max_epochs:  # else only the end was missing
        trainer.run()
    if checkpoints.evaluator is not None and evaluator.state.epoch != trainer.state.epoch:
        evaluator.run(trainer.state.epoch)
        checkpoints.save(trainer)
    return time.perf_counter() - start


def _score(
    evaluator: SupervisedEvaluator,
    checkpoints: Checkpoints,
    test_loader: DataLoader[Any] | None,
    metrics: Mapping[str, IgniteMetricHandler],
    results: Path,
    told: Mapping[str, Any],
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Score the unseen images, else those of the validation, and draw what was found.

    Returns:
        What the summary says of it; no scores where there is no such image.
    """
    unseen = test_loader is not None and len(test_loader) > 0
    if test_loader is not None and unseen:
        evaluator.data_loader = test_loader
        evaluator.state.epoch_length = len(test_loader)
    elif checkpoints.evaluator is None:
        return {"images": 0, "unseen": False, "scores": {}}
    kind = "unseen" if unseen else "validation"
    scored = score(evaluator, metrics, results, {**told, "kind": kind}, class_names)
    with _no_loss("the pictures of predictions"):
        draw_predictions(results)
        draw_cases(results)
    kept: dict[str, Any] = {
        name: scored[name] for name in ("scores", "class_names") if name in scored
    }
    return {"images": evaluator.state.epoch_length, "unseen": unseen, **kept}


def _track(
    tracker: RunTracker, checkpoints: Checkpoints, summary: Mapping[str, Any], epoch: int
) -> None:
    """Keep the scores, the networks and what people look at with the run."""
    kind = "test" if summary["unseen"] else "best_val"
    known = {f"{kind}_{k}": v for k, v in summary["scores"].items() if v is not None}
    tracker.log_metrics(known, epoch)
    folder = tracker.output_dir
    for path in sorted((folder / FIGURES).glob("*.png")):
        tracker.log_file(path, FIGURES)
    for path in (checkpoints.best_path, checkpoints.last_path):
        tracker.log_file(path, "models")
    for name in (SUMMARY, REPORT):
        if (folder / name).is_file():
            tracker.log_file(folder / name, "")


def _warn_of_empty_tiles(loader: Any) -> None:
    """A tile that is mostly mirrored context costs time and teaches little."""
    dataset = loader.dataset
    if not isinstance(dataset, TileDataset):
        return
    cut = next((t for t in dataset.transform.transforms if isinstance(t, RandDeformedTiled)), None)
    if cut is None:
        return
    largest = tuple(max(sides) for sides in zip(*dataset.image_sizes, strict=True))
    tile = ensure_tuple_rep(cut.size, len(largest))
    if all(t > 2 * side for t, side in zip(tile, largest, strict=True)):
        log.warning(
            "tile %s: more than twice as large as the images (at most %s); a smaller tile "
            "trains faster",
            *(size_text(sides) for sides in (tile, largest)),
        )
