"""Numbers that the field compares: membranes, instances, classes, and MONAI's metrics of them.

Its names are loaded when they are asked for: what a score is called takes no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {
    "class_metrics": (
        "ClassMean",
        "ClassMetric",
        "OneClass",
        "class_handlers",
    ),
    "classes": (
        "CLASS_SCORES",
        "ClassCounts",
        "class_counts",
        "class_hd95",
        "class_scores",
        "class_surface_dice",
    ),
    "instances": (
        "AveragePrecision",
        "DetMeasure",
        "SegMeasure",
        "average_precision",
        "det_measure",
        "seg_measure",
    ),
    "membranes": (
        "EmReport",
        "PixelError",
        "RandError",
        "THRESHOLDS",
        "THRESHOLDS_OF_V",
        "VInfo",
        "VRand",
        "WarpingCounts",
        "WarpingError",
        "em_report",
        "pixel_error",
        "rand_error",
        "v_info",
        "v_rand",
        "warping_error",
    ),
    "monai_metrics": (
        "AveragePrecisionMetric",
        "DetMetric",
        "PanopticQuality",
        "PixelErrorMetric",
        "RandErrorMetric",
        "SegMetric",
        "VInfoMetric",
        "VRandMetric",
        "WarpingErrorMetric",
        "cell_masks",
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
