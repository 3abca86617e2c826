"""Images larger than memory.

python -m benchmarks.segment        what follows
python -m benchmarks.segment large  peak memory at 30,000 x 30,000 pixels with the shipped network:
                                    forty minutes, 8 GB of disk

Rate of ``overtile segment`` against segmenting the same image at once, peak memory at two sizes,
rate of one and two workers of a Dask cluster, and what a chunk costs; from the costs, how long
1, 10 and 100 workers take for a large slide. Needs the extra ``cluster``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import tifffile
import torch
import zarr

from benchmarks.experiments import chosen
from benchmarks.figure import Figure
from overtile.networks import ValidUNet
from overtile.pipelines.data.synthesis.cells import touching_cells
from overtile.pipelines.inference.trained import load_trained
from overtile.pipelines.segment.cluster import ClusterRunner, on_cluster
from overtile.pipelines.segment.local import LocalRunner
from overtile.pipelines.segment.plan import plan, state_of_source
from overtile.pipelines.segment.request import Request
from overtile.pipelines.segment.run import segment
from overtile.pipelines.segment.runner import windowed
from overtile.pipelines.segment.stages import Stages
from overtile.pipelines.segment.tasks import (
    finish_labels,
    label_cores,
    pieces,
    predict,
    read_window,
    write_probabilities,
)

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "touching_cells"
SIDE, CHUNK = 2048, 256
SLIDE, LARGE_CHUNK = 100_000, 1024
SHARED = 1e9  # bytes a second that a file server is taken to give to all workers together
SIZES, LARGE = (1024, 8192), 30_000  # of the images whose peak memory is measured
_WAITING = 6  # tasks that two workers have, as a segmentation gives them
_MEMORY = """
import sys
from pathlib import Path
from overtile.pipelines.cli.main import main
code = main(sys.argv[1:])
# not getrusage: its peak is that of the process that started this one, if that was larger
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
sys.exit(code)
"""


def image(side: int) -> Any:
    part = touching_cells(0, (512, 512))[0]
    count = -(-side // 512)
    return np.tile(part, (count, count))[:side, :side]


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def at_once(grey: Any) -> None:
    """What ``inference`` does between reading and writing."""
    trained = load_trained(BUNDLE, {})
    with contextlib.redirect_stderr(io.StringIO()):  # its bar
        trained.instances(np.asarray(trained.normalize(grey[None].astype(np.float32))))


def rate(folder: Path) -> Iterator[Figure]:
    source = folder / "image.tif"
    tifffile.imwrite(source, image(SIDE), tile=(256, 256), compression="zlib")
    segment(Request(source, folder / "warm.zarr", BUNDLE, show=False))
    whole = seconds(lambda: at_once(tifffile.imread(source)))
    ours = seconds(lambda: segment(Request(source, folder / "a.zarr", BUNDLE, show=False)))
    yield Figure(
        "segment against the image at once",
        whole / ours,
        0.8,
        "higher",
        f"{whole / ours:.2f} of its rate ({SIDE**2 / ours / 1e6:.2f} against "
        f"{SIDE**2 / whole / 1e6:.2f} megapixels a second)",
    )


def memory(folder: Path) -> Iterator[Figure]:
    """A small network: what grows with the image does not depend on it."""
    bundle = folder / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    config["network_def"].update(features=[4, 8], dropout=0.0)
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    torch.save(ValidUNet(features=(4, 8)).state_dict(), bundle / "models" / "model.pt")
    yield peak_memory(folder, bundle, SIZES, "-q", "--set", "threshold=0.5", "--set", "extent=0.4")


def peak_memory(folder: Path, bundle: Path, sizes: Sequence[int], *options: str) -> Figure:
    peaks = []
    for side in sizes:
        source = folder / f"{side}.zarr"  # of which nothing is kept decoded
        zarr.create_array(source, data=image(side), chunks=(512, 512))
        words = ["segment", str(source), str(folder / f"m{side}.zarr"), "--bundle", str(bundle)]
        code = [sys.executable, "-W", "ignore", "-c", _MEMORY, *words, *options]
        done = subprocess.run(code, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    parts = (f"{p / 2**30:.2f} GiB at {n}x{n} pixels" for p, n in zip(peaks, sizes, strict=True))
    return Figure("peak memory", max(peaks) / 2**30, 2, "lower", ", ".join(parts))


def workers(folder: Path) -> Iterator[Figure]:
    source, took = folder / "scaling.tif", {}
    tifffile.imwrite(source, image(SIDE), tile=(256, 256), compression="zlib")
    os.environ["OMP_NUM_THREADS"] = "1"
    overhead = 0.0
    for count in (1, 2):
        with distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster:
            for turn in range(2):  # the first one loads
                with on_cluster(cluster.scheduler_address, 60) as runner:
                    target = folder / f"{count}-{turn}.zarr"
                    request = Request(source, target, BUNDLE, chunk=CHUNK, show=False)
                    took[count] = seconds(partial(segment, request, runner))
                    if count == 2:
                        overhead = seconds(partial(empty_tasks, runner, 1000)) / 1000
    ratio = took[1] / took[2]
    yield Figure(
        "two workers against one",
        ratio,
        1.7,
        "higher",
        f"{ratio:.2f} times the rate ({took[1]:.1f} s and {took[2]:.1f} s, one thread each, for "
        f"{(SIDE // CHUNK) ** 2} chunks)",
    )
    yield from estimate(folder, overhead)


def empty_tasks(runner: ClusterRunner, count: int) -> None:
    """What the scheduler alone takes for so many tasks."""
    submit = partial(runner.client.submit, abs, pure=False)
    for _ in windowed(map(submit, range(count)), repeat(_WAITING)):
        pass


def estimate(folder: Path, overhead: float) -> Iterator[Figure]:
    """From what one chunk costs one thread, how long a slide takes many."""
    source = folder / "costs.zarr"
    zarr.create_array(source, data=image(4 * 512), chunks=(1024, 1024))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request = Request(source, folder / "costs.ome.zarr", BUNDLE, show=False)
    here, _ = plan(request, state_of_source(request))
    key = (0, 0, 0)
    with LocalRunner() as runner:
        stages = Stages(here, runner, False)
        stages.grey_values()
        stages.probabilities()  # all of them, so that a chunk has neighbours
        window = read_window(here, key)
        costs = {
            "read": seconds(lambda: read_window(here, key)),
            "network": seconds(lambda: predict(here, key, window)),
        }
        found = predict(here, key, window)
        costs["write"] = seconds(lambda: write_probabilities(here, key, found))
        stages.labels()
    for name, function, array in (
        ("cores", label_cores, "cores"),
        ("cells", finish_labels, "result/0"),
    ):
        (here.folder(array) / here.grid.name(key)).unlink()
        costs[name] = seconds(partial(function, here, key))
    costs["faces"] = seconds(lambda: pieces(here, key[1:], 0))
    stored = sum(
        (here.folder(a) / here.grid.name(key)).stat().st_size
        for a in ("probabilities", "cores", "result/0")
    )
    every = [pieces(here, index, 0) for index in here.stitching.chunks()]
    joined = seconds(lambda: here.stitching.join(every)) / len(every)
    here.close()
    torch.set_num_threads(threads)

    chunks = (SLIDE / LARGE_CHUNK) ** 2
    tasks = 5  # grey values, network, cores, faces, cells
    work = sum(costs.values()) + costs["read"]  # read twice
    # written once; probabilities and cores are read again, with the chunks around
    traffic = 2 * 2 * LARGE_CHUNK**2 + 3 * stored
    serial = joined + tasks * overhead
    limits = {
        "the scheduler and the joining": work / serial,
        f"a file server of {SHARED / 1e9:g} GB a second": work / (traffic / SHARED),
    }
    first = min(limits, key=lambda name: limits[name])
    parts = ", ".join(f"{name} {cost * 1e3:.0f} ms" for name, cost in costs.items())
    yield Figure("a chunk of 1024x1024 pixels, one thread", work, None, "lower", parts)
    for count in (1, 10, 100):
        hours = chunks * max(work / count, serial, traffic / SHARED) / 3600
        yield Figure(
            f"{SLIDE}x{SLIDE} pixels, {count} workers (estimate)",
            hours,
            None,
            "lower",
            f"{hours:.2f} hours; {first} would be busy to {100 * count / limits[first]:.0f} %",
        )
    yield Figure(
        "what saturates first (estimate)",
        limits[first],
        None,
        "higher",
        f"{first}, at {limits[first]:.0f} workers of one thread ({overhead * 1e3:.1f} ms a task, "
        f"{traffic / 1e6:.0f} MB and {work:.1f} s a chunk)",
    )


def figures() -> Iterator[Figure]:
    for part in (rate, memory, workers):
        with tempfile.TemporaryDirectory() as folder:
            yield from part(Path(folder))


def large() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(peak_memory(Path(folder), BUNDLE, [LARGE]))


def every() -> None:
    for figure in figures():
        print(figure, flush=True)


if __name__ == "__main__":
    chosen({"": every, "large": large}, __doc__)()
