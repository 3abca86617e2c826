"""What each score is called and means, in a sentence. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Definition:
    """A score for people.

    Attributes:
        name: as it is printed.
        sentence: what it is, and which value is perfect.
        lower_is_better: for errors.
        signed: for errors to both sides, of which neither is better.
    """

    name: str
    sentence: str
    lower_is_better: bool = False
    signed: bool = False


def _precision(percent: int) -> Definition:
    return Definition(
        f"AP{percent}",
        f"Average precision at IoU 0.{percent}: found cells that match one cell of the label, "
        "divided by matched, extra and missed cells together; 1 is perfect.",
    )


_MEAN = "mean over the classes of each one's mean over the images that have it"

# Sources: SEG and DET: Cell Tracking Challenge; AP: Data Science Bowl 2018; PQ: Kirillov 2019;
# warping, Rand and pixel error: ISBI 2012; V_rand and V_info: Arganda-Carreras 2015; surface Dice:
# Nikolov 2018.
DEFINITIONS = {
    "loss": Definition(
        "loss",
        "What training minimises; in the bundles the cross-entropy of the pixels under the weight "
        "map.",
        True,
    ),
    "seg": Definition(
        "SEG",
        "Mean overlap (intersection over union) of each cell of the label with the found cell that "
        "covers more than half of it, 0 for a cell without one; 1 is perfect.",
    ),
    "det": Definition(
        "DET",
        "How little has to be mended to find each cell once: a missed cell costs 10, one to be "
        "split 5, an extra one 1, relative to adding all cells by hand; 1 is perfect.",
    ),
    "ap50": _precision(50),
    "ap75": _precision(75),
    "ap90": _precision(90),
    "pq": Definition(
        "PQ",
        "Panoptic quality: mean overlap of the matched cells (IoU 0.5 or more) times the F1 of the "
        "matching; 1 is perfect.",
    ),
    "mean_iou": Definition(
        "mean IoU",
        "Overlap (intersection over union) of all cells together, as one mask, with those of the "
        "label, averaged over the images; 1 is perfect.",
    ),
    "pixel_error": Definition(
        "pixel error",
        "1 - the best F1 over ten thresholds of P(cell), pixel by pixel; 0 is perfect.",
        True,
    ),
    "rand_error": Definition(
        "Rand error",
        "1 - the best F1 of pairs of pixels that lie in one cell, over ten thresholds of P(cell); "
        "0 is perfect.",
        True,
    ),
    "warping_error": Definition(
        "warping error",
        "Share of the pixels at which cells are split or merged, once the label is warped to the "
        "prediction without a change of topology; at the best of ten thresholds, 0 is perfect.",
        True,
    ),
    "v_rand": Definition(
        "V_rand",
        "F-score of pairs of pixels that lie in one cell, with thinned borders and at the best "
        "threshold; 1 is perfect.",
    ),
    "v_info": Definition(
        "V_info",
        "F-score of the information that label and prediction share about which cell a pixel lies "
        "in, with thinned borders and at the best threshold; 1 is perfect.",
    ),
    "dice": Definition(
        "Dice",
        "Twice the pixels that label and prediction both give to a class, divided by the pixels of "
        f"the class in either, added up; {_MEAN}; 1 is perfect.",
    ),
    "iou": Definition(
        "IoU",
        "Pixels that label and prediction both give to a class, divided by those that either "
        f"gives to it; {_MEAN}; 1 is perfect.",
    ),
    "tpr": Definition(
        "TPR",
        f"Share of the pixels of a class that are found (sensitivity, recall); {_MEAN}; "
        "1 is perfect.",
    ),
    "tnr": Definition(
        "TNR",
        "Share of the pixels outside of a class that are not taken for it (specificity), high for "
        f"any small class; {_MEAN}; 1 is perfect.",
    ),
    "fpr": Definition(
        "FPR",
        "Share of the pixels outside of a class that are taken for it, 1 - TNR, low for any small "
        f"class; {_MEAN}; 0 is perfect.",
        True,
    ),
    "fnr": Definition(
        "FNR",
        f"Share of the pixels of a class that are missed, 1 - TPR; {_MEAN}; 0 is perfect.",
        True,
    ),
    "hd95": Definition(
        "HD95",
        "Distance to the other boundary that 95 % of the boundary of a class stay below, in label "
        "and prediction alike, in units of the spacing; images in which only one of them has the "
        f"class are left out; {_MEAN}; 0 is perfect.",
        True,
    ),
    "surface_dice": Definition(
        "surface Dice",
        "Share of the surfaces of a class in label and prediction, by area, that lies within the "
        f"tolerance of the other; {_MEAN}; 1 is perfect.",
    ),
    "volume_error": Definition(
        "volume error",
        "Pixels of a class that are predicted too many, divided by those of the label; below 0 too "
        "few, and opposite errors cancel; images whose label lacks the class are left out; "
        f"{_MEAN}; 0 is perfect.",
        signed=True,
    ),
    "learning_rate": Definition("learning rate", "Step size of the optimiser."),
    "train_loss": Definition(
        "training loss",
        "What training minimises, mean over the steps of an epoch; in the bundles the "
        "cross-entropy of the pixels under the weight map.",
        True,
    ),
}


def of_class(score: str, number: int) -> str:
    """How the score of one class is called in tables and configurations, e.g. ``dice_class1``."""
    return f"{score}_class{number}"


def definition_of(score: str, class_names: Sequence[str] = ()) -> Definition | None:
    """What a score is, one class's own included; None for an unknown one.

    Args:
        score: as tables have it.
        class_names: of all classes, from class 0; numbers where there are none.
    """
    if score in DEFINITIONS:
        return DEFINITIONS[score]
    parts = re.fullmatch(r"(.+)_class(\d+)", score)
    if parts is None or parts[1] not in DEFINITIONS:
        return None
    whole, number = DEFINITIONS[parts[1]], int(parts[2])
    named = class_names[number] if number < len(class_names) else f"class {number}"
    sentence = whole.sentence.replace(_MEAN, f"of {named}, mean over the images that have it")
    return replace(whole, name=f"{whole.name} of {named}", sentence=sentence)


def name_of(score: str, class_names: Sequence[str] = ()) -> str:
    """How a score is printed; unknown ones as they are."""
    definition = definition_of(score, class_names)
    return score if definition is None else definition.name
