"""Which channels of an image are read: one grey value a pixel, or several."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import ChannelError, DataError, Setting
from overtile.pipelines.images.stored import Stored
from overtile.pipelines.images.view import View

Channels = int | str | Sequence[int | str] | None
"""``"all"``, ``"luminance"``, one by number (from 0) or name, several; None for grey images."""
Chosen = int | str | tuple[int | str, ...] | None
"""The same, as `check_channels` gives it."""


def check_channels(channels: Channels) -> Chosen:
    """``channels``, if they can be.

    Raises:
        DataError: for what names none, and for one that is listed twice.
    """
    if channels is None or _names_one(channels):
        return channels  # type: ignore[return-value]
    if isinstance(channels, (list, tuple)) and channels and all(map(_names_one, channels)):
        twice = [one for one in channels if channels.count(one) > 1]
        if twice:
            found = f"{_listed(channels)}: {twice[0]!r} twice"
            raise DataError("channels", found, "every channel once", "leave one of them out")
        return tuple(channels)
    expected = "all, luminance, a number from 0, a name, or a list of numbers and names"
    raise DataError("channels", repr(channels), expected)


def takes_several(channels: Chosen) -> bool:
    """Whether images are read as ``[C, *S]``, be C 1."""
    return channels == "all" or isinstance(channels, tuple)


def _names_one(channel: object) -> bool:
    if isinstance(channel, str):
        return bool(channel.strip())
    return isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0


@dataclass(frozen=True)
class Taken:
    """Which channels of one image are read.

    Attributes:
        numbers: of them, in order; None: one grey value is made of all.
        several: whether they are an axis of what is read, be it of one.
        names: what they are called, where they were asked for by name or all taken; else none,
            and for an image that does not say.
        merged: how many, from the first on, that grey value is made of; opacity is left out.
    """

    numbers: tuple[int, ...] | None
    several: bool = False
    names: tuple[str, ...] = ()
    merged: int | None = None

    @property
    def count(self) -> int:
        """How many the network sees."""
        return 1 if self.numbers is None else len(self.numbers)

    @property
    def span(self) -> slice | int:
        """What to read along the axis of channels."""
        if self.numbers is None:
            return slice(self.merged)
        if not self.several:
            return self.numbers[0]
        return slice(min(self.numbers), max(self.numbers) + 1)

    def of_span(self, array: NDArray[Any]) -> NDArray[Any]:
        """The channels ``[..., C]`` in their order, of those that `span` gave."""
        assert self.numbers is not None
        places = [number - min(self.numbers) for number in self.numbers]
        if places == list(range(array.shape[-1])):
            return array
        return array[..., places]


def taken(path: Path, stored: Stored, seen: View, channels: Chosen) -> Taken:
    """Which channels of an image are meant; its header says.

    Raises:
        ChannelError: for one that it does not have, and for a name that two have.
    """
    count = 1 if seen.channel is None else stored.shape[seen.channel]
    told = stored.channel_names if len(stored.channel_names) == count else ()
    if channels is None or channels == "luminance":
        merged = count - stored.opacity
        return Taken(None, merged=merged) if merged > 1 else Taken((0,))
    if channels == "all":
        return Taken(tuple(range(count)), True, told)
    if isinstance(channels, int):  # of one channel any number is that one
        return Taken((_number(path, count, told, channels) if count > 1 else 0,))
    if isinstance(channels, str):
        return Taken((_number(path, count, told, channels),), False, (channels,))
    beyond = [one for one in channels if isinstance(one, int) and one >= count]
    if beyond:
        raise no_channel(path, count, f"one with channel {beyond[0]}", "replace it")
    numbers = tuple(_number(path, count, told, one) for one in channels)
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise ChannelError(
            path,
            f"channel {twice} twice, by number and as {told[twice]!r}",
            "every channel once",
            "leave one of them out",
        )
    by_name = tuple(one for one in channels if isinstance(one, str))
    return Taken(numbers, True, by_name if len(by_name) == len(numbers) else ())


def _number(path: Path, count: int, names: Sequence[str], channel: int | str) -> int:
    """Of a channel that was asked for.

    Raises:
        ChannelError: as `taken`.
    """
    if isinstance(channel, int):
        if channel >= count:
            raise no_channel(path, count)
        return channel
    places = [i for i, name in enumerate(names) if name == channel]
    if len(places) == 1:
        return places[0]
    by_number = Setting("channels", f"0 to {count - 1}") if count > 1 else Setting("channels", 0)
    if places:
        found = f"{len(places)} channels called {channel!r} ({', '.join(map(str, places))})"
        raise ChannelError(path, found, "names that differ", by_number)
    words = [*names, "all", *(["luminance"] if count in (3, 4) else [])]
    near = difflib.get_close_matches(channel, words, n=1)
    if not any(names):
        hint = (*(Setting("channels", word) for word in near), by_number)
        raise ChannelError(path, "channels without names", f"one called {channel!r}", hint)
    raise ChannelError(
        path,
        f"no channel {channel!r}",
        f"one of {', '.join(names)}",
        tuple(Setting("channels", word) for word in near),
    )


def one_grey(path: Path, array: NDArray[Any], channels: Chosen, label: bool) -> NDArray[Any]:
    """Merge channels ``[..., K]``."""
    if (array == array[..., :1]).all():  # grey, stored as colours
        return array[..., 0]
    count = array.shape[-1]
    if label:
        raise ChannelError(path, f"a label of {count} channels", "one, with one number a cell")
    if channels == "luminance" and count in (3, 4):
        return luminance(array)
    raise colours(path, count)


def luminance(array: NDArray[Any]) -> NDArray[np.float32]:
    """Of colours ``[..., 3]``; a fourth is opacity."""
    grey: NDArray[np.float32] = (array[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(
        np.float32
    )
    return grey


def channel_hint(count: int) -> tuple[Setting, ...]:
    """How to take something of so many channels."""
    number = Setting("channels", f"0 to {count - 1}")
    light = (Setting("channels", "luminance"),) if count in (3, 4) else ()
    return (number, *light, Setting("channels", "all", "to train on all of them"))


def colours(path: Path, count: int) -> ChannelError:
    """The error for channels of which none was chosen."""
    return ChannelError(
        path, f"{count} channels (colours)", "one grey channel", channel_hint(count)
    )


def no_channel(
    path: Path, count: int, expected: str = "a channel that is there", other: str = "give none"
) -> ChannelError:
    """The error for a channel that an image of so many does not have."""
    one = "one channel" if count == 1 else f"{count} channels"
    hint: Setting | str = Setting("channels", f"0 to {count - 1}") if count > 1 else other
    return ChannelError(path, one, expected, hint)


def check_some_have(folder: Path, channels: Chosen, several: bool) -> None:
    """Refuse a number that only images of several channels have, where none has ``several``.

    Beside coloured images grey ones are taken as they are.

    Raises:
        ChannelError: naming the folder.
    """
    if isinstance(channels, int) and channels > 0 and not several:
        raise no_channel(folder, 1)


OF_THE_NETWORK = "as the network was trained with"


def check_fit(
    path: Path | str, found: Taken, count: int | None, names: Sequence[str] | None, whose: str
) -> None:
    """Refuse an image whose channels are not those that are wanted, in their order.

    Args:
        path: of the image.
        found: its channels.
        count: how many are wanted; None for any number.
        names: what they are called; None, or none, if that is not known.
        whose: they are: `OF_THE_NETWORK`, or whoever came before.

    Raises:
        ChannelError: saying what is there.
    """
    where = Path(str(path))
    if names and found.names and tuple(names) != found.names:
        same = set(names) <= set(found.names)
        hint: tuple[Setting | str, ...] = (Setting("channels", list(names)),) if same else ()
        told = f"channels {', '.join(found.names)}"
        by_number = "choose them by number, if these are the same"
        raise ChannelError(where, told, f"{', '.join(names)}, {whose}", (*hint, by_number))
    if count is not None and found.count != count:
        told = "one channel" if found.count == 1 else f"{found.count} channels"
        wanted = "one" if count == 1 else str(count)
        numbers = Setting("channels", 0 if count == 1 else list(range(count)))
        raise ChannelError(
            where, told, f"{wanted}, {whose}", (numbers,) if found.count > count else ()
        )


def _listed(channels: Sequence[object]) -> str:
    return f"[{', '.join(map(str, channels))}]"
