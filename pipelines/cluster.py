"""Run tasks on an existing Dask cluster (dask.distributed)."""

from __future__ import annotations
