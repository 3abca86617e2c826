"""The settings of a bundle: what each is called, may be, means, and where it stands.

From here come the check of all values (`overtile.pipelines.bundle.check`), what the folder of a run
remembers (`overtile.pipelines.bundle.run_bundle`), and the tables of the reference page
(`overtile.pipelines.bundle.reference`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from overtile.networks.geometry import PADDING_MODES
from overtile.networks.inferers.precision import PRECISIONS
from overtile.pipelines.bundle.values import (
    CHANNELS,
    CLASS_NAMES,
    CLASSES,
    COMPONENT,
    COMPONENTS,
    DEVICE,
    FEATURES,
    KERNELS,
    LAYOUT,
    LIST,
    NAMES,
    PART,
    PATH,
    SCALE,
    SECTION,
    SIDE,
    SIDES,
    SPACING,
    STEPS,
    STRIDES,
    TEXT,
    number,
    one_of,
    whole,
)
from overtile.transforms.normalize import METHODS

CONFIGURATIONS = ("train", "inference", "evaluation")

# Far above what is of use, so that a slip of the finger does not fill a disk or a year.
BYTES = 10**15
FILES = 10**6
COUNT = 10**7
AREA = 10**9
SEEDS = 2**31 - 1  # the number of the epoch is added, and NumPy takes 32 bits


class Resumed(StrEnum):
    """What becomes of a new value when a run is resumed, in the words of the reference page."""

    TAKEN = "taken"
    IMAGES = "taken, if validation and test images stay the same"
    REFUSED = "refused"


@dataclass(frozen=True)
class Key:
    """A setting, or a part, of a configuration.

    Attributes:
        name: as in the configuration; ``network_def#features`` lies inside a part.
        type: what it may be, for pydantic; see `overtile.pipelines.bundle.values`.
        told: for each configuration that has it, what it means and when to change it.
        unit: of a number.
        part: whether it is no plain value.
        gives: the class of what a part gives.
        carried: whether a trained network has to be used with the value of its training.
        decides: whether it changes what is found in an image.
        resumed: what becomes of a new value when a run is resumed.
    """

    name: str
    type: Any
    told: Mapping[str, tuple[str, str]]
    unit: str = ""
    part: bool = False
    gives: str = ""
    carried: bool = False
    decides: bool = True
    resumed: Resumed = Resumed.TAKEN


def _train(meaning: str, change: str) -> dict[str, tuple[str, str]]:
    return {"train": (meaning, change)}


def _all(meaning: str, change: str, others: tuple[str, str]) -> dict[str, tuple[str, str]]:
    return {"train": (meaning, change), "inference": others, "evaluation": others}


def _scoring(meaning: str, change: str, others: tuple[str, str]) -> dict[str, tuple[str, str]]:
    return {"train": (meaning, change), "evaluation": others}


def _using(meaning: str, change: str, scored: tuple[str, str]) -> dict[str, tuple[str, str]]:
    return {"inference": (meaning, change), "evaluation": scored}


_AS = ("as in training", "with training")
_SEE = ("as in training", "see [instances](../concepts/instances.md#which-to-change)")
_GPU = ("where to compute", "to choose between several GPUs")
_NETWORK = ("the network, as it was in training", "whenever training had another")
_ROOT = ("folder of the bundle", "always give it, as the commands show")
_BROKEN = (
    "go on without files that cannot be used, and list them",
    "if some files are known to be broken",
)
_INFERER = (
    "`SpacingInferer` around a `RotationAveragingInferer` around a `MixedPrecisionInferer` around "
    "an `OverlapTileInferer`",
    "no",
)

SETTINGS = (
    Key(
        "bundle_root",
        PATH,
        _all("folder of the bundle, kept with the run", _ROOT[1], _ROOT),
        decides=False,
    ),
    Key(
        "output_dir",
        PATH,
        {
            "train": (
                "folder of the run: networks, figures, summary; an earlier run is moved aside",
                "for each run that should keep its own name",
            ),
            "inference": (
                "gets the [results](layouts.md#what-inference-writes)",
                "for each set of images",
            ),
            "evaluation": (
                "gets `evaluation.csv` (a row an image), `evaluation.json` and "
                "[`report.html`](report.md)",
                "for each set of images",
            ),
        },
        decides=False,
    ),
    Key(
        "dataset_dir",
        PATH | None,
        {
            "train": (
                "folder of images and labels; none: generated cells (touching cells), an error "
                "(membranes)",
                "for your own data",
            ),
            "inference": (
                "an image, or a folder of them; `stack.tif:3` is page 3, from 0",
                "always",
            ),
            "evaluation": ("labelled images", "always"),
        },
        decides=False,
        resumed=Resumed.IMAGES,
    ),
    Key(
        "layout",
        LAYOUT,
        _scoring(
            "how the folder is laid out: one of the [layouts](layouts.md), or `auto`, which looks",
            "if `auto` takes the wrong one",
            ("as in training", "if `auto` takes the wrong one"),
        ),
        resumed=Resumed.IMAGES,
    ),
    Key(
        "split",
        one_of("train", "val", "test", "all") | None,
        {
            "evaluation": (
                "which images; none: the test images, where there are such, else all",
                "`val` scores what training set aside",
            )
        },
    ),
    Key(
        "labels",
        one_of("instances", "mask", "membranes", "classes"),
        _scoring(
            "what labels hold: `instances`, one number a cell; `mask`, cells are what is not 0; "
            "`membranes`, the same, refusing labels of more than two values; `classes`, one number "
            "a class, for which `bundles/organs` is made, and no other",
            "if your labels are another kind",
            ("as in training", "if your labels are another kind"),
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "ignore",
        whole(-(2**31), 2**32) | None,
        _scoring(
            "the value of labels at pixels that are not annotated: they weigh nothing in training "
            "and count in no score; none: everything is annotated",
            "if only parts of your images are annotated, e.g. to 255 or -1",
            ("as in training", "if only parts of the images are annotated"),
        ),
        resumed=Resumed.REFUSED,
    ),
    Key(
        "unlabelled",
        one_of("background", "ignore", "band"),
        _scoring(
            "what 0 in labels means: `background`; `ignore`, not annotated; `band`, background "
            "within `band` of a cell and not annotated beyond",
            "to `band`, if only some of the cells of an image are drawn",
            ("as in training", "if only some of the cells are drawn"),
        ),
        resumed=Resumed.REFUSED,
    ),
    Key(
        "band",
        number(high=10000, above=0),
        _scoring(
            "how far from a cell background is taken for granted, with `unlabelled` `band`",
            "to less than the distance at which other cells may lie",
            ("as in training", "with training"),
        ),
        unit="pixels",
        resumed=Resumed.REFUSED,
    ),
    Key(
        "class_names",
        CLASS_NAMES | None,
        _all(
            "of `classes`, from that of 0 (background) on; none: those of the folder's "
            "`dataset.json`, else numbers, as many as the training labels have",
            "to name classes that no `dataset.json` names",
            _AS,
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "num_classes",
        whole(2, 255),
        _all("how many classes the network tells apart: those of the data", "no", _AS),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "checkpoint",
        PATH,
        _using(
            "trained network",
            "to use a network from elsewhere",
            ("trained network", "to use a network from elsewhere"),
        ),
        decides=False,
    ),
    Key(
        "spatial_dims",
        whole(2, 3),
        _all(
            "2 takes volumes plane by plane, 3 whole",
            "to 3 for volumes, with a smaller `tile`",
            _AS,
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "channels",
        CHANNELS | None,
        _all(
            "which channels are read, in their order: `all`, one or several by number (from 0) or "
            "name, or the `luminance` of colours; none: images are grey",
            "for colours, stains and contrasts",
            _AS,
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "in_channels",
        whole(1, 4096),
        _all(
            "how many channels the network takes: those of the data",
            "no",
            ("as in training; an image with others is refused", "with training"),
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "channel_names",
        NAMES | None,
        _using(
            "what these are called, in their order; none: that is not known",
            "with training",
            ("as in training; an image with others is refused", "with training"),
        ),
        carried=True,
    ),
    Key(
        "normalize",
        one_of(*METHODS),
        _all(
            "grey values of each image, each channel alone: `zscore` (mean 0, deviation 1), "
            "`percentile` (1st to 99.8th becomes 0 to 1), `none`",
            "for few very bright spots; it is kept with the network",
            ("as in training; another than the network's is refused", "with training"),
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "spacing",
        one_of("median") | SPACING | None,
        _all(
            "size of the network's pixels along each axis of the array, in its order, or `median`, "
            "that of the training images: tiles and images are "
            "[resampled](../concepts/spacing.md) to it; none: pixels as they are",
            "to `median`, if images differ in the size of their pixels",
            ("as in training; results lie on the pixels of the image", "with training"),
        ),
        unit="millimetres",
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key("skip_unreadable", bool, _all(*_BROKEN, _BROKEN), decides=False, resumed=Resumed.IMAGES),
    Key(
        "image_memory_limit",
        whole(1, BYTES) | None,
        {
            "inference": (
                "what segmenting one image may take, at about 64 a pixel; a larger image is "
                "refused; none: the memory of the machine",
                "to try a larger image all the same",
            )
        },
        unit="bytes",
        decides=False,
    ),
    Key(
        "save_probabilities",
        bool,
        {"inference": ("write P(cell) too", "to look at them, or to find instances otherwise")},
        decides=False,
    ),
    Key(
        "val_fraction",
        number(0, below=1),
        _scoring(
            "share of the training images, the last ones, that validates where the folder brings "
            "no `val/`. 0 validates on none: then the last network is kept, not the best",
            "with very few or very many images",
            _AS,
        ),
        carried=True,
        resumed=Resumed.IMAGES,
    ),
    Key(
        "fold",
        whole(0, FILES - 1) | None,
        _scoring(
            "for a cross-validation, below `folds`: this one of `folds` contiguous blocks of the "
            "training images is the unseen test set",
            "to train once for each block",
            ("as in training: the fold that the network has not seen", "with training"),
        ),
        carried=True,
        resumed=Resumed.IMAGES,
    ),
    Key(
        "folds",
        whole(2, FILES),
        _scoring("how many blocks", "10, for few images", _AS),
        carried=True,
        resumed=Resumed.IMAGES,
    ),
    Key(
        "train_subset",
        whole(1, FILES) | None,
        _train(
            "train with so few of the training images, spread evenly",
            "to see what fewer annotations give",
        ),
    ),
    Key(
        "cache_dir",
        PATH | None,
        _scoring(
            "where decoded images are kept for the next run; none: `$OVERTILE_CACHE`, else "
            "`overtile` in the user's cache folder. It may be deleted at any time",
            "to a fast disk",
            ("as in training", "to a fast disk"),
        ),
    ),
    Key(
        "cache_memory",
        whole(0, BYTES),
        _train(
            "decoded images to hold in memory; the rest is mapped from `cache_dir`",
            "with the machine",
        ),
        unit="bytes",
    ),
    Key(
        "tracking_uri",
        TEXT | None,
        _train(
            "MLflow's store; none: `mlflow.db` beside `output_dir`. The environment's "
            "`MLFLOW_TRACKING_URI` has precedence",
            "to send runs to a server",
        ),
    ),
    Key(
        "resume",
        bool,
        _train(
            "go on with the run in `output_dir` from its last completed epoch",
            "after a run was stopped, or to raise `max_epochs`",
        ),
    ),
    Key(
        "initial_weights",
        PATH | None,
        _train(
            "a checkpoint to start from, e.g. the `models/model.pt` of a bundle; not for `resume`",
            "to train a network further on images of your own: with a third of the `learning_rate`",
        ),
        resumed=Resumed.REFUSED,
    ),
    Key("device", DEVICE, _all(*_GPU, _GPU), decides=False),
    Key(
        "seed",
        whole(0, SEEDS),
        _train("of weights, samples, dropout and generated data", "to see how much results vary"),
        resumed=Resumed.IMAGES,
    ),
    Key(
        "num_workers",
        whole(0, 1024),
        _train(
            "processes that prepare samples; results do not depend on it",
            "up, if the GPU waits; 0 if processes are a problem",
        ),
    ),
    Key(
        "precision",
        one_of(*PRECISIONS),
        {
            "train": (
                "in which the network multiplies: `bfloat16` leaves weights in float32; `auto`: "
                "bfloat16 where the hardware has it",
                "`float32`, to get the same network on another kind of machine",
            ),
            "inference": (
                "as in training",
                "`float32`, for the same probabilities on every machine",
            ),
            "evaluation": (
                "as in inference; scores are compared between machines, so they are made in "
                "float32",
                "`auto`, to score what `inference` does",
            ),
        },
    ),
    Key(
        "max_epochs",
        whole(1, COUNT),
        _train("epochs in all", "up, while the validation scores still rise"),
    ),
    Key(
        "samples_per_epoch",
        whole(1, COUNT),
        _train("training tiles an epoch", "to validate and save more or less often"),
    ),
    Key(
        "batch_size",
        whole(1, 4096),
        _train(
            "tiles a step; they have to fit into memory together",
            "rather enlarge `tile`: large tiles waste less on context",
        ),
    ),
    Key(
        "val_interval",
        whole(1, COUNT),
        _train("validate every so many epochs", "up, if validation takes longer than an epoch"),
    ),
    Key(
        "learning_rate",
        number(high=1e6, above=0),
        _train("largest learning rate, after the warm-up", "down, if the loss diverges"),
    ),
    Key(
        "momentum",
        number(0, below=1),
        _train("of SGD, in `configs/experiments/sgd.json` alone", "seldom"),
    ),
    Key("weight_decay", number(0, 100), _train("of AdamW", "seldom")),
    Key(
        "warmup_steps",
        whole(0, COUNT),
        _train("steps until the learning rate is reached", "up, if the first steps diverge"),
    ),
    Key("clip_norm", number(high=1e9, above=0), _train("largest norm of a gradient", "seldom")),
    Key(
        "tile",
        whole(1, SIDE) | SIDES,
        _train(
            "side of a training tile, input of the network, or one an axis",
            "up, if cells are as large as a tile's output (`tile` - 2 margins)",
        ),
        unit="pixels",
    ),
    Key(
        "foreground",
        number(0, 1) | None,
        _train(
            "share of the tiles that are placed around a pixel of a class above 0, the others "
            "around one of class 0; none: anywhere",
            "up, if classes are small in large volumes",
        ),
    ),
    Key(
        "separation_width",
        whole(1, 1000),
        _train("background drawn between touching cells", "up for high magnification"),
        unit="pixels",
    ),
    Key(
        "w0",
        number(0, 1e6),
        _train(
            "weight of a gap of width 0, added to the class weight",
            "up, if cells run together; 0 turns it off",
        ),
    ),
    Key(
        "sigma",
        number(0.01, 10000),
        _train(
            "reach of that weight: it falls with the distances to the two nearest cells",
            "with the magnification",
        ),
        unit="pixels",
    ),
    Key(
        "weight_where",
        one_of("background", "everywhere"),
        _train("where it is added", "to follow the equation as printed"),
    ),
    Key(
        "balance_classes",
        bool | number(0, 1),
        _train(
            "class weights w_c: `true`, or 1, gives all classes (cells and background) the same "
            "total, `false`, or 0, all pixels the same; between them w_c falls with that power of "
            "the frequency",
            "up, if a class is so rare that it is not found",
        ),
    ),
    Key(
        "border_classes",
        CLASSES | None,
        _train(
            "between whose components `w0` works; none: nowhere",
            "for classes whose parts run together",
        ),
    ),
    Key(
        "deformation_sigma",
        number(0, 1000),
        _train(
            "standard deviation of the displacements on the 3x3 grid",
            "down, if deformed cells look unnatural",
        ),
        unit="pixels",
    ),
    Key(
        "scale",
        SCALE,
        _train(
            "smallest and largest magnification of a tile",
            "wider, if the images to come are of other magnifications",
        ),
    ),
    Key(
        "rotate",
        number(0, 3.2),
        _train(
            "largest angle by which a tile is turned, either way, in 3D in the plane of the last "
            "two axes",
            "to pi, where no direction is special",
        ),
        unit="radians",
    ),
    Key(
        "flip",
        bool,
        _train(
            "mirror each axis of a tile with probability 1/2",
            "to `true`, where mirrored anatomy is as likely",
        ),
    ),
    Key(
        "padding_mode",
        one_of(*PADDING_MODES),
        _all(
            "context beyond the image's edge: `reflect` mirrors it, `replicate` repeats the edge, "
            "`constant` is 0; in training and inference alike",
            "for comparison",
            _AS,
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "threshold",
        number(0, 1),
        _all(
            "P(cell) above which a pixel is the core of a cell", "up, if cells run together", _SEE
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "extent",
        number(0, 1),
        _all(
            "P(cell) above which a pixel may be taken back by a cell, at most `threshold`",
            "down, if cells come out too small",
            _SEE,
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "grow",
        number(0, 10000),
        _all("how far cells may take back", "with the magnification", _SEE),
        unit="pixels",
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "min_size",
        whole(0, AREA),
        _all("cores of fewer pixels are dropped", "up, if debris is counted", _SEE),
        unit="pixels",
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "max_hole",
        whole(0, AREA),
        _all(
            "holes of up to so many pixels inside one cell are filled",
            "up, if cells come out with holes",
            _SEE,
        ),
        unit="pixels",
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "growth",
        one_of("nearest", "watershed"),
        _all(
            "how cells take back: `nearest`, each pixel by the nearest cell, or `watershed`, by "
            "flooding P(cell)",
            "see [instances](../concepts/instances.md)",
            _SEE,
        ),
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "line",
        whole(0, 1000),
        _all(
            "gaps of up to so many pixels between two cells are given back to them; the width of "
            "the lines in the training labels, or a pixel more",
            "with `separation_width`",
            _SEE,
        ),
        unit="pixels",
        carried=True,
        resumed=Resumed.REFUSED,
    ),
    Key(
        "surface_tolerance",
        number(0, 1e6),
        {
            "evaluation": (
                "how far apart surfaces may lie and agree, for surface Dice",
                "to how well two people agree",
            )
        },
        unit="units of the spacing (mm of NIfTI)",
    ),
    Key(
        "versions",
        whole(1, 8),
        _using(
            "rotated and mirrored versions of the image to average over; the paper's 7 take 7 "
            "times as long",
            "7, for the last bit of accuracy",
            (
                "as in inference; the paper's default here",
                "1, to score what `inference` does by default",
            ),
        ),
    ),
    Key(
        "roi_size",
        whole(1, SIDE) | SIDES | None,
        _using(
            "side of an input tile; none: the fastest within `memory_limit`. The result does not "
            "depend on it",
            "seldom",
            ("as in inference", "seldom"),
        ),
        unit="pixels",
    ),
    Key(
        "memory_limit",
        whole(1, BYTES),
        _using(
            "what the activations of one tile may take",
            "up on a GPU; down, if memory runs out",
            ("as in inference", "up on a GPU; down, if memory runs out"),
        ),
        unit="bytes",
        decides=False,
    ),
    Key(
        "compile",
        bool,
        {
            "inference": (
                "run the network through `torch.compile`; needs a C++ compiler on a CPU",
                "for [thousands of tiles](../concepts/tiles.md#how-large-a-tile)",
            )
        },
    ),
)


_MAPPING = "collections.abc.Mapping"
_GIVES = {LIST: "builtins.list", STEPS: "builtins.list", SECTION: _MAPPING, COMPONENTS: _MAPPING}


def _part(
    name: str,
    told: Mapping[str, tuple[str, str]],
    type: Any = COMPONENT,
    *,
    gives: str = "",
    carried: bool = False,
    decides: bool = True,
    resumed: Resumed = Resumed.TAKEN,
) -> Key:
    return Key(
        name,
        type,
        told,
        part=True,
        gives=gives or _GIVES.get(type, ""),
        carried=carried,
        decides=decides,
        resumed=resumed,
    )


_OWN_SGD = (
    "the paper's SGD with momentum 0.99 is `configs/experiments/sgd.json`: `--config_file "
    "\"['$BUNDLE/configs/train.json','$BUNDLE/configs/experiments/sgd.json']\"`"
)
_UNTOLD = ("", "")
_FUNCTION = "collections.abc.Callable"
_NETWORK_CLASS = "torch.nn.Module"
_DATASET = "torch.utils.data.Dataset"
_LOADER = "torch.utils.data.DataLoader"
_ENGINE = "ignite.engine.Engine"

PARTS = (
    _part(
        "network_def",
        _all(
            "the network: `ValidUNet`, its channels a level in `features`, its `dropout`",
            "wider or deeper for more data; [another network](../how-to/own-network.md)",
            _NETWORK,
        ),
        carried=True,
        gives=_NETWORK_CLASS,
        resumed=Resumed.REFUSED,
    ),
    Key("network_def#features", FEATURES, _all(*_UNTOLD, _UNTOLD), resumed=Resumed.REFUSED),
    Key(
        "network_def#dropout", number(0, below=1), _all(*_UNTOLD, _UNTOLD), resumed=Resumed.REFUSED
    ),
    Key(
        "network_def#in_channels", whole(1, 4096), _all(*_UNTOLD, _UNTOLD), resumed=Resumed.REFUSED
    ),
    Key(
        "network_def#out_channels", whole(1, 4096), _all(*_UNTOLD, _UNTOLD), resumed=Resumed.REFUSED
    ),
    Key(
        "network_def#kernel_size",
        whole(1, 3) | KERNELS,
        _all(*_UNTOLD, _UNTOLD),
        resumed=Resumed.REFUSED,
    ),
    Key(
        "network_def#strides",
        whole(1, 2) | STRIDES,
        _all(*_UNTOLD, _UNTOLD),
        resumed=Resumed.REFUSED,
    ),
    Key(
        "network_def#norm",
        one_of("batch") | None,
        _all(*_UNTOLD, _UNTOLD),
        resumed=Resumed.REFUSED,
    ),
    Key("network_def#spatial_dims", whole(2, 3), _all(*_UNTOLD, _UNTOLD), resumed=Resumed.REFUSED),
    _part(
        "network",
        _all("the same on `device`", "no", ("the same on `device`", "no")),
        gives=_NETWORK_CLASS,
    ),
    _part(
        "geometry",
        _train("sizes and margin of the network; its own", "for a network without `geometry`"),
        gives="overtile.networks.TileGeometry",
        resumed=Resumed.REFUSED,
    ),
    _part(
        "data",
        _train("the data set that `find_data` finds", "no; see `dataset_dir`"),
        gives="overtile.pipelines.data.find.DataSet",
        resumed=Resumed.IMAGES,
    ),
    _part(
        "settings",
        _all(
            "how images are read and normalised; kept with the network, and compared before it is "
            "used",
            "no",
            ("as in training", "no"),
        ),
        SECTION,
        resumed=Resumed.REFUSED,
    ),
    _part(
        "loss",
        _train(
            "cross-entropy under the weight map",
            "for a loss of (logits, labels, weights) of your own",
        ),
        gives=_FUNCTION,
    ),
    _part(
        "optimizer",
        _train("AdamW", _OWN_SGD),
        gives="torch.optim.Optimizer",
        resumed=Resumed.REFUSED,
    ),
    _part(
        "lr_scheduler",
        _train("warm-up and cosine, by steps", "for another schedule of MONAI or PyTorch"),
        gives="torch.optim.lr_scheduler.LRScheduler",
    ),
    _part(
        "inferer",
        {
            "train": (
                "how whole images are run: `OverlapTileInferer`",
                "its `roi_size` or `memory_limit`, if validation runs out of memory",
            ),
            "inference": _INFERER,
            "evaluation": _INFERER,
        },
        gives=_FUNCTION,
    ),
    _part(
        "read",
        _train(
            "transforms that read and normalise, once an image",
            "to normalise otherwise; then in inference too",
        ),
        STEPS,
        resumed=Resumed.REFUSED,
    ),
    _part(
        "preprocessing",
        _using(
            "reads and normalises", "as `read` in training", ("reads and normalises", "as there")
        ),
        gives=_FUNCTION,
    ),
    _part(
        "dataset",
        _using("the images", "no", ("the labelled images", "no")),
        decides=False,
        gives=_DATASET,
    ),
    _part(
        "dataloader", _using("its loader", "no", ("its loader", "no")), decides=False, gives=_LOADER
    ),
    _part(
        "postprocessing",
        _using(
            "probabilities, instances, files",
            "to write other files",
            ("probabilities, instances", "no"),
        ),
        gives=_FUNCTION,
    ),
    _part(
        "train",
        _train(
            "the trainer: augmentation, data set, loader, handlers",
            "`train#augmentation`: [own transform](../how-to/own-transform.md)",
        ),
        SECTION,
    ),
    _part("train#preprocessing", _train(*_UNTOLD), gives=_FUNCTION),
    _part("train#augmentation", _train(*_UNTOLD), STEPS),
    _part("train#dataset", _train(*_UNTOLD), gives=_DATASET),
    _part("train#sampler", _train(*_UNTOLD), gives="torch.utils.data.Sampler"),
    _part("train#dataloader", _train(*_UNTOLD), gives=_LOADER),
    _part("train#inferer", _train(*_UNTOLD), gives=_FUNCTION),
    _part("train#handlers", _train(*_UNTOLD), STEPS),
    _part("train#trainer", _train(*_UNTOLD), gives=_ENGINE),
    Key("train#trainer#max_epochs", whole(1, COUNT), _train(*_UNTOLD)),
    _part(
        "validate",
        _train(
            "the evaluator: data set, postprocessing, metrics; its key metric chooses the best "
            "epoch",
            "to add a metric of MONAI",
        ),
        SECTION,
    ),
    _part("validate#preprocessing", _train(*_UNTOLD), gives=_FUNCTION, resumed=Resumed.REFUSED),
    _part("validate#dataset", _train(*_UNTOLD), gives=_DATASET),
    _part("validate#dataloader", _train(*_UNTOLD), gives=_LOADER),
    _part("validate#inferer", _train(*_UNTOLD), gives=_FUNCTION),
    _part("validate#postprocessing", _train(*_UNTOLD), gives=_FUNCTION, resumed=Resumed.REFUSED),
    _part("validate#key_metric", _train(*_UNTOLD), COMPONENTS, resumed=Resumed.REFUSED),
    _part("validate#additional_metrics", _train(*_UNTOLD), COMPONENTS),
    _part("validate#handlers", _train(*_UNTOLD), LIST),
    _part("validate#evaluator", _train(*_UNTOLD), gives=_ENGINE),
    _part("test", _train("loader of the unseen images", "no"), SECTION),
    _part("test#dataset", _train(*_UNTOLD), gives=_DATASET),
    _part("test#dataloader", _train(*_UNTOLD), gives=_LOADER),
    _part(
        "checkpoints",
        _train("what is saved, and which score is best", "no"),
        gives="overtile.pipelines.bundle.checkpoints.Checkpoints",
        resumed=Resumed.REFUSED,
    ),
    _part(
        "tracker",
        _train(
            "what is recorded in MLflow, under which experiment",
            "`tracker#experiment`, to group runs",
        ),
        gives="overtile.pipelines.training.tracking.RunTracker",
    ),
    Key("tracker#experiment", TEXT, _train(*_UNTOLD)),
    _part("key_metric", {"evaluation": ("the first score", "for another metric")}, COMPONENTS),
    _part(
        "additional_metrics",
        {"evaluation": ("further scores", "to add a metric of MONAI")},
        COMPONENTS,
    ),
    _part("metrics", {"evaluation": ("all of them", "no")}, COMPONENTS),
    _part(
        "evaluator",
        _using("runs all of this", "no", ("runs all of this", "no")),
        decides=False,
        gives=_ENGINE,
    ),
    _part("training", _train("what `run training` runs", "no"), PART),
    _part("inference", {"inference": ("what `run inference` runs", "no")}, PART, decides=False),
    _part("evaluation", {"evaluation": ("what `run evaluation` runs", "no")}, PART),
    # MONAI's own
    _part("handlers", _using(*_UNTOLD, _UNTOLD), LIST, decides=False),
    _part("imports", _all(*_UNTOLD, _UNTOLD), LIST, decides=False),
    _part("initialize", _all(*_UNTOLD, _UNTOLD), PART, decides=False),
    _part("run", _all(*_UNTOLD, _UNTOLD), PART, decides=False),
)

# What a network remembers of its images is said as the keys say it that it is named after.
KEPT = tuple(
    replace(
        key,
        name=f"settings#{key.name}",
        told=_all(*_UNTOLD, _UNTOLD),
        carried=False,
        resumed=Resumed.REFUSED,
    )
    for key in SETTINGS
    if key.name in ("spatial_dims", "normalize", "channel_names", "class_names", "spacing")
)

KEYS = {key.name: key for key in (*SETTINGS, *PARTS, *KEPT)}


def carried() -> tuple[str, ...]:
    """What a trained network has to be used with."""
    return tuple(name for name, key in KEYS.items() if key.carried)


def decides(name: str) -> bool:
    """Whether a key of a configuration changes what is found in an image; an unknown one may."""
    return name not in KEYS or KEYS[name].decides
