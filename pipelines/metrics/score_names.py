"""What each score is called and means, in a sentence. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """A score for people.

    Attributes:
        name: as it is printed.
        sentence: what it is, and which value is perfect.
        lower_is_better: for errors.
    """

    name: str
    sentence: str
    lower_is_better: bool = False


def _precision(percent: int) -> Definition:
    return Definition(
        f"AP{percent}",
        f"Average precision at IoU 0.{percent}: found cells that match one cell of the label, "
        "divided by matched, extra and missed cells together; 1 is perfect.",
    )


# Sources: SEG and DET: Cell Tracking Challenge; AP: Data Science Bowl 2018; PQ: Kirillov 2019;
# warping, Rand and pixel error: ISBI 2012; V_rand and V_info: Arganda-Carreras 2015.
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
    "learning_rate": Definition("learning rate", "Step size of the optimiser."),
    "train_loss": Definition(
        "training loss",
        "What training minimises, mean over the steps of an epoch; in the bundles the "
        "cross-entropy of the pixels under the weight map.",
        True,
    ),
}


def name_of(score: str) -> str:
    """How a score is printed; unknown ones as they are."""
    return DEFINITIONS[score].name if score in DEFINITIONS else score
