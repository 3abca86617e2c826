"""Training tiles that repeat to the bit, whatever the workers and the resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import Sampler

from overtile.pipelines.data.cache import CachedDataset
from overtile.pipelines.errors import ConfigurationError


class TileDataset(CachedDataset):
    """Training tiles drawn from a set of images.

    Sample number n is drawn with random numbers that depend on (seed, n) alone: not on the
    number of workers, nor on what was drawn before. So a run repeats, and a resumed run goes on
    with the samples that it would have seen.

    Args:
        data: as of `CachedDataset`.
        transform: as of `CachedDataset`.
        samples: tiles an epoch; default: one an image.
        seed: of the draws.
        memory_limit: as of `CachedDataset`.
        cache_dir: as of `CachedDataset`.

    Raises:
        ConfigurationError: for ``samples`` below 1.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        samples: int | None = None,
        seed: int = 0,
        memory_limit: int = 4 * 2**30,
        cache_dir: str | Path | None = None,
    ) -> None:
        if samples is not None and samples < 1:
            raise ConfigurationError("samples", str(samples), "at least 1 tile an epoch")
        super().__init__(data, transform, memory_limit, cache_dir)
        self.samples, self.seed = samples, seed

    @property
    def image_sizes(self) -> list[tuple[int, ...]]:
        """Size ``S`` of every image."""
        return [tuple(item["image"].shape[1:]) for item in self._items]

    @property
    def epoch_length(self) -> int:
        """Tiles an epoch."""
        return self.samples or len(self)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        """Sample number ``index``, counted over all epochs: each image in turn, in random order."""
        self.transform.set_random_state(state=np.random.RandomState([self.seed, 2, index]))
        return self._transform(self._image_of(index))

    def source_image(self, index: int) -> Tensor:
        """The normalised image ``[C, *S]`` that sample number ``index`` is cut from."""
        image: Tensor = self._items[self._image_of(index)]["image"]
        return image

    def _image_of(self, index: int) -> int:
        turn, place = divmod(index, len(self))
        return int(np.random.RandomState([self.seed, 1, turn]).permutation(len(self))[place])


class EpochSampler(Sampler[int]):
    """Sample numbers of one epoch after the other; MONAI handler that follows the trainer.

    Args:
        dataset: whose samples to number.
    """

    def __init__(self, dataset: TileDataset) -> None:
        self.dataset, self.epoch = dataset, 1
        self.done = {"epochs": 0, "samples": 0}  # epochs may have had another length

    def __len__(self) -> int:
        return self.dataset.epoch_length

    def __iter__(self) -> Iterator[int]:
        first = self._first()
        return iter(range(first, first + len(self)))

    def state_dict(self) -> dict[str, int]:
        """How many epochs are done, and the samples that they took."""
        return dict(self.done)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind these."""
        self.done = dict(state)

    def attach(self, engine: Engine) -> None:
        """Follow the epochs of ``engine``, also when it resumes."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.epoch = engine.state.epoch

    def _finish(self, engine: Engine) -> None:
        self.done = {"epochs": self.epoch, "samples": self._first() + len(self)}

    def _first(self) -> int:
        return self.done["samples"] + (self.epoch - self.done["epochs"] - 1) * len(self)
