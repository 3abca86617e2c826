"""One grey value of several channels: which one, or the luminance of colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overtile.pipelines.errors import ChannelError, DataError, Setting

Channel = int | str | None


def one_channel(path: Path, array: NDArray[Any], channel: Channel, label: bool) -> NDArray[Any]:
    """Merge channels ``[..., K]``."""
    if (array == array[..., :1]).all():  # grey, stored as colours
        return array[..., 0]
    count = array.shape[-1]
    if label:
        raise ChannelError(path, f"a label of {count} channels", "one, with one number a cell")
    if channel == "luminance" and count in (3, 4):  # the fourth is opacity
        grey: NDArray[Any] = (array[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
        return grey
    raise colours(path, count)


def channel_hint(count: int) -> tuple[Setting, ...]:
    """How to take one grey value of so many channels."""
    number = Setting("channel", f"0 to {count - 1}")
    return (number, Setting("channel", "luminance")) if count in (3, 4) else (number,)


def colours(path: Path, count: int) -> ChannelError:
    """The error for channels of which none was chosen."""
    return ChannelError(
        path, f"{count} channels (colours)", "one grey channel", channel_hint(count)
    )


def no_channel(path: Path, count: int) -> ChannelError:
    """The error for a channel that an image of so many does not have."""
    one = "one channel" if count == 1 else f"{count} channels"
    hint: Setting | str = Setting("channel", f"0 to {count - 1}") if count > 1 else "give none"
    return ChannelError(path, one, "a channel that is there", hint)


def check_some_have(folder: Path, channel: Channel, several: bool) -> None:
    """Refuse a number that only images of several channels have, where none has ``several``.

    Beside coloured images grey ones are taken as they are.

    Raises:
        ChannelError: naming the folder.
    """
    if isinstance(channel, int) and channel > 0 and not several:
        raise no_channel(folder, 1)


def check_channel(channel: Channel) -> Channel:
    """``channel``, if it names one."""
    number = isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0
    if channel is None or channel == "luminance" or number:
        return channel
    raise DataError("channel", repr(channel), "a number from 0, or luminance")
