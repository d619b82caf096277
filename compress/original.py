"""The original: trained here, or loaded from weights that came from elsewhere."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pdtool
from pdtool.artifacts import Preprocessing
from pdtool.compress.models import ModelSpec, approve, build
from pdtool.compress.split import align, hold_back, preprocessing_of
from pdtool.compress.training import RECIPES, Recipe, TrainingSet, accuracy, fit, made_on
from pdtool.compress.watch import Watch, silent
from pdtool.compress.weights import fit_state, load_weights, save_weights
from pdtool.data import Dataset, load_data
from pdtool.errors import InputError, UsageError
from pdtool.jsonform import canonical, decode, encode, parse

__all__ = [
    "Original",
    "Trained",
    "Weights",
    "load_original",
    "original_of",
    "pick_device",
    "read_weights",
    "train_original",
]


@dataclass(frozen=True)
class Original:
    """A classifier ready to be compressed: the net (takes normalised inputs, evaluation mode) and what it means."""

    spec: ModelSpec
    net: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def metadata(self) -> dict[str, str]:
        """What a weights file must say so that `load_original` needs nothing else."""
        return {
            "model": str(self.spec),
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "preprocessing": canonical(encode(self.preprocessing)).decode(),
        }


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What `train_original` reports. `accuracy` is on `accuracy_images` images that were not trained on."""

    file: str
    model: str
    classes: int
    train_images: int
    steps: int
    accuracy: float
    accuracy_images: int
    accuracy_on: str
    seconds: float


def train_original(
    model: str,
    data: str,
    out: Path,
    *,
    test: str | None = None,
    recipe: Recipe = RECIPES["train"],
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
    like: Original | None = None,
    fitting: Callable[..., float] = fit,
    about: Mapping[str, str] | None = None,
    watch: Watch = silent,
) -> Trained:
    """Train a model from scratch and write its weights with everything that `compress` needs.

    A tenth of the data is held back (the same one that `compress` holds back) and gives the accuracy, unless `test`
    names other data. `dry_run` trains and writes nothing; its accuracy and seconds are 0.
    Classes and preprocessing are those of the data, or of the original `like`. `fitting` trains, as `fit` does; `about`
    is added to the file's metadata.
    Raises InputError for unusable data or an existing `out` (unless `force`), UsageError for a bad spec, GateError
    where the loss is no longer a number.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out should end in .safetensors, is {out}")
    if out.exists() and not force:
        raise InputError(f"{out}: exists already; choose another --out or add --force to replace it")
    if not out.parent.is_dir():
        raise InputError(f"{out}: its folder does not exist; create {out.parent} first")
    place = pick_device(device)
    spec = ModelSpec.parse(model)
    dataset = load_labelled(data, spec)
    classes = dataset.classes if like is None else like.classes
    spec = spec.with_classes(len(classes))
    kept, held = hold_back(align(dataset, classes), dataset.groups, spec=data)
    if test is not None:
        held = align(load_data(test, spec.input, role="test"), classes)
    preprocessing = override(preprocessing_of(kept.images) if like is None else like.preprocessing, mean, std)
    net = build(spec, seed=seed)
    recipe, steps = recipe.resolved(len(kept)), recipe.steps(len(kept))
    seconds = rate = 0.0
    if not dry_run:
        training = TrainingSet.of(kept.images, kept.labels, preprocessing, place)
        with watch(f"train {spec.name}", steps) as task:
            seconds = fitting(net.to(place), training, recipe, seed=seed, tick=task.advance)
        rate = accuracy(net, held.images, held.labels, preprocessing)
        metadata = Original(spec, net, classes, preprocessing).metadata() | {
            "accuracy": str(round(rate, 6)),
            "accuracy_images": str(len(held)),
            "data": data,
            "data_fingerprint": dataset.fingerprint,
            "seed": str(seed),
            "recipe": canonical(encode(recipe)).decode(),
            "made_on": made_on(net),
            "pdtool": pdtool.__version__,
            **(about or {}),
        }
        save_weights(out, net, metadata)
    return Trained(
        file=str(out),
        model=str(spec),
        classes=len(classes),
        train_images=len(kept),
        steps=steps,
        accuracy=rate,
        accuracy_images=len(held),
        accuracy_on=test or "held back from --data",
        seconds=seconds,
    )


@dataclass(frozen=True)
class Weights:
    """A file of weights, read once: its tensors, its metadata, and the model it is for."""

    path: Path
    state: dict[str, Tensor] = field(repr=False)
    metadata: dict[str, str]
    spec: ModelSpec


def read_weights(path: Path, *, model: str | None = None) -> Weights:
    """Read weights for `model`, or for the built-in model that they name themselves.

    Raises UsageError where neither says the model, and where only the file names a factory: its code is not run.
    """
    state, metadata = load_weights(path)
    if model is not None:
        return Weights(path, state, metadata, ModelSpec.parse(model))
    if "model" not in metadata:
        raise UsageError(f"{path}: does not say which model it is for; give --model, e.g. resnet18:width=16")
    return Weights(path, state, metadata, approve(metadata["model"], None, file=str(path)))


def load_original(
    weights: Path,
    dataset: Dataset | None = None,
    *,
    model: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Original, tuple[str, ...]]:
    """`original_of` the weights that `read_weights` reads."""
    return original_of(read_weights(weights, model=model), dataset, mean=mean, std=std)


def original_of(
    read: Weights,
    dataset: Dataset | None = None,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Original, tuple[str, ...]]:
    """The original of a weights file, and notes on what had to be assumed.

    Weights written by `train` say everything. For others the classes are the dataset's, and mean and std are the
    dataset's own where they are not given.
    """
    weights, metadata, spec = read.path, read.metadata, read.spec
    notes = []
    if "classes" in metadata:
        classes = _classes(metadata["classes"], str(weights))
    elif dataset is not None:
        classes = dataset.classes
    else:
        raise InputError(f"{weights}: does not say its classes")
    spec = spec.with_classes(len(classes))
    if "preprocessing" in metadata:
        document = parse(metadata["preprocessing"].encode(), file=f"{weights}: preprocessing")
        preprocessing = decode(Preprocessing, document, file=f"{weights}: preprocessing")
    elif dataset is not None:
        preprocessing = preprocessing_of(dataset.images)
        if mean is None or std is None:
            notes.append(
                f"{weights.name} does not say how its inputs were normalised: using the data's "
                f"mean {preprocessing.mean} and std {preprocessing.std}; give --mean and --std if trained with others"
            )
    else:
        raise InputError(f"{weights}: does not say its preprocessing")
    preprocessing = override(preprocessing, mean, std)
    if (preprocessing.channels, preprocessing.height, preprocessing.width) != spec.input:
        raise InputError(f"{weights}: its preprocessing is not for the input of {spec}; leave --model out")
    net = build(spec)
    fit_state(net, read.state, file=str(weights), model=str(spec))
    return Original(spec, net.eval(), classes, preprocessing), tuple(notes)


def load_labelled(data: str, spec: ModelSpec) -> Dataset:
    """Training data for a model. Raises InputError for data without labels or with fewer than two classes."""
    dataset = load_data(data, spec.input, role="train")
    if dataset.labels is None:
        raise InputError(f"{data}: has no labels; expected folders named after classes, or an npz with labels")
    if len(np.unique(dataset.labels)) < 2:
        raise InputError(f"{data}: has images of one class only; a classifier needs at least two classes")
    return dataset


def override(
    preprocessing: Preprocessing, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Preprocessing:
    """With the user's mean or std in place. Raises UsageError where their number does not fit."""
    try:
        return replace(preprocessing, mean=mean or preprocessing.mean, std=std or preprocessing.std)
    except ValueError as error:
        raise UsageError(f"--mean and --std: {error}") from None


def pick_device(device: str) -> str:
    """`auto` is the GPU where torch sees one. Raises UsageError for an unknown or absent device."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise UsageError(f"where torch computes should be auto, cpu or cuda, is {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("cannot compute on cuda: torch sees no GPU; take cpu")
    return device


def _classes(text: str, file: str) -> tuple[str, ...]:
    try:
        classes = json.loads(text)
    except ValueError:
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{file}: its metadata field 'classes' should be a list of names")
    return tuple(classes)
