"""A bundle's network with all that it has to be used with, for images that come in parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Activationsd, Compose
from numpy.typing import NDArray
from torch import nn

from overtile.networks import ArgumentError, GeometryError, RegionInferer
from overtile.networks.inferers.spacing import resampled
from overtile.networks.spacing import resampled_size
from overtile.pipelines.bundle.check import check_configuration
from overtile.pipelines.bundle.checkpoints import check_settings, load_weights
from overtile.pipelines.bundle.configuration import check_inferer
from overtile.pipelines.bundle.json_file import REPLACE, inference_of, read_object
from overtile.pipelines.bundle.messages import wrong_value
from overtile.pipelines.bundle.schema import decides
from overtile.pipelines.data.classes import numbered_classes
from overtile.pipelines.errors import (
    ConfigurationError,
    of_argument,
    size_text,
    users_mistake,
)
from overtile.pipelines.images.channels import Chosen
from overtile.pipelines.images.read_transform import ReadImaged
from overtile.transforms import (
    ClassesFromProbabilities,
    ClassesFromProbabilitiesd,
    InstancesFromProbabilities,
    InstancesFromProbabilitiesd,
)
from overtile.transforms.normalize import NormalizeImage, NormalizeImaged


@dataclass(frozen=True)
class Trained:
    """What a bundle's ``inference.json`` describes.

    Attributes:
        network: with its weights, on its device, in evaluation mode.
        inferer: that runs it on a region.
        device: of the network.
        activation: from the network's answer to probabilities.
        to_instances: from probabilities; None where the bundle does not make any.
        to_classes: likewise.
        normalize: how grey values are brought to a common range.
        spatial_dims: 2 or 3.
        channels: which of an image are read.
        in_channels: how many the network takes.
        channel_names: that it was trained with, in their order; None where that is not known.
        class_names: of the classes, the background first; none where it tells none apart.
        facts: what decides over the result, as text, by name.
    """

    network: nn.Module
    inferer: RegionInferer
    device: torch.device
    activation: Compose
    to_instances: InstancesFromProbabilities | None
    to_classes: ClassesFromProbabilities | None
    normalize: NormalizeImage
    spatial_dims: int
    channels: Chosen
    in_channels: int
    channel_names: tuple[str, ...] | None
    class_names: tuple[str, ...]
    facts: dict[str, str]

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """That it was trained with, in millimetres a pixel along each axis; None takes any."""
        return self.inferer.spacing

    @torch.no_grad()
    def answer(
        self,
        window: NDArray[np.float32],
        region: tuple[slice, ...],
        image: Sequence[int],
        roi: Sequence[int],
        every: bool = False,
    ) -> NDArray[Any]:
        """P(cell) ``[*R]`` float32 of a region, or the class of each pixel, uint8.

        Arguments as `RegionInferer`, the window ``[C, *W]``, the image of the network's `spacing`;
        ``every`` asks for the probabilities of all classes, ``[K, *R]``.
        """
        inputs = torch.from_numpy(window)[None].to(self.device)
        answer = self.inferer(inputs, region, image, roi)[0]
        found: torch.Tensor = self.activation({"pred": answer})["pred"].float().cpu()
        plain: NDArray[Any] = np.asarray(found if every else found[-1])
        if not every and self.to_classes is not None:
            plain = np.asarray(self.to_classes(found))[0].astype(np.uint8)
        return plain

    def at_its_spacing(
        self, image: NDArray[np.float32], spacing: Sequence[float]
    ) -> NDArray[np.float32]:
        """An image ``[C, *S]`` as the network is given it; arguments as of `instances`."""
        if self.spacing is None:
            return image
        there = resampled_size(image.shape[1:], spacing, self.spacing)
        return resampled(torch.from_numpy(np.ascontiguousarray(image))[None], there)[0].numpy()

    @torch.no_grad()
    def instances(
        self, image: NDArray[np.float32], spacing: Sequence[float] = ()
    ) -> NDArray[np.int32]:
        """Numbered cells ``[*S]`` of a whole image ``[C, *S]``, scaled as in training.

        Args:
            image: grey values.
            spacing: millimetres a pixel of it along each axis, where the network has a `spacing`.

        Raises:
            ConfigurationError: if the bundle makes no instances.
        """
        if self.to_instances is None:
            raise ConfigurationError(
                "postprocessing",
                "no InstancesFromProbabilitiesd in it",
                "a bundle that numbers cells",
            )
        return self.labels(image, spacing)

    @torch.no_grad()
    def labels(
        self, image: NDArray[np.float32], spacing: Sequence[float] = ()
    ) -> NDArray[np.int32]:
        """Numbered cells, or the class of each pixel, ``[*S]``; arguments as of `instances`.

        Raises:
            ConfigurationError: if the bundle makes neither.
        """
        last = self.to_instances or self.to_classes
        if last is None:
            raise ConfigurationError(
                "postprocessing",
                "neither InstancesFromProbabilitiesd nor ClassesFromProbabilitiesd in it",
                "a bundle that numbers cells or classes",
            )
        inputs = torch.from_numpy(np.ascontiguousarray(image))[None].to(self.device)
        if self.spacing is not None:
            affine = np.diag([*spacing, *[1.0] * (4 - len(spacing))])
            inputs = MetaTensor(inputs, affine=torch.from_numpy(affine))
        answer = self.inferer.whole(inputs, self.network)[0]
        answer = answer.as_tensor() if isinstance(answer, MetaTensor) else answer
        found = last(self.activation({"pred": answer})["pred"].float().cpu())
        plain: NDArray[np.int32] = np.asarray(found[0], np.int32)
        return plain


def load_trained(bundle: Path, settings: Mapping[str, Any]) -> Trained:
    """Build what a bundle's ``configs/inference.json`` describes, as its own ``inference`` does.

    Args:
        bundle: its folder, or that of a run.
        settings: values of the configuration that are to be others.

    Raises:
        ConfigurationError: if there is no such bundle, a setting or a file of it is wrong, or it
            does more to an image than can be done in parts.
        DataError: if one of its files of JSON is damaged.
    """
    file = inference_of(bundle)
    try:
        return _load(file, bundle, settings)
    except Exception as error:
        mistake = users_mistake(error) or wrong_value(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from mistake.__cause__  # what MONAI put around it is of no use


def _load(file: Path, bundle: Path, settings: Mapping[str, Any]) -> Trained:
    parser = ConfigParser()
    parser.read_config(read_object(file, REPLACE))
    parser["bundle_root"] = str(bundle)
    for key, value in settings.items():
        try:
            parser[key] = value
        except (KeyError, IndexError, TypeError, ValueError):
            raise ConfigurationError(
                key, ("no such place in", file), "a key of it, or a place in one, as KEY::PART"
            ) from None
    check_configuration(parser)
    config = {k: v for k, v in parser.get().items() if k != parser.meta_key}
    facts = {k: json.dumps(v, default=str) for k, v in config.items() if decides(k)}

    reader, normalize = _preprocessing(parser)
    network: nn.Module = parser.get_parsed_content("network")
    inferer = parser.get_parsed_content("inferer")
    check_inferer(inferer, network)
    checkpoint = parser.get_parsed_content("checkpoint")
    load_weights(network, checkpoint)
    check_settings(
        parser.get_parsed_content("settings") if "settings" in parser else {}, checkpoint
    )
    facts["weights"] = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    activation, last = _postprocessing(parser)
    trained = Trained(
        network.eval(),
        RegionInferer(inferer, network, reader.spatial_dims),
        torch.device(parser.get_parsed_content("device")),
        activation,
        last if isinstance(last, InstancesFromProbabilities) else None,
        last if isinstance(last, ClassesFromProbabilities) else None,
        normalize,
        reader.spatial_dims,
        reader.channels,
        *_channels(parser, network),
        (),
        facts,
    )
    count = _try_out(trained)
    if trained.to_classes is None:
        return trained
    return replace(trained, class_names=_class_names(parser, count))


def _channels(parser: ConfigParser, network: nn.Module) -> tuple[int, tuple[str, ...] | None]:
    """How many channels a network takes, and what they are called."""
    own = getattr(network, "in_channels", 1)
    count = parser.get_parsed_content("in_channels") if "in_channels" in parser else own
    names = parser.get_parsed_content("channel_names") if "channel_names" in parser else None
    return int(count), None if names is None else tuple(names)


def _class_names(parser: ConfigParser, count: int) -> tuple[str, ...]:
    """What as many classes are called; numbers where nobody has named them.

    Raises:
        ConfigurationError: if others are named.
    """
    names = parser.get_parsed_content("class_names") if "class_names" in parser else None
    if names is None:
        return numbered_classes(count)
    if len(names) != count:
        raise ConfigurationError(
            "class_names",
            f"{len(names)} names, {', '.join(names)}",
            f"{count}, as the network has classes",
        )
    return tuple(names)


def _steps(parser: ConfigParser, key: str) -> int:
    """How many transforms a part of the configuration has."""
    transforms = parser.get(f"{key}::transforms", None)
    if not isinstance(transforms, list):
        raise ConfigurationError(key, expected="a Compose with a list of transforms")
    return len(transforms)


def _preprocessing(parser: ConfigParser) -> tuple[ReadImaged, NormalizeImage]:
    reader, normalize = None, NormalizeImage("none")
    for place in range(_steps(parser, "preprocessing")):
        step = parser.get_parsed_content(f"preprocessing::transforms::{place}")
        if isinstance(step, ReadImaged):
            reader = step
        elif isinstance(step, NormalizeImaged):
            normalize = step.normalize
        else:
            raise _whole_only("preprocessing", step, "ReadImaged and NormalizeImaged")
    if reader is None:
        raise ConfigurationError(
            "preprocessing",
            "nothing in it reads images",
            "overtile.pipelines.ReadImaged",
            "take the one of the bundle that the network was trained with",
        )
    return reader, normalize


def _postprocessing(
    parser: ConfigParser,
) -> tuple[Compose, InstancesFromProbabilities | ClassesFromProbabilities | None]:
    """What makes probabilities of the network's answer, and instances or classes of these."""
    steps: list[Any] = []
    for place in range(_steps(parser, "postprocessing")):
        name = f"postprocessing::transforms::{place}"
        if "WriteResultsd" in str(parser.get(f"{name}::_target_", "")):
            break
        step = parser.get_parsed_content(name)
        if isinstance(step, InstancesFromProbabilitiesd):
            return Compose(steps), step.instances
        if isinstance(step, ClassesFromProbabilitiesd):
            return Compose(steps), step.classes
        if not isinstance(step, Activationsd):
            raise _whole_only("postprocessing", step, "Activationsd")
        steps.append(step)
    return Compose(steps), None


def _whole_only(part: str, step: Any, known: str) -> ConfigurationError:
    return ConfigurationError(
        part, f"{type(step).__name__} may look at the whole image", f"{known} alone"
    )


def _try_out(trained: Trained) -> int:
    """One pass over the smallest tile, so that what does not fit says so at once.

    Returns:
        How many channels the network answers with.
    """
    count = trained.in_channels
    channels = "one channel" if count == 1 else f"{count} channels"
    smallest = tuple(minimum for _, _, minimum in trained.inferer.axes)
    try:
        with torch.no_grad():
            image = torch.zeros((1, count, *smallest), device=trained.device)
            answer = trained.network(image)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, GeometryError):
            raise
        named = f"network {type(trained.network).__name__}"
        if isinstance(error, ArgumentError):
            told = of_argument(error, named)
            raise told.advising(*told.hint, f"give a bundle for images of {channels}") from error
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            named,
            f"refuses {channels} of {size_text(smallest)} pixels ({reason})",
            f"a network for images of {channels}",
        ) from error
    if not isinstance(answer, torch.Tensor):
        raise ConfigurationError(
            f"network {type(trained.network).__name__}",
            f"returns {type(answer).__name__}",
            "one tensor, without deep supervision",
        )
    if answer.shape[1] > (255 if trained.to_classes else 2):
        raise ConfigurationError(
            "network_def#out_channels",
            f"{answer.shape[1]} classes",
            "at most 255" if trained.to_classes else "P(cell) alone, or background and cell",
        )
    return int(answer.shape[1])
