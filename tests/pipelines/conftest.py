"""What tests of the pipelines share."""

from __future__ import annotations

import pytest

from overtile.pipelines.segment import plan


@pytest.fixture(autouse=True)
def _as_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmentation plans beside what its process takes: here also what other tests have left."""
    really = plan._resident
    monkeypatch.setattr(plan, "_resident", lambda: min(really(), 2**29))
