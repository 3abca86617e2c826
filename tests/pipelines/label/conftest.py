"""Images to annotate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import save

from overtile.pipelines.data.synthesis.datasets import generate


@pytest.fixture(scope="session")
def cells() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Generated images with their labels."""
    return list(generate("cells", {"train": 12}, (128, 128), 5)["train"])


@pytest.fixture(scope="session")
def studies_in(cells: Any) -> Callable[[Path], Path]:
    def make(folder: Path, count: int = 8) -> Path:
        folder.mkdir()
        for number, (image, _) in enumerate(cells[:count]):
            save(folder / f"{number:02d}.tif", image)
        return folder

    return make
