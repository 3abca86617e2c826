"""The ``train.json`` are one training: they differ where the images do, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
MEMBRANES = {
    # what the images are like, and how long it takes to learn them
    *("output_dir", "labels", "normalize", "max_epochs", "samples_per_epoch", "tile", "scale"),
    *("separation_width", "balance_classes", "extent", "grow", "min_size", "max_hole", "line"),
    # generated cells, where there is no folder; what is drawn of touching cells; other noise
    *("data#dataset_dir", "train#augmentation"),
    # membranes are scored by an error, for which smaller is better
    *("validate#key_metric", "validate#additional_metrics", "validate#evaluator#metric_cmp_fn"),
    *("checkpoints#lower_is_better", "tracker#experiment"),
}
ORGANS = {
    # as above; volumes are not turned to any side
    *("output_dir", "labels", "max_epochs", "samples_per_epoch", "tile", "scale"),
    *("spatial_dims", "rotate", "flip", "deformation_sigma", "learning_rate", "warmup_steps"),
    # classes: which there are, how they are weighed, what is found, and how it is scored
    *("imports", "class_names", "num_classes", "settings#class_names", "data#class_names", "read"),
    *("foreground", "balance_classes", "border_classes", "train#augmentation"),
    *("threshold", "extent", "grow", "min_size", "max_hole", "growth", "line"),
    *("validate#postprocessing#transforms", "validate#key_metric"),
    *("validate#additional_metrics", "validate#evaluator#metric_cmp_fn"),
    *("checkpoints#lower_is_better", "tracker#experiment"),
    # a network for volumes, and its loss: docs/concepts/exact-volumes.md
    *("network_def#features", "network_def#out_channels", "network_def#dropout", "geometry"),
    *("network_def#kernel_size", "network_def#strides", "network_def#norm", "loss#loss#_target_"),
}


def differing(one: Any, other: Any, allowed: set[str], place: str = "") -> set[str]:
    if place in allowed or not (isinstance(one, dict) and isinstance(other, dict)):
        return {place} if one != other else set()
    both = one.keys() | other.keys()
    names = {name: f"{place}#{name}" if place else name for name in both}
    return set().union(
        *(differing(one.get(n, ...), other.get(n, ...), allowed, at) for n, at in names.items())
    )


@pytest.mark.parametrize(
    ("bundle", "different"), [("touching_cells", MEMBRANES), ("organs", ORGANS)]
)
def test_they_differ_in_these_keys_alone(bundle: str, different: set[str]) -> None:
    files = [BUNDLES / name / "configs" / "train.json" for name in ("em_membranes", bundle)]
    one, other = (json.loads(file.read_text()) for file in files)
    assert differing(one, other, different) == different
    shared = [name for name in one if name in other]
    assert shared == [name for name in other if name in one], "the same order, to compare by eye"


def test_monais_format_cannot_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why they are written twice; once this fails, they can be one file."""
    (tmp_path / "common.json").write_text(json.dumps({"train": {"trainer": {"epochs": 1}}}))
    shared = {"train": "%common.json::train"}
    with pytest.raises(FileNotFoundError):  # found from the folder of common.json alone
        ConfigParser(dict(shared)).get_parsed_content("train")
    monkeypatch.chdir(tmp_path)
    parser = ConfigParser(dict(shared))
    with pytest.raises(ValueError, match="must be dict or list"):  # --train#trainer#epochs 2
        parser["train#trainer#epochs"] = 2
