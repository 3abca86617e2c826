"""Run a training from start to table: train, choose the best, score unseen images, draw."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler
from monai.transforms import Compose
from monai.utils import ensure_tuple_rep
from torch.utils.data import DataLoader

from overtile.pipelines.bundle.checkpoints import Checkpoints, check_settings, load_weights
from overtile.pipelines.bundle.configuration import check_inferer, current_parser
from overtile.pipelines.bundle.run_bundle import check_bundle, write_bundle
from overtile.pipelines.data.samples import TileDataset
from overtile.pipelines.errors import ConfigurationError
from overtile.pipelines.inference.evaluation import draw_cases, score
from overtile.pipelines.reporting.report import write_report
from overtile.pipelines.reporting.summary import print_summary, write_summary
from overtile.pipelines.training.pictures import draw_predictions, draw_training_sample
from overtile.pipelines.training.stop_and_resume import alone_in, move_aside, stoppable
from overtile.pipelines.training.tracking import RunTracker
from overtile.transforms import RandDeformedTiled

log = logging.getLogger(__name__)


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
    with alone_in(tracker.output_dir), stoppable(trainer, evaluator, checkpoints):
        if resume:
            checkpoints.resume(trainer)
            log.info("%d of %d epochs are done", trainer.state.epoch, trainer.state.max_epochs)
        else:
            if initial_weights is not None:
                load_weights(trainer.network, initial_weights)
                check_settings(checkpoints.settings, initial_weights)
            move_aside(tracker.output_dir)
        parser = current_parser()
        if parser is not None and bundle_root is not None:
            write_bundle(parser, bundle_root, tracker.output_dir, trainer.network)
        start = time.perf_counter()
        with tracker.recording(checkpoints.extra.get("mlflow_run")) as run:
            checkpoints.extra["mlflow_run"] = run
            _warn_of_empty_tiles(trainer.data_loader)
            draw_training_sample(trainer.data_loader, tracker)
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
                draw_predictions(evaluator, postprocessing, tracker)
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
