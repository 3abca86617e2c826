"""What MONAI asks of a transform beside its pixels: affine, history, inverse, lazy, names."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch, set_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import (
    BorderPad,
    Compose,
    Flip,
    Invertd,
    MapTransform,
    Rotate90,
    SpatialCrop,
    Transform,
)

import overtile.transforms
from overtile.networks import OverlapTileInferer, TileGeometry
from overtile.transforms import (
    BorderWeightMap,
    ClassWeightMap,
    CropToOutput,
    CropToOutputd,
    ForegroundFromInstances,
    InstancesFromProbabilities,
    MirrorPad,
    MirrorPadd,
    NormalizeImage,
    NormalizeImaged,
    RandDeformedTile,
    RandDeformedTiled,
    RandElasticDeform,
    RandElasticDeformd,
    SeparateTouching,
)
from overtile.transforms.metadata import as_array

RIGID: dict[str, Any] = {"sigma": 0.0, "rotate": 0.0, "scale": (1.0, 1.0)}
volumes = st.lists(st.integers(1, 15), min_size=2, max_size=3).map(tuple)


def placed(size: tuple[int, ...], seed: int = 0) -> MetaTensor:
    """An image somewhere in the world, with anisotropic pixels, and its own indices as values."""
    affine = np.diag([0.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = [7.0, -4.0, 11.0]
    count = int(np.prod(size))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    values = 1 + (order + 0.5) / count  # no two the same
    return MetaTensor(values.reshape(1, *size), affine=torch.tensor(affine))


def world(image: MetaTensor, index: Any) -> Any:
    """Where a pixel lies, by the affine alone."""
    whole = np.zeros(4)
    whole[: len(index)], whole[3] = index, 1
    return (image.affine.numpy() @ whole)[:3]


def assert_placed_alike(result: MetaTensor, source: MetaTensor) -> None:
    """Every pixel of the result that the source has too lies at the same place in the world."""
    where = {round(float(v), 6): i for i, v in np.ndenumerate(source.numpy()[0])}
    assert len(where) == source.numel()
    shown = 0
    inside = source.shape[1:]
    for index, value in np.ndenumerate(result.numpy()[0]):
        found = world(result, index)
        at = np.linalg.solve(source.affine.numpy(), [*found, 1])[: len(inside)]
        if all(-0.5 < a < n - 0.5 for a, n in zip(at, inside, strict=True)):
            np.testing.assert_allclose(found, world(source, where[round(float(value), 6)]))
            shown += 1
    assert shown


@given(size=volumes, tile=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_tile_lies_where_its_affine_says(size: tuple[int, ...], tile: int, seed: int) -> None:
    image = placed(size)
    cut = RandDeformedTile(tile, **RIGID).set_random_state(seed=seed)
    result = cut(image)
    assert_placed_alike(result, image)
    back = cut.inverse(result.clone())
    assert back.shape == image.shape
    assert torch.equal(back.affine, image.affine)
    assert torch.isin(back, torch.cat([image.flatten(), torch.zeros(1)])).all()
    kept = back != 0
    assert torch.equal(back[kept], image[kept])  # each pixel where it was
    assert kept.sum() == len(np.intersect1d(result.numpy(), image.numpy()))
    assert back.applied_operations == []


def test_quarter_turns_go_back() -> None:
    image = placed((9, 12))
    for turn in (0, 1, 2, 3):
        for flip in ((), (0,), (1,), (0, 1)):
            cut = RandDeformedTile((7, 9), **RIGID)
            drawn = cut.draw((9, 12))
            # MONAI's own matrices of a turn and a flip
            turned = Flip(flip)(Rotate90(turn)(placed((9, 9)))).affine.numpy()[:2, :2]
            matrix = np.round(np.linalg.inv(image.affine.numpy()[:2, :2]) @ turned)
            drawn = type(drawn)(drawn.shape, (4.0, 6.0), matrix, drawn.nodes)
            result = cut(image, draw=drawn)
            assert_placed_alike(result, image)
            back = cut.inverse(result)
            assert torch.equal(back[back != 0], image[back != 0])
            assert (back != 0).sum() >= 35


@given(seed=st.integers(0, 999), dims=st.integers(2, 3))
@settings(max_examples=20, deadline=None)
def test_the_affine_is_that_of_the_rigid_part(seed: int, dims: int) -> None:
    """The world's coordinates as an image show, turned and scaled, what the affine says."""
    source = placed((16,) * dims)
    axes = np.indices(source.shape[1:]).reshape(dims, -1)
    coordinates = np.array([world(source, index) for index in axes.T]).T[:dims]
    ramps = torch.tensor(coordinates.reshape(dims, *source.shape[1:]))
    image = MetaTensor(ramps, affine=source.affine)
    cut = RandDeformedTile(3, margin=0, sigma=0.0, rotate=3.0).set_random_state(seed=seed)
    drawn = cut.draw((16,) * dims)
    drawn = type(drawn)(drawn.shape, (7.3,) * dims, drawn.matrix, drawn.nodes)
    result = cut(image, draw=drawn)
    for index in np.ndindex(*result.shape[1:]):
        expected = world(result, index)[:dims]
        np.testing.assert_allclose(result[(slice(None), *index)].numpy(), expected, atol=1e-4)
    with pytest.raises(ValueError, match="no exact inverse"):
        cut.inverse(result)


@given(size=volumes, depth=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_mirroring_is_placed_and_goes_back(size: tuple[int, ...], depth: int) -> None:
    image, geometry = placed(size), TileGeometry.unet(depth)
    pad = MirrorPad(geometry)
    padded = pad(image)
    like_monai = BorderPad(geometry.margin)(image)
    assert torch.equal(padded.affine, like_monai.affine)
    inner = padded[(slice(None), *(slice(geometry.margin, geometry.margin + n) for n in size))]
    assert torch.equal(inner, image)
    output = CropToOutput(geometry)(padded)  # what a valid network answers for
    assert_placed_alike(output, image)
    for answer in (padded, output):
        again = answer.clone()
        again.applied_operations, again.affine = padded.applied_operations[:1], padded.affine
        back = pad.inverse(again)
        assert torch.equal(back, image)
        assert torch.equal(back.affine, image.affine)
        assert back.applied_operations == []


@given(size=volumes, margin=st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_a_crop_is_that_of_monai(size: tuple[int, ...], margin: int) -> None:
    image = placed(tuple(n + 2 * margin for n in size))
    crop = CropToOutput(margin)
    monai = SpatialCrop(roi_start=[margin] * len(size), roi_end=[n + margin for n in size])
    result, expected = crop(image), monai(image)
    assert torch.equal(result, expected)
    assert torch.equal(result.affine, expected.affine)
    back, expected = crop.inverse(result), monai.inverse(expected)
    assert torch.equal(back, expected)
    assert torch.equal(back.affine, expected.affine)


def test_a_prediction_goes_back_to_its_image_by_invertd() -> None:
    geometry = TileGeometry.unet(1)
    image = placed((20, 23))
    steps = Compose([NormalizeImaged("image"), MirrorPadd("image", geometry)])
    item = steps({"image": image})
    crop = CropToOutput(geometry)
    item["pred"] = crop(item["image"])  # as a valid network answers
    item["whole"] = item["image"].clone()  # as a padded one does
    undo = Invertd(["pred", "whole"], transform=steps, orig_keys="image", nearest_interp=False)
    found = undo(item)
    for key in ("pred", "whole"):
        assert torch.equal(found[key], NormalizeImage()(image))
        assert torch.equal(found[key].affine, image.affine)


def test_what_was_deformed_is_refused_by_invertd() -> None:
    for deform in (RandElasticDeformd("image"), RandDeformedTiled("image", 12)):
        steps = Compose([deform])
        item = steps({"image": placed((20, 20))})
        assert [o["class"] for o in item["image"].applied_operations] == [type(deform).__name__]
        item["pred"] = item["image"]
        with pytest.raises(RuntimeError) as error:
            Invertd("pred", transform=steps, orig_keys="image")(item)
        assert "no exact inverse" in str(error.value.__cause__)
    spared = RandElasticDeform(prob=0.0)
    image = placed((20, 20))
    assert torch.equal(spared.inverse(spared(image)), image)


def test_a_size_that_was_not_made_is_refused() -> None:
    for transform in (
        MirrorPad(TileGeometry.unet(1)),
        CropToOutput(2),
        RandDeformedTile(9, **RIGID),
    ):
        result = transform(placed((14, 14)))
        wrong = MetaTensor(torch.zeros(1, 3, 3), affine=result.affine)
        wrong.applied_operations = result.applied_operations
        with pytest.raises(ValueError, match=r"of \(3, 3\): expected"):
            transform.inverse(wrong)


def test_the_image_that_is_cut_keeps_its_own_metadata() -> None:
    image = placed((20, 20))
    before = image.affine.clone()
    for transform in (MirrorPad(TileGeometry.unet(1)), CropToOutput(0), RandDeformedTile(9)):
        transform(image)
        assert image.applied_operations == []
        assert torch.equal(image.affine, before)


def test_batches_of_recorded_tiles() -> None:
    cut = Compose(
        [RandDeformedTiled(["image", "label"], 8, num_samples=3, mode=["bilinear", "nearest"])]
    )
    items = [{"image": placed((20, 20), n), "label": placed((20, 20), n)} for n in range(2)]
    loader = DataLoader(Dataset(items, cut), batch_size=2, num_workers=0)
    (batch,) = loader
    assert batch["image"].shape == (6, 1, 8, 8)
    assert [len(operations) for operations in batch["image"].applied_operations] == [1] * 6


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_collated_goes_back_to_its_image(workers: int) -> None:
    keys, geometry = ["image", "pred"], TileGeometry.unet(1)
    for step in (
        RandDeformedTiled(keys, 12, 2, num_samples=2, **RIGID),
        MirrorPadd(keys, geometry),
        CropToOutputd(keys, 2),
    ):
        steps = Compose([step])
        items = [dict.fromkeys(keys, placed((20, 21), n)) for n in range(2)]
        loader = DataLoader(Dataset(items, steps), batch_size=2, num_workers=workers)
        found = decollate_batch(next(iter(loader)))
        undo = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False)
        for number, item in enumerate(found):
            source = items[number * 2 // len(found)]["image"]
            back = undo(item)["pred"]
            assert torch.equal(back[back != 0], source[back != 0])
            assert (back != 0).sum() > 50
            assert torch.equal(back.affine, source.affine)


UNRECORDED: list[Callable[[], Any]] = [
    NormalizeImage,
    lambda: RandElasticDeform().set_random_state(seed=0),
    lambda: RandDeformedTile(9).set_random_state(seed=0),
    lambda: MirrorPad(TileGeometry.unet(1)),
    lambda: CropToOutput(3),
    lambda: InstancesFromProbabilities(0.6),
    SeparateTouching,
    BorderWeightMap,
    lambda: ClassWeightMap(border_classes=[1]),
    ForegroundFromInstances,
]
OF_LABELS = (SeparateTouching, BorderWeightMap, ClassWeightMap, ForegroundFromInstances)


@pytest.mark.parametrize("make", UNRECORDED)
@pytest.mark.parametrize("whole", [True, False])
def test_pending_operations_are_applied_not_dropped(make: Callable[[], Any], whole: bool) -> None:
    """What comes of lazy data is what comes of the same data, changed at once."""
    image = placed((14, 16))
    image = (image - 1) if not whole else image.new_tensor((image > 1.5).float().numpy())
    image = MetaTensor(image.as_tensor(), affine=placed((1, 1)).affine)
    made = make()
    if isinstance(made, OF_LABELS) and not whole:
        return  # no labels
    lazily = at_once = image
    for step in (Flip(0), SpatialCrop(roi_start=(2, 1), roi_end=(13, 16))):
        lazily, at_once = step(lazily, lazy=True), step(at_once)
    assert len(lazily.pending_operations) == 2
    found, expected = made(lazily), make()(at_once)
    assert found.shape == expected.shape
    assert torch.equal(found, expected)
    ours, theirs = (to_affine_nd(2, one.affine) for one in (found, expected))
    assert torch.equal(ours, theirs)
    assert not found.pending_operations
    names = [[o["class"] for o in r.applied_operations] for r in (found, expected)]
    assert names[0] == names[1]
    assert names[0][:2] == ["Flip", "SpatialCrop"]


@pytest.mark.parametrize("make", UNRECORDED)
def test_without_tracking_there_are_no_metadata(make: Callable[[], Any]) -> None:
    image = placed((14, 16)).new_tensor(np.eye(14, 16)[None])
    expected = make()(image)
    set_track_meta(False)
    try:
        found = make()(image)
    finally:
        set_track_meta(True)
    assert type(found) is torch.Tensor
    assert type(expected) is MetaTensor
    assert torch.equal(found, expected.as_tensor())


@pytest.mark.parametrize("make", UNRECORDED)
def test_types_that_numpy_or_pytorch_lack_are_taken(make: Callable[[], Any]) -> None:
    """bfloat16, which NumPy lacks, tensors with a gradient, and big-endian arrays of readers."""
    plain = torch.zeros(1, 14, 16)
    plain[0, 3:9, 2:12] = 1
    expected = make()(plain)
    for image in (plain.bfloat16(), plain.clone().requires_grad_(), plain.numpy().astype(">f4")):
        found = torch.as_tensor(np.asarray(as_array(make()(image)), np.float32))
        assert (found - expected).abs().max() <= 2**-8  # half a step of bfloat16 below 2


@pytest.mark.parametrize("make", UNRECORDED[:5])
def test_an_image_without_pixels_is_refused(make: Callable[[], Any]) -> None:
    for empty in (torch.zeros(1, 0, 9), np.zeros((1, 9, 0), np.float32)):
        with pytest.raises(ValueError, match=r"\(.*0.*\): expected"):
            make()(empty)


def test_dictionaries_have_the_names_of_monai() -> None:
    found = vars(overtile.transforms)
    forms = [n for n, v in found.items() if isinstance(v, type) and issubclass(v, MapTransform)]
    short = {name[:-1] for name in forms if name.endswith("d")}
    assert len(short) == 12
    assert set(forms) == {f"{name}{end}" for name in short for end in ("d", "D", "Dict")}
    for name in short:
        assert found[f"{name}D"] is found[f"{name}Dict"] is found[f"{name}d"]
    for name in short - {"RandEachChannel"}:  # which wraps a transform of dictionaries
        assert issubclass(found[name], Transform)  # the form for arrays


def test_monais_names_of_modes() -> None:
    image = torch.rand(1, 20, 20)
    for ours, theirs in (("reflect", "reflection"), ("replicate", "border"), ("constant", "zeros")):
        found = [
            RandElasticDeform(padding_mode=name, mode=mode).set_random_state(seed=0)(image)
            for name, mode in ((ours, "bilinear"), (theirs, "linear"), (theirs, 1))  # type: ignore[arg-type]
        ]
        assert all(torch.equal(found[0], one) for one in found)
        assert OverlapTileInferer(padding_mode=theirs).padding_mode == ours
    volume = torch.rand(1, 9, 9, 9)
    names = ("bilinear", "trilinear")
    one, other = (RandElasticDeform(mode=m).set_random_state(seed=0)(volume) for m in names)
    assert torch.equal(one, other)


@given(
    seed=st.integers(0, 999),
    size=st.lists(st.integers(3, 25), min_size=2, max_size=3).map(tuple),
    weights=st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]),
)
@settings(max_examples=30, deadline=None)
def test_tiles_are_guided_by_the_label(
    seed: int, size: tuple[int, ...], weights: tuple[float, float]
) -> None:
    label = np.zeros((1, *size), np.int32)
    label[(0, *(n // 2 for n in size))] = 5  # one pixel, which chance would hardly find
    margin = 2
    cut = RandDeformedTiled(
        ["image", "label"],
        2 * margin + 1,
        margin,
        mode=["bilinear", "nearest"],
        num_samples=12,
        label_key="label",
        pos=weights[0],
        neg=weights[1],
        sigma=0.0,
    ).set_random_state(seed=seed)
    tiles = cut({"image": label.astype(np.float32), "label": label})
    assert len(tiles) == 12
    shown = [CropToOutput(margin)(tile["label"]).item() for tile in tiles]
    expected = {(1.0, 0.0): {5}, (0.0, 1.0): {0}, (1.0, 1.0): {0, 5}}[weights]
    assert set(shown) <= expected
    assert weights != (1.0, 1.0) or 0 < sum(map(bool, shown)) < 12


def test_where_a_kind_is_missing_the_other_guides() -> None:
    for value in (0, 1):
        label = np.full((1, 9, 9), value, np.uint8)
        cut = RandDeformedTile(5, mode="nearest").set_random_state(seed=0)
        assert cut(label, label=label).shape == (1, 5, 5)
    with pytest.raises(ValueError, match=r"label of \(9, 8\): expected \(9, 9\)"):
        cut(label, label=label[..., :8])


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"pos": 0, "neg": 0}, {"pos": -1}])
def test_samples_out_of_range_are_named(options: Any) -> None:
    for make in (RandDeformedTile, lambda size, **o: RandDeformedTiled("image", size, **o)):
        with pytest.raises(ValueError, match=f"{next(iter(options))}="):
            make(9, **options)


def test_one_tile_and_many_repeat_by_seed() -> None:
    image = torch.rand(1, 30, 30)
    many = RandDeformedTile(9, num_samples=4).set_random_state(seed=3)(image)
    one = RandDeformedTile(9).set_random_state(seed=3)
    assert all(torch.equal(tile, one(image)) for tile in many)
    again = RandDeformedTiled("image", 9, num_samples=4).set_random_state(seed=3)({"image": image})
    assert all(torch.equal(tile, item["image"]) for tile, item in zip(many, again, strict=True))
