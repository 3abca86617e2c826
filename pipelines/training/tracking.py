"""One MLflow run for one training run, whatever happens to it."""

from __future__ import annotations

import logging
import math
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from filelock import FileLock
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, LifecycleStage, Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from torch.optim import Optimizer

from overtile.pipelines.bundle.checkpoints import steps_of
from overtile.pipelines.bundle.configuration import as_json, current_parser, resolved_values
from overtile.pipelines.data.find import DataSet
from overtile.pipelines.errors import Advice, ConfigurationError, Setting, printable, ran_out
from overtile.pipelines.reporting.figures import save
from overtile.pipelines.reporting.tables import FIGURES, HISTORY, append_epoch

log = logging.getLogger(__name__)

_PARAM_LENGTH = 6000  # MLflow's limits
_BATCH = 100
_DESCRIPTORS = 8  # kept for the end of a run that fails since there are no more
_NOT_ALLOWED = {"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"}  # its error codes
_NAME_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}


class RunTracker:
    """Record a training run in MLflow: what went in, how it went, what came out.

    As a MONAI handler of the trainer it logs the loss of every iteration, and per epoch the
    evaluator's metrics, the learning rate and the images per second. The epochs are also rows of
    ``history.csv`` in the run's folder, with the mean loss of each. Used as a context
    (`recording`) it opens the run and ends it as FINISHED, FAILED or KILLED.

    Args:
        experiment: MLflow's name for the series of runs.
        output_dir: folder of the run; the default store is ``mlflow.db`` beside it.
        data: recorded with its name, sizes and digest.
        optimizer: whose learning rate to log.
        evaluator: whose metrics to log when it has validated.
        tracking_uri: of the store; the environment's ``MLFLOW_TRACKING_URI`` has precedence.
        bundle_root: folder whose ``configs/`` are kept with the run.
    """

    def __init__(
        self,
        experiment: str,
        output_dir: str | Path,
        data: DataSet,
        optimizer: Optimizer,
        evaluator: Engine | None = None,
        tracking_uri: str | None = None,
        bundle_root: str | Path | None = None,
    ) -> None:
        self.experiment, self.output_dir = experiment, Path(output_dir)
        self.data, self.optimizer, self.evaluator = data, optimizer, evaluator
        self.bundle_root = bundle_root
        self._store = self.output_dir.resolve().parent
        self.uri = store_of(self.output_dir, tracking_uri)
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._metrics: list[Metric] = []
        self._losses: list[float] = []
        self._parser = current_parser()

    @property
    def client(self) -> MlflowClient:
        """The connection to the store, made when it is first needed."""
        if self._client is None:
            # what it logs as an error, with a traceback, it raises too
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            self._client = MlflowClient(self.uri)
        return self._client

    @contextmanager
    def recording(self, run_id: str | None = None) -> Iterator[str]:
        """Open a new run, or go on with ``run_id``, and end it with what became of it.

        Raises:
            ConfigurationError: if the store cannot be used, or the experiment was deleted.
        """
        known = run_id is not None and self._is_known(run_id)
        self.run_id = run_id if run_id is not None and known else self._create_run()
        status = "FAILED"
        kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(_DESCRIPTORS)]
        try:
            if known:
                self.client.update_run(self.run_id, status="RUNNING")
                self._log_config(self.run_id, f"config/resumed-{time.strftime('%Y%m%d-%H%M%S')}")
            else:
                self._log_inputs(self.run_id)
            yield self.run_id
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            self._metrics = []  # of an epoch that will be run again on resuming
            raise
        finally:
            with _undisturbed():
                for descriptor in kept:
                    os.close(descriptor)
                self._end(self.run_id, status)

    def _end(self, run_id: str, status: str) -> None:
        try:
            self._flush()
            self.client.set_terminated(run_id, status)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if status == "FINISHED":
                raise
            # the store may lack what the run did, which is what there is to tell
            said = str(error).partition("\n")[0]
            log.warning(
                "run %s: %s does not know that it %s (%s)",
                self.run_id,
                self.uri,
                status.lower(),
                said,
            )

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``, the trainer; attach behind the validation."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._losses.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._log_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each of the named curves; none for NaN, which is no score."""
        now = int(time.time() * 1000)
        points = {name: float(v) for name, v in values.items()}
        self._metrics += [
            Metric(name, v, now, step) for name, v in points.items() if not math.isnan(v)
        ]

    def log_figure(self, figure: Figure, name: str) -> Path:
        """Keep a picture with the run and under ``figures/`` in its folder."""
        path = self.output_dir / FIGURES / name
        save(figure, path, dpi=100)
        self.log_file(path, FIGURES)
        return path

    def log_file(self, path: Path, folder: str) -> None:
        """Keep a file with the run."""
        if self.run_id is not None:
            self.client.log_artifact(self.run_id, str(path), folder)

    def _is_known(self, run_id: str) -> bool:
        """Whether it is in the experiment, and was not deleted."""
        try:
            with self._setting_up():
                info = self.client.get_run(run_id).info
                name = self.client.get_experiment(info.experiment_id).name
        except (MlflowException, SQLAlchemyError):
            found = f"{self.uri} does not know it"
        else:
            if name == self.experiment and info.lifecycle_stage == LifecycleStage.ACTIVE:
                return True
            active = info.lifecycle_stage == LifecycleStage.ACTIVE
            found = f"it belongs to experiment {name}" if active else "it was deleted"
        log.warning("run %s: %s; starting another one", run_id, found)
        return False

    def reach(self) -> str:
        """The number of the experiment in the store, made if need be.

        Raises:
            ConfigurationError: if the store cannot be reached.
        """
        try:
            with self._setting_up():
                _check_writable(self.uri)
                return self._find_experiment()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise self._refused(error) from error

    def _create_run(self) -> str:
        name = f"{printable(self.data.name)}-{time.strftime('%Y%m%d-%H%M%S')}"
        experiment = self.reach()
        try:
            run_id: str = self.client.create_run(experiment, run_name=name).info.run_id
        except (MlflowException, SQLAlchemyError) as error:
            raise self._refused(error) from error
        return run_id

    def _refused(self, error: MlflowException | SQLAlchemyError | OSError) -> ConfigurationError:
        code = getattr(error, "error_code", "")
        said = error.message if isinstance(error, MlflowException) else str(error).split("\n")[0]
        where = f"MLflow store {self.uri}"
        if (lacking := ran_out(error)) is not None:
            return ConfigurationError(where, lacking.found, hint=lacking.hint)
        hint: tuple[Advice, ...]
        if code in _NOT_ALLOWED:
            hint = (
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
                "set MLFLOW_TRACKING_TOKEN",
            )
        elif code in _NAME_REFUSED:
            hint = (Setting("tracker#experiment", "NAME"),)
        elif self.uri.startswith("sqlite:"):
            hint = (
                "move that file away",
                Setting("tracking_uri", "URI", "for another store"),
            )
        else:
            hint = (
                "start that server",
                "unset MLFLOW_TRACKING_URI and tracking_uri for a local store",
            )
        return ConfigurationError(where, said, hint=hint)

    def _find_experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            if found.lifecycle_stage != LifecycleStage.ACTIVE:
                raise ConfigurationError(
                    f"MLflow store {self.uri}",
                    f"experiment {self.experiment} was deleted",
                    hint=(
                        "restore it: MLFLOW_TRACKING_URI="
                        f"{self.uri} mlflow experiments restore -x {found.experiment_id}",
                        Setting("tracker#experiment", "NAME", "for another one"),
                    ),
                )
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:")
        location = (self._store / "mlflow-artifacts").as_uri() if local else None
        # the page then opens on runs and curves, not on traces of language models
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(self.experiment, location, kind))

    @contextmanager
    def _setting_up(self) -> Iterator[None]:
        """One process at a time: two that create the tables of a new store break each other."""
        self._store.mkdir(parents=True, exist_ok=True)
        with FileLock(self._store / ".mlflow.lock"):
            yield

    def _log_config(self, run_id: str, name: str) -> None:
        if self._parser is not None:
            self.client.log_text(run_id, as_json(self._parser), f"{name}.json")

    def _log_inputs(self, run_id: str) -> None:
        digest = self.data.digest()
        params = {
            "data/name": self.data.name,
            "data/layout": self.data.layout,
            "data/digest": digest,
            **{
                f"data/{s}_images": str(len(getattr(self.data, s)))
                for s in ("train", "val", "test")
            },
        }
        if self._parser is not None:
            params.update(resolved_values(self._parser))
            self._log_config(run_id, "config/merged")
        entries = [Param(name, printable(v)[:_PARAM_LENGTH]) for name, v in params.items()]
        for first in range(0, len(entries), _BATCH):
            self.client.log_batch(run_id, params=entries[first : first + _BATCH])
        configs = Path(self.bundle_root or "") / "configs"
        if self.bundle_root is not None and configs.is_dir():
            self.client.log_artifacts(run_id, str(configs), "config/bundle")
        for name, value in code_version().items():
            self.client.set_tag(run_id, name, value)
        self.client.log_text(run_id, installed_packages(), "environment.txt")
        name, root = printable(self.data.name), printable(self.data.root)
        source = Dataset(name, digest[:32], "local", root)
        self.client.log_inputs(run_id, [DatasetInput(source, [])])

    def _log_iteration(self, engine: Any) -> None:
        output = engine.state.output
        first = output[0] if isinstance(output, list) else output
        values = {"train_loss": float(first["loss"].detach())}
        if hasattr(engine.state, "gradient_norm"):
            values["gradient_norm"] = engine.state.gradient_norm
        self._losses.append(values["train_loss"])
        self.log_metrics(values, steps_of(engine))

    def _log_epoch(self, engine: Any) -> None:
        images = engine.state.epoch_length * (engine.data_loader.batch_size or 1)
        seconds = engine.state.times["EPOCH_COMPLETED"]  # of the iterations, without validation
        values = {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images / max(seconds, 1e-9),
        }
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            values.update({f"val_{k}": v for k, v in self.evaluator.state.metrics.items()})
        self.log_metrics(values, engine.state.epoch)
        loss = sum(self._losses) / max(len(self._losses), 1)
        row = {"epoch": engine.state.epoch, "iteration": steps_of(engine), "train_loss": loss}
        append_epoch({**row, **values}, self.output_dir / HISTORY)
        self._flush()

    def _flush(self) -> None:
        metrics, self._metrics = self._metrics, []
        for first in range(0, len(metrics), 10 * _BATCH):
            if self.run_id is not None:
                self.client.log_batch(self.run_id, metrics=metrics[first : first + 10 * _BATCH])


def store_of(output_dir: Path, tracking_uri: str | None = None) -> str:
    """Address of the MLflow store for the run in a folder."""
    own = f"sqlite:///{output_dir.resolve().parent / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri or own


def _check_writable(uri: str) -> None:
    """Refuse a file that SQLite could not write, which MLflow would try for long, and not say why.

    Raises:
        ConfigurationError: naming what cannot be written.
    """
    if not uri.startswith("sqlite:///"):
        return
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    for place in (file.parent, file):  # a journal lies beside the file
        if not os.access(place, os.W_OK) and (place.exists() or place != file):
            found = "cannot be written" if place.exists() else "there is no such folder"
            another = Setting("tracking_uri", "URI", "for another store")
            raise ConfigurationError(f"MLflow store {uri}", (place, found), hint=another)


def end_abandoned(output_dir: Path, status: str, tracking_uri: str | None = None) -> None:
    """End the run of a folder whose process is gone and could not do so itself.

    Args:
        output_dir: folder of the run, as the run was given it.
        status: ``"KILLED"`` or ``"FAILED"``.
        tracking_uri: as of `RunTracker`.
    """
    uri = store_of(output_dir, tracking_uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return
    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'"):
        if run.data.params.get("output_dir") == str(output_dir):
            client.set_terminated(run.info.run_id, status)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let an impatient second Ctrl-C wait until the run is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def code_version() -> dict[str, str]:
    """Git commit of the installed code (``unknown`` outside of a checkout) and main versions."""
    folder = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") or "unknown"
    dirty = "yes" if commit != "unknown" and git("status", "--porcelain") else "no"
    wanted = ("overtile", "torch", "monai", "pytorch-ignite", "mlflow", "numpy")
    versions = {d.name: d.version for d in distributions() if d.name in wanted}
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": "overtile",
        "mlflow.source.type": "LOCAL",
        "git.uncommitted_changes": dirty,
        "python": platform.python_version(),
        **{f"version.{name}": version for name, version in versions.items()},
    }


def installed_packages() -> str:
    """``name==version`` of every installed package, a line each."""
    return "\n".join(sorted({f"{d.name}=={d.version}" for d in distributions()}))
