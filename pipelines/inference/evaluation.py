"""Score a trained network on labelled images: the bundles' ``evaluation``."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler
from numpy.typing import NDArray

from overtile.networks import SpacingInferer
from overtile.pipelines.errors import ConfigurationError, printable
from overtile.pipelines.inference.folder import make_ready
from overtile.pipelines.metrics.score_names import name_of
from overtile.pipelines.metrics.sections import sections_first
from overtile.pipelines.notices import kept_warnings, print_warnings
from overtile.pipelines.reporting import figures
from overtile.pipelines.reporting.grid import grid_of
from overtile.pipelines.reporting.predictions import Layers, layers_of, load, store
from overtile.pipelines.reporting.report import VIEWED, write_report
from overtile.pipelines.reporting.summary import print_scores
from overtile.pipelines.reporting.tables import (
    FIGURES,
    PREDICTIONS,
    REPORT,
    ROWS,
    prediction_file,
    read_scored,
    results_of,
    write_scored,
)

log = logging.getLogger(__name__)


def run_evaluation(
    evaluator: SupervisedEvaluator,
    checkpoint: str | Path,
    metrics: Mapping[str, IgniteMetricHandler],
    output_dir: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Segment every labelled image, print the scores, and write them.

    ``evaluation.csv`` has a row an image, with nothing where a score is not defined (SEG without
    reference objects); ``evaluation.json`` has the scores of the whole set. ``report.html`` shows
    both with the images, and ``figures/cases.png`` the best, the median and the worst of them.

    Args:
        evaluator: with network, inferer, loader, postprocessing and ``metrics``.
        checkpoint: weights of the network.
        metrics: the evaluator's, by name.
        output_dir: for these files.
        settings: as of `overtile.pipelines.inference.folder.run_inference`.

    Returns:
        What is in ``evaluation.json``.

    Raises:
        ConfigurationError: as `overtile.pipelines.inference.folder.run_inference`.
    """
    make_ready(evaluator, checkpoint, settings or {})
    without_reference_no_score(evaluator, metrics)
    folder = Path(output_dir)
    inferer = evaluator.inferer
    inferer = inferer.inferer if isinstance(inferer, SpacingInferer) else inferer
    versions = getattr(inferer, "versions", 1)  # of RotationAveragingInferer
    told: dict[str, Any] = {"network": str(checkpoint), "versions": versions}
    names = (settings or {}).get("class_names")
    with results_of(folder) as results:
        result = score(evaluator, metrics, results, told, names)
        draw_cases(results)
        write_report(results, name=folder.resolve().name)
    print_scores(result, more=[("averaged over", f"{versions} versions")] if versions > 1 else ())
    print(
        f"\n  {printable(folder / ROWS)}: image by image\n"
        f"  {printable(folder / REPORT)}: all of it to look at\n",
        flush=True,
    )
    print_warnings()
    return result


def score(
    evaluator: SupervisedEvaluator,
    metrics: Mapping[str, IgniteMetricHandler],
    folder: Path,
    told: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run the evaluator once over its loader, and write what a report is made of.

    ``evaluation.csv`` and ``evaluation.json`` as `run_evaluation` says, and the layers of the
    images that the report shows, as ``predictions/NUMBER.npz``, NUMBER being that of the image's
    row from 0. These are written image by image, none larger than `SIDE` pixels a side, nor than
    `VOXELS`; those that the report does not show are removed at the end.

    Args:
        evaluator: with network, inferer, loader, postprocessing and ``metrics``.
        metrics: the evaluator's, by name; only these have a column in the table.
        folder: that `overtile.pipelines.reporting.tables.results_of` made.
        told: further entries of ``evaluation.json``.
        class_names: of what the postprocessing calls ``classes``, from 0 on; None = numbers.

    Returns:
        What is in ``evaluation.json``.

    Raises:
        ConfigurationError: in one of several processes.
    """
    if (processes := idist.get_world_size()) > 1:
        raise ConfigurationError(
            found=f"{processes} processes", expected=f"one, which writes {ROWS}"
        )
    (folder / PREDICTIONS).mkdir()
    rows: list[dict[str, Any]] = []
    metas: list[Mapping[str, Any]] = []

    def note(engine: Any) -> None:
        for image in engine.state.batch["image"]:
            told = getattr(image, "meta", {})
            name = told.get("filename_or_obj", f"image {len(rows) + 1}")
            rows.append({"image": printable(name)})
            metas.append(told)

    def keep(engine: Any) -> None:
        outputs = engine.state.output  # one an image; a loader's batch that is left whole is not
        if isinstance(outputs, list):
            for number, output in enumerate(outputs, len(rows) - len(outputs)):
                layers = _layers(rows[number]["image"], output, metas[number], class_names)
                store(layers, prediction_file(folder / PREDICTIONS, number))

    handles = [
        evaluator.add_event_handler(Events.ITERATION_STARTED, note),
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep),
    ]
    try:
        evaluator.run()
    finally:
        for handle in handles:
            handle.remove()
    for name, handler in metrics.items():
        values = _per_image(getattr(handler, "metric_fn", None))
        if len(values) == len(rows):  # what has no row an image has no column
            for row, value in zip(rows, values, strict=True):
                row[name] = "" if math.isnan(value) else value
    state = evaluator.state
    result = {
        "images": len(rows),
        **told,
        **({} if class_names is None else {"class_names": list(class_names)}),
        "scores": {name: _or_none(float(value)) for name, value in state.metrics.items()},
        "key_metric": state.key_metric_name,
        "lower_is_better": bool(evaluator.metric_cmp_fn(0.0, 1.0)),
    }
    undefined = [
        name_of(name, class_names or ())
        for name, value in result["scores"].items()
        if value is None
    ]
    if undefined:
        log.warning("no score: %s, since there was nothing to compare with", ", ".join(undefined))
    result["warnings"] = kept_warnings()
    write_scored(folder, rows, result)
    for number, _ in read_scored(folder).telling()[VIEWED:]:
        prediction_file(folder / PREDICTIONS, number).unlink(missing_ok=True)
    return result


def without_reference_no_score(
    evaluator: SupervisedEvaluator, metrics: Mapping[str, IgniteMetricHandler]
) -> None:
    """Make scores NaN that are of nothing: no label holds a cell, or no image has such a score.

    MONAI's metrics are 0 there, and errors of membranes perfect; neither may choose a network.

    Args:
        evaluator: that the metrics are attached to already.
        metrics: the evaluator's, by name.
    """
    cells = False

    def start(engine: Any) -> None:
        nonlocal cells
        cells = False

    def look(engine: Any) -> None:
        nonlocal cells
        outputs = engine.state.output
        found = [o.get("label") for o in (outputs if isinstance(outputs, list) else [outputs])]
        cells = cells or any(label is None or bool((label > 0).any()) for label in found)

    def correct(engine: Any) -> None:
        scores = engine.state.metrics
        cells_anywhere = bool(idist.all_reduce(int(cells)))
        for name in scores:
            metric = metrics[name].metric_fn if name in metrics else None
            each = [] if metric is None else _per_image(metric)
            if not cells_anywhere or (each and all(map(math.isnan, each))):
                scores[name] = math.nan

    evaluator.add_event_handler(Events.EPOCH_STARTED, start)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, look)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, correct)


def _or_none(value: float) -> float | None:
    """JSON has no NaN, and no infinite distance."""
    return value if math.isfinite(value) else None


def draw_cases(folder: Path) -> Path | None:
    """Write ``figures/cases.png`` of a scored folder: the best, the median and the worst image.

    Returns:
        The file; None, and no file, where no image with a score has its layers stored.
    """
    scored = read_scored(folder)
    cases = []
    for number, group in sorted(scored.telling()[:3], key=lambda c: _CASES.index(c[1])):
        path = prediction_file(folder / PREDICTIONS, number)
        if group and path.is_file():
            key = str(scored.key_metric)
            title = f"{group}: {name_of(key, scored.class_names)} {scored.rows[number][key]:.3f}"
            cases.append(figures.Case(title, load(path)))
    if not cases:
        return None
    path = folder / FIGURES / "cases.png"
    figures.save(figures.cases(cases), path, dpi=80)
    return path


_CASES = ("best", "median", "worst", "")


# key, channel that is shown, and of how many at most
_SHOWN = (("image", 0, 2**16), ("label", 0, 1), ("pred", -1, 2), ("instances", 0, 1))
_SHOWN_CLASSES = (("image", 0, 2**16), ("label", 0, 1), ("classes", 0, 1))


def _layers(
    name: str,
    output: Mapping[str, Any],
    meta: Mapping[str, Any],
    class_names: Sequence[str] | None,
) -> Layers:
    """What the postprocessing of one image gives, rows first, or the sections of a volume.

    These are ``image`` ``[C, *S]`` and, ``[1, *S]``, ``label`` with what was found: ``instances``,
    of which ``pred`` is the probability, or ``classes``.
    """
    arrays: dict[str, NDArray[Any] | None] = {}
    size = tuple(output["image"].shape[1:])
    # of a task of its own, with other outputs, there is less to see
    for key, channel, most in _SHOWN_CLASSES if "classes" in output else _SHOWN:
        found = output.get(key)
        shape = tuple(getattr(found, "shape", ()))
        fits = shape[1:] == size and shape[0] <= most
        array = torch.as_tensor(found)[channel].cpu().numpy() if fits else None
        arrays[key] = None if array is None else sections_first(array, meta.get("axes"))
    image = arrays["image"]
    assert image is not None  # every evaluator has it
    return layers_of(
        name,
        image,
        arrays["label"],
        arrays.get("pred"),
        arrays.get("instances"),
        arrays.get("classes"),
        class_names,
        grid_of(meta, image.ndim),
    )


def _per_image(metric: Any) -> list[float]:
    """Our metrics say what one image scores; MONAI's keep a row of values an image."""
    if hasattr(metric, "per_image"):
        values: list[float] = metric.per_image()
        return values
    buffer = metric.get_buffer() if hasattr(metric, "get_buffer") else None
    if not isinstance(buffer, torch.Tensor):
        return []
    numbers = buffer if buffer.is_floating_point() else buffer.float()
    return [float(v) for v in numbers.reshape(len(buffer), -1).nanmean(dim=1)]
