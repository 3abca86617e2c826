"""The face of the pipelines: every name that a configuration or a script of a user needs.

Each is loaded when it is asked for (PEP 562), so that the command line answers before PyTorch
is loaded. The rooms behind may change; these names stay.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_PUBLIC = (
    "overtile.pipelines.bundle.checkpoints.Checkpoints",
    "overtile.pipelines.bundle.check.check_configuration",
    "overtile.pipelines.bundle.configuration.check_tile",
    "overtile.pipelines.data.find.find_data",
    "overtile.pipelines.data.classes.ignored_value",
    "overtile.pipelines.data.unlabelled.images_in",
    "overtile.pipelines.data.find.labelled_images",
    "overtile.pipelines.data.cache.CachedDataset",
    "overtile.pipelines.data.samples.EpochSampler",
    "overtile.pipelines.data.samples.TileDataset",
    "overtile.pipelines.metrics.class_metrics.ClassMetric",
    "overtile.pipelines.metrics.class_metrics.OneClass",
    "overtile.pipelines.metrics.class_metrics.class_handlers",
    "overtile.pipelines.metrics.classes.class_counts",
    "overtile.pipelines.metrics.classes.class_hd95",
    "overtile.pipelines.metrics.classes.class_scores",
    "overtile.pipelines.metrics.classes.class_surface_dice",
    "overtile.pipelines.metrics.membranes.em_report",
    "overtile.pipelines.metrics.membranes.pixel_error",
    "overtile.pipelines.metrics.membranes.rand_error",
    "overtile.pipelines.metrics.membranes.v_info",
    "overtile.pipelines.metrics.membranes.v_rand",
    "overtile.pipelines.metrics.membranes.warping_error",
    "overtile.pipelines.errors.ConfigurationError",
    "overtile.pipelines.errors.DataError",
    "overtile.pipelines.errors.OvertileError",
    "overtile.pipelines.errors.TrainingError",
    "overtile.pipelines.inference.evaluation.run_evaluation",
    "overtile.pipelines.training.handlers.ClipGradients",
    "overtile.pipelines.training.handlers.Progress",
    "overtile.pipelines.training.handlers.SeedEpochs",
    "overtile.pipelines.training.divergence.StopOnCollapse",
    "overtile.pipelines.training.divergence.StopOnNonFiniteLoss",
    "overtile.pipelines.training.handlers.seed_everything",
    "overtile.pipelines.metrics.instances.average_precision",
    "overtile.pipelines.metrics.instances.det_measure",
    "overtile.pipelines.metrics.instances.seg_measure",
    "overtile.pipelines.images.read_transform.ReadImaged",
    "overtile.pipelines.metrics.monai_metrics.AveragePrecisionMetric",
    "overtile.pipelines.metrics.monai_metrics.DetMetric",
    "overtile.pipelines.metrics.monai_metrics.PanopticQuality",
    "overtile.pipelines.metrics.monai_metrics.PixelErrorMetric",
    "overtile.pipelines.metrics.monai_metrics.RandErrorMetric",
    "overtile.pipelines.metrics.monai_metrics.SegMetric",
    "overtile.pipelines.metrics.monai_metrics.VInfoMetric",
    "overtile.pipelines.metrics.monai_metrics.VRandMetric",
    "overtile.pipelines.metrics.monai_metrics.WarpingErrorMetric",
    "overtile.pipelines.metrics.monai_metrics.cell_masks",
    "overtile.pipelines.images.read.read_image",
    "overtile.pipelines.images.read.read_label",
    "overtile.pipelines.inference.write_results.WriteResultsd",
    "overtile.pipelines.inference.folder.run_inference",
    "overtile.pipelines.data.synthesis.datasets.given_or_made",
    "overtile.pipelines.training.tracking.RunTracker",
    "overtile.pipelines.training.batches.LossOfPair",
    "overtile.pipelines.training.batches.prepare_weighted_batch",
    "overtile.pipelines.training.run.run_training",
)
_MODULE_OF = {name: module for module, _, name in (path.rpartition(".") for path in _PUBLIC)}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


if "monai.bundle" in sys.modules:
    # A configuration names something of ours, and MONAI looks for it before it builds anything of
    # it: from here on a mistake costs its user one line, also in a bundle of an earlier layout,
    # or in one whose `initialize` is not what it should be.
    from overtile.pipelines.bundle.command import begin

    begin()
