"""From probabilities to the class of every pixel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray
from torch import Tensor

from overtile.networks.errors import ClassesError
from overtile.transforms.metadata import as_array, current, like


class ClassesFromProbabilities(Transform):
    """The most probable class of every pixel; of equally probable ones the one of lowest number.

    Example:
        >>> ClassesFromProbabilities()(np.array([[[0.2, 0.5]], [[0.8, 0.5]]])).tolist()
        [[[1, 0]]]
    """

    def __call__(self, probabilities: NDArray[Any] | Tensor) -> NDArray[np.int32] | Tensor:
        """Probabilities or logits ``[K, *S]``, K >= 2 -> classes ``[1, *S]`` int32, 0 .. K-1.

        Raises:
            ClassesError: for one channel alone.
        """
        probabilities = current(probabilities)
        plain = as_array(probabilities)
        if len(plain) < 2:
            raise ClassesError(f"probabilities of {len(plain)} class", "2 or more")
        found: NDArray[np.int32] | Tensor
        found = like(plain.argmax(0).astype(np.int32)[None], probabilities)
        return found


class ClassesFromProbabilitiesd(MapTransform):
    """`ClassesFromProbabilities` for dictionaries.

    Args:
        keys: of probabilities.
        output_key: where the classes go; one for all keys (with one key), or None for the keys
            themselves.
        allow_missing_keys: leave out keys that an item does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_key: str | None = "classes",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_key, self.classes = output_key, ClassesFromProbabilities()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the classes of every key."""
        result = dict(data)
        for key in self.key_iterator(data):
            result[self.output_key or key] = self.classes(data[key])
        return result


ClassesFromProbabilitiesD = ClassesFromProbabilitiesDict = ClassesFromProbabilitiesd
