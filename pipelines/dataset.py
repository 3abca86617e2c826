"""Training samples that are a pure function of (seed, sample number)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import CacheDataset
from torch import Tensor
from torch.utils.data import Sampler


class TileDataset(CacheDataset):
    """Training tiles drawn from a set of images, which are read and normalised once.

    What precedes the first random transform is cached in memory. Sample number n is drawn with
    random numbers that depend on (seed, n) alone: not on the number of workers, nor on what was
    drawn before. So a run repeats, and a resumed run goes on with the samples that it would have
    seen.

    Args:
        data: items for ``transform``.
        transform: a MONAI ``Compose``; deterministic steps first.
        samples: tiles an epoch; default: one an image.
        seed: of the draws.
        cache_rate: share of the images to keep in memory.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable[..., Any],
        samples: int | None = None,
        seed: int = 0,
        cache_rate: float = 1.0,
    ) -> None:
        super().__init__(
            data, transform, cache_rate=cache_rate, num_workers=1, progress=False, copy_cache=False
        )
        self.samples, self.seed = samples, seed

    @property
    def epoch_length(self) -> int:
        """Tiles an epoch."""
        return self.samples or len(self)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        """Sample number ``index``, counted over all epochs: each image in turn, in random order."""
        self.transform.set_random_state(state=np.random.RandomState([self.seed, 2, index]))
        return self._transform(self._image_of(index))

    def source_image(self, index: int) -> Tensor:
        """The cached image ``[C, *S]`` that sample number ``index`` is cut from."""
        image: Tensor = self._load_cache_item(self._image_of(index))["image"]
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

    def __len__(self) -> int:
        return self.dataset.epoch_length

    def __iter__(self) -> Iterator[int]:
        first = (self.epoch - 1) * len(self)
        return iter(range(first, first + len(self)))

    def attach(self, engine: Engine) -> None:
        """Follow the epochs of ``engine``, also when it resumes."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        self.epoch = engine.state.epoch
