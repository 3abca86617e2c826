from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from overtile.transforms import RandElasticDeform, RandElasticDeformd


def scipy_deform(image: NDArray[Any], nodes: NDArray[np.float64], order: int) -> NDArray[Any]:
    """Every channel of an image, deformed by SciPy with mirrored context by NumPy."""
    shape = image.shape[1:]
    o = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    scale = [(g - 1) / (n - 1) for g, n in zip(nodes.shape[1:], shape, strict=True)]
    at_grid = o * np.reshape(scale, (-1, *[1] * len(shape)))
    at = o + [map_coordinates(axis, at_grid, order=3, mode="mirror") for axis in nodes]
    far = int(np.abs(at).max()) + 4
    padded = [np.pad(channel, far, mode="reflect") for channel in image]
    return np.stack([map_coordinates(c, at + far, order=order) for c in padded])


@pytest.mark.parametrize("shape", [(61, 50), (3, 5), (9, 20, 17)])
@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_equals_scipy(shape: tuple[int, ...], sigma: float) -> None:
    image = np.random.default_rng(0).random((2, *shape))
    transform = RandElasticDeform(sigma=sigma).set_random_state(seed=1)
    found = transform(image)
    nodes = transform.recorded.nodes
    assert nodes.shape == (len(shape), *[3] * len(shape))
    np.testing.assert_allclose(found, scipy_deform(image, nodes, order=1), atol=1e-3)
    assert abs(found - image).max() > 0.1


def test_nodes_are_gaussian_with_the_papers_deviation() -> None:
    transform = RandElasticDeform().set_random_state(seed=0)
    nodes = np.stack([transform.draw((50, 50)).nodes for _ in range(400)])
    error = 10 / nodes.size**0.5
    assert abs(nodes.mean()) < 5 * error
    assert abs(nodes.std() - 10) < 5 * error / 2**0.5
    assert abs((abs(nodes) > 20).mean() - 0.0455) < 5 * (0.0455 / nodes.size) ** 0.5
    correlation = np.corrcoef(nodes.reshape(400, -1).T)  # every node on its own, both axes
    assert abs(correlation - np.eye(18)).max() < 5 / 400**0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_no_sigma_changes_no_bit(dtype: type) -> None:
    image = (np.random.default_rng(1).random((1, 40, 31)) * 255).astype(dtype)
    assert np.array_equal(RandElasticDeform(sigma=0)(image), image)


def test_image_and_label_share_the_field() -> None:
    rng = np.random.default_rng(2)
    labels = np.kron(rng.integers(0, 5, (1, 10, 12)), np.ones((1, 6, 6), int)).astype(np.uint16)
    transform = RandElasticDeformd(["image", "label"], mode=["bilinear", "nearest"])
    result = transform.set_random_state(seed=3)({"image": labels * 1.0, "label": labels, "id": 5})
    assert result["id"] == 5
    assert result["label"].dtype == labels.dtype
    assert set(np.unique(result["label"])) <= set(np.unique(labels))
    pure = result["image"] == np.round(result["image"])  # where no two labels mixed
    assert pure.mean() > 0.5
    agree = (result["image"] == result["label"])[pure]
    assert agree.mean() > 0.99  # a mix of 1 and 3 may be 2
    nodes = transform.recorded.nodes
    nearest = scipy_deform(labels.astype(float), nodes, order=0) == result["label"]
    assert nearest.mean() > 0.999  # float32 may round a half the other way


def test_seeds_repeat() -> None:
    image = torch.rand(1, 40, 40)
    first, again, other = (RandElasticDeform().set_random_state(seed=s)(image) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.01)


def test_compose_hands_its_random_state_on() -> None:
    data = {"image": torch.rand(1, 40, 40)}
    runs = []
    for seed in (7, 7, 8):
        compose = Compose([RandElasticDeformd("image")]).set_random_state(seed=seed)
        runs.append([compose(data)["image"] for _ in range(2)])
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_workers_and_epochs_draw_differently_and_repeat() -> None:
    items = [{"image": torch.arange(900.0).reshape(1, 30, 30)}] * 4
    transform = Compose([RandElasticDeformd("image")])

    def epochs() -> list[bytes]:
        torch.manual_seed(0)
        loader = DataLoader(Dataset(items, transform), batch_size=1, num_workers=2)
        return [batch["image"].numpy().tobytes() for _ in range(2) for batch in loader]

    first = epochs()
    assert len(set(first)) == len(first) == 8
    assert epochs() == first


def test_record_replays_on_anything() -> None:
    image = torch.rand(1, 33, 44)
    transform = RandElasticDeform().set_random_state(seed=9)
    first, record = transform(image), transform.recorded
    assert not torch.equal(transform(image), first)
    assert torch.equal(transform(image, draw=record), first)
    assert torch.equal(record.apply(image), first)
    dictionary = RandElasticDeformd(["a", "b"])
    replayed = dictionary({"a": image, "b": image.numpy()}, draw=record)
    assert torch.equal(replayed["a"], first)
    assert np.array_equal(replayed["b"], first)
    assert dictionary.recorded is record


def test_draw_and_call_are_the_same() -> None:
    image = torch.rand(1, 33, 44)
    drawn = RandElasticDeform().set_random_state(seed=9).draw((33, 44))
    assert torch.equal(RandElasticDeform().set_random_state(seed=9)(image), drawn.apply(image))


def test_kinds_are_kept() -> None:
    array = np.random.default_rng(3).random((1, 20, 20)).astype(np.float32)
    meta = MetaTensor(torch.from_numpy(array), meta={"filename_or_obj": "a.tif"})
    transform = RandElasticDeform()
    drawn = transform.draw((20, 20))
    for image in (array, torch.from_numpy(array), meta, np.asfortranarray(array)):
        result = transform(image, draw=drawn)
        assert type(result) is type(image)
        assert result.dtype == image.dtype
        assert np.array_equal(result, drawn.apply(torch.from_numpy(array)))
    assert transform(meta, draw=drawn).meta["filename_or_obj"] == "a.tif"
    assert torch.equal(meta.as_tensor(), torch.from_numpy(array))  # the source is not touched


@pytest.mark.parametrize("prob", [0.0, 0.3])
def test_probability_spares_images(prob: float) -> None:
    image = torch.rand(1, 20, 20)
    for transform, data in (
        (RandElasticDeform(prob=prob), image),
        (RandElasticDeformd("image", prob=prob), {"image": image}),
    ):
        transform.set_random_state(seed=0)
        spared = 0
        for _ in range(200):
            result = transform(data)
            result = result if isinstance(result, torch.Tensor) else result["image"]
            spared += torch.equal(result, image)
            assert transform.recorded.nodes.any() != torch.equal(result, image)
            again = transform(data, draw=transform.recorded)
            again = again if isinstance(again, torch.Tensor) else again["image"]
            assert torch.equal(again, result)
        # within five standard deviations of the binomial distribution
        assert abs(spared - 200 * (1 - prob)) <= 5 * (200 * prob * (1 - prob)) ** 0.5


def test_keys_of_different_sizes_are_refused() -> None:
    data = {"image": torch.rand(1, 20, 20), "label": torch.rand(1, 20, 21)}
    with pytest.raises(ValueError, match=r"image \(20, 20\), label \(20, 21\)"):
        RandElasticDeformd(["image", "label"])(data)


def test_missing_keys() -> None:
    data = {"image": torch.rand(1, 20, 20)}
    result = RandElasticDeformd(["image", "label"], allow_missing_keys=True)(data)
    assert set(result) == {"image"}
    with pytest.raises(KeyError):
        RandElasticDeformd(["image", "label"])(data)


def test_an_image_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 spatial axes: expected \[C, H, W\]"):
        RandElasticDeform()(np.zeros((20, 20), np.float32))


@pytest.mark.parametrize(("argument", "value"), [("grid", 1), ("sigma", -1.0)])
@pytest.mark.parametrize("kind", [RandElasticDeform, lambda **a: RandElasticDeformd("image", **a)])
def test_arguments_out_of_range_are_named(kind: Any, argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        kind(**{argument: value})


@pytest.mark.parametrize(("argument", "value"), [("mode", "cubic"), ("padding_mode", "mirror")])
@pytest.mark.parametrize("kind", [RandElasticDeform, lambda **a: RandElasticDeformd("image", **a)])
def test_unknown_choices_are_named_at_once(kind: Any, argument: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}='{value}'"):
        kind(**{argument: value})  # not hours later, in the middle of an epoch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_tensors_stay_there() -> None:
    image = torch.rand(1, 40, 40)
    transform = RandElasticDeform()
    drawn = transform.draw((40, 40))
    found = transform(image.cuda(), draw=drawn)
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found.cpu(), transform(image, draw=drawn), atol=1e-3)
