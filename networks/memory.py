"""Predict the memory of a forward pass without running it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ASSUMED = 1024  # bytes a pixel; the paper's network takes about 620


def peak_bytes(
    network: Callable[..., Tensor],
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Largest sum of live activations, input included, of a forward pass on an input of ``shape``.

    The pass runs on PyTorch's ``meta`` device: shapes are computed, numbers are not, so the
    answer takes milliseconds whatever the size. Weights are not counted. Scripted networks and
    functions around a network cannot run there; for them 1 KiB a pixel is assumed, more than the
    paper's network needs.
    """
    try:
        with torch.no_grad(), _LiveBytes() as live:
            image = torch.empty(tuple(shape), device="meta", dtype=dtype)
            live.reset(image)
            if isinstance(network, nn.Module):
                functional_call(network, _on_meta(network, live), (image, *args), kwargs)
            else:
                network(image, *args, **kwargs)
        return int(live.peak)
    except (RuntimeError, NotImplementedError, TypeError):
        return _ASSUMED * math.prod((shape[0], *shape[2:]))


def _on_meta(network: nn.Module, live: _LiveBytes) -> dict[str, Tensor]:
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = live.now
    weights = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    live.now = live.peak = before
    return weights


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations allocate and Python has not freed yet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def reset(self, *kept: Tensor) -> None:
        """Start again, counting from the tensors given."""
        self.now = self.peak = sum(tensor.untyped_storage().nbytes() for tensor in kept)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, size: int) -> None:
        self.now -= size
