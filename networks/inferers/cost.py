"""Predict the memory and the work of a forward pass, and keep the prediction true."""

from __future__ import annotations

import copy
import ctypes
import math
import os
import random
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ASSUMED = 1024  # bytes a pixel; the paper's network takes about 620
_LARGE = 32 * 1024**2  # glibc maps blocks from here on anew each time; also a common cache size
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # numbers of mallopt's parameters, malloc.h
_HOOKS = {name for name in vars(nn.Module()) if name.endswith("_hooks")}
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

    Shapes are computed, numbers are not, so the answer takes milliseconds whatever the size. What
    runs is a copy of the network without numbers and without its hooks; the network itself and the
    arguments stay as they are. Weights are not counted. Under `torch.autocast` activations have
    its type, and its copies of the weights are counted. Scripted networks, functions around a
    network and networks that cannot be copied, or that look at numbers, cannot run so; for them
    1 KiB a pixel is assumed, more than the paper's network needs.

    Raises:
        ValueError: that the network raises itself, for an input that it does not take.
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
    network = _unwrapped(network)
    if args or kwargs or not isinstance(network, nn.Module):
        return _pass_cost(network, shape, dtype, *args, **kwargs)
    device = _device_of(network)
    half = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    # what a network is may change after it has been asked about: a head, a type, a mode
    weights = tuple((p.dtype, None if is_lazy(p) else p.shape) for p in network.parameters())
    training = tuple(module.training for module in network.modules())
    key = (tuple(shape), dtype, device, half, weights, training)
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
    for shared in (False, True):
        copies = _MetaCopies(network, half, shared)
        # inference mode would hide what composite operations allocate
        modes = torch.inference_mode(False), torch.no_grad()
        with _same_random_numbers(), modes[0], modes[1], _LiveBytes() as live:
            copied = _on_meta(network, copies, args, kwargs)
            if copied is None:
                break
            image = torch.empty(tuple(shape), device="meta", dtype=half or dtype)
            live.reset(image)
            try:
                copied[0](image, *copied[1], **copied[2])
            except ValueError:  # the network refuses the input, in words of its own
                raise
            except Exception:  # whatever comes of there being no numbers
                if copies.plain:
                    continue
                break
        # autocast does not exist on this device, and keeps its copies of the weights on others
        own = network.parameters() if isinstance(network, nn.Module) else ()
        extra = sum(p.numel() for p in own) * half.itemsize if half else 0
        return PassCost(int(live.peak) + extra, live.operations, live.large)
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
            if not weight.is_meta:  # which has no autocast
                return weight.device
    return torch.device("cpu")


def _unwrapped(network: Any) -> Any:
    """The network inside of the wrappers of torch.compile and of data parallelism."""
    while isinstance(network, nn.Module):
        if isinstance(network, (DataParallel, DistributedDataParallel)):
            network = network.module
        elif "_orig_mod" in network._modules:
            network = network._modules["_orig_mod"]
        else:
            break
    return network


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Within, drawing random numbers does not change those that come afterwards."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _on_meta(network: Any, copies: _MetaCopies, *arguments: Any) -> tuple[Any, ...] | None:
    """A network and arguments to it, copied with their tensors on the meta device.

    So running it changes no weight, statistic or counter of the network itself, however often
    something is shared or tied. A function is not copied.

    Returns:
        None where no such copy can be made.
    """
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        return None  # it would copy its weights with their numbers
    memo: dict[int, Any] = {} if modules else {id(network): network}
    for module in modules:
        # Hooks note what passes, or are bound to whole programs: they are not for shapes alone,
        # and their owners not to be copied.
        for name in _HOOKS & vars(module).keys():
            memo[id(vars(module)[name])] = OrderedDict()
    try:
        with copies:
            for module in reversed(modules):  # wrappers inside of wrappers first
                if (inner := _unwrapped(module)) is not module:
                    memo[id(module)] = copy.deepcopy(inner, memo)
            copied = copy.deepcopy((network, *arguments), memo)
        # a module may say what its copy is, itself for one
        weights = (*copied[0].parameters(), *copied[0].buffers()) if modules else ()
        return copied if all(weight.is_meta for weight in weights) else None
    except Exception:  # of whatever a module holds
        return None


class _MetaCopies(TorchFunctionMode):
    """Within, a copy of a tensor has its shape and strides, on the meta device, and no numbers.

    With ``shared``, a tensor that is neither parameter nor buffer is its own copy, for networks
    that look one up in a table. `_LiveBytes` sees to it that nobody writes into it.

    Attributes:
        plain: whether there were such tensors.
    """

    def __init__(self, network: Any, half: torch.dtype | None, shared: bool) -> None:
        super().__init__()
        self.half, self.shared, self.plain = half, shared, False
        buffers = network.buffers() if isinstance(network, nn.Module) else ()
        self.buffers = {id(buffer) for buffer in buffers}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in (Tensor.__deepcopy__, Tensor.clone):  # a parameter's copy is a clone
            return func(*args, **(kwargs or {}))
        tensor: Tensor = args[0]
        if func is Tensor.__deepcopy__ and id(tensor) not in self.buffers:
            self.plain = True
            if self.shared:
                return tensor
        dtype = self.half if tensor.is_floating_point() else None
        return torch.empty_like(tensor, device="meta", dtype=dtype)


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
        kwargs = kwargs or {}
        given = {tensor.untyped_storage() for tensor in _tensors((args, kwargs))}
        self._refuse_to_change(given.difference(self._seen), func, args, kwargs)
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage not in self._seen and storage not in given:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.large += storage.nbytes() if storage.nbytes() >= _LARGE else 0
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += count(*args, **kwargs, out_val=result)
        return result

    def _refuse_to_change(
        self,
        foreign: set[torch.UntypedStorage],
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Raise if an operation would write into what it has not been made in here.

        A function around a network reaches the network itself, not a copy of it.
        """
        if not foreign:
            return
        for i, argument in enumerate(func._schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            # batch normalisation does not declare that it writes its statistics
            writes = argument.is_write or argument.name.startswith("running_")
            written = _tensors(value) if writes else []
            if any(tensor.untyped_storage() in foreign for tensor in written):
                raise RuntimeError(f"{func} would change a tensor of the network itself")

    def _free(self, size: int) -> None:
        self.now -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
