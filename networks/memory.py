"""Predict the memory and the work of a forward pass, and keep the prediction true."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ASSUMED = 1024  # bytes a pixel; the paper's network takes about 620
_LARGE = 32 * 1024**2  # glibc maps blocks from here on anew each time; also a common cache size
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # numbers of mallopt's parameters, malloc.h
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

if _HUGE_PAGES.exists() and "[never]" not in _HUGE_PAGES.read_text():
    # PyTorch then asks for pages of 2 MiB: new memory costs a tenth of what 4 KiB pages cost.
    # It looks when it first allocates; importing PyTorch and MONAI does not allocate.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class PassCost(NamedTuple):
    """What a forward pass takes.

    Attributes:
        peak: bytes of live activations at most, input included.
        operations: floating-point operations of convolutions and matrix products.
        large: bytes of all blocks of 32 MiB or more that it allocates. These fit into no
            cache, and their memory is new each time.
    """

    peak: int
    operations: int
    large: int


_known: weakref.WeakKeyDictionary[Any, dict[Any, PassCost]] = weakref.WeakKeyDictionary()


def peak_bytes(
    network: Callable[..., Tensor],
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Largest sum of live activations, input included, of a forward pass on an input of ``shape``.

    Shapes are computed, numbers are not, so the answer takes milliseconds whatever the size.
    Weights are not counted. Under `torch.autocast` activations have its type, and its copies of
    the weights are counted. Scripted networks and functions around a network cannot run so; for
    them 1 KiB a pixel is assumed, more than the paper's network needs.
    """
    return pass_cost(network, shape, dtype, *args, **kwargs).peak


def pass_cost(
    network: Callable[..., Tensor],
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *args: Any,
    **kwargs: Any,
) -> PassCost:
    """Memory and work of a forward pass; arguments as of `peak_bytes`.

    Asking again about the same network costs nothing.
    """
    network = getattr(network, "_orig_mod", network)  # inside of torch.compile's wrapper
    if args or kwargs or not isinstance(network, nn.Module):
        return _pass_cost(network, shape, dtype, *args, **kwargs)
    device = _device_of(network)
    half = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    weights = {value.dtype for value in network.parameters()}
    key = (tuple(shape), dtype, device, half, frozenset(weights), network.training)
    known = _known.setdefault(network, {})
    if key not in known:
        known[key] = _pass_cost(network, shape, dtype)
    return known[key]


def _pass_cost(
    network: Callable[..., Tensor],
    shape: Sequence[int],
    dtype: torch.dtype,
    *args: Any,
    **kwargs: Any,
) -> PassCost:
    device = _device_of(network).type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    try:
        # inference mode would hide what composite operations allocate
        with torch.inference_mode(False), torch.no_grad(), _LiveBytes() as live:
            image = torch.empty(tuple(shape), device="meta", dtype=half or dtype)
            live.reset(image)
            if isinstance(network, nn.Module):
                functional_call(network, _on_meta(network, live, half), (image, *args), kwargs)
            else:
                network(image, *args, **kwargs)
        # autocast does not exist on this device, and keeps its copies of the weights on others
        copies = (
            sum(p.numel() for p in network.parameters()) if isinstance(network, nn.Module) else 0
        )
        extra = copies * half.itemsize if half else 0
        return PassCost(int(live.peak) + extra, live.operations, live.large)
    except (RuntimeError, NotImplementedError, TypeError):
        pixels = math.prod((shape[0], *shape[2:]))
        return PassCost(_ASSUMED * pixels, pixels, 0)


@contextmanager
def exact_memory(peak: int) -> Iterator[None]:
    """Within, blocks that matter to a peak of so many bytes go back to the kernel when freed.

    Blocks below 32 MiB otherwise come from glibc's heap, and the holes between them make a pass
    take up to twice its live bytes. Without glibc nothing happens.
    """
    mallopt = _mallopt()
    threshold = min(peak // 64, _LARGE)
    if mallopt is None or threshold < 1024**2:
        yield
        return
    mallopt(_MMAP_THRESHOLD, threshold)
    try:
        yield
    finally:  # what glibc itself comes to when blocks of 32 MiB are freed
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGE)


def _mallopt() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return function


def _device_of(network: Any) -> torch.device:
    if isinstance(network, nn.Module):
        for weight in network.parameters():
            return weight.device
    return torch.device("cpu")


def _on_meta(network: nn.Module, live: _LiveBytes, half: torch.dtype | None) -> dict[str, Tensor]:
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = live.now
    weights = {
        name: torch.empty_like(
            value, device="meta", dtype=half if value.is_floating_point() else None
        )
        for name, value in state.items()
    }
    live.now = live.peak = before
    return weights


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations allocate and Python has not freed yet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = self.large = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def reset(self, *kept: Tensor) -> None:
        """Start again, counting from the tensors given."""
        self.now = self.peak = sum(tensor.untyped_storage().nbytes() for tensor in kept)
        self.operations = self.large = 0

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
                self.large += storage.nbytes() if storage.nbytes() >= _LARGE else 0
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=result)
        return result

    def _free(self, size: int) -> None:
        self.now -= size
