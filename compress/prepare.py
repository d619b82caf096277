"""What pool to make, and everything read and checked before the first member is made."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pdtool.compress import l1_norm, random_channel
from pdtool.compress.member import Method
from pdtool.compress.original import Original, load_labelled, original_of, pick_device, read_weights
from pdtool.compress.prune import Unit, find_units
from pdtool.compress.rates import check_rate
from pdtool.compress.split import Labelled, align, hold_back
from pdtool.compress.training import RECIPES, Recipe, TrainingSet
from pdtool.compress.weights import weights_bytes
from pdtool.data import load_data, pixel_hashes
from pdtool.errors import UsageError
from pdtool.files import sha256_bytes
from pdtool.jsonform import JsonValue, encode

__all__ = ["METHODS", "PoolRequest", "Prepared", "prepare"]

METHODS: dict[str, Method] = {"random-channel": random_channel.select, "l1-norm": l1_norm.select}


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """What pool to make. Rates are shares of channels to remove; `ignore` names layers to leave whole.

    A member is used only with an accuracy of at least `min_accuracy`, or, where that is None, of at least the
    original's less `max_drop`, both on held-out images: a tenth of the data, or `holdout`.
    """

    weights: Path
    data: str
    model: str | None = None
    holdout: str | None = None
    method: str = "random-channel"
    members: int = 16
    rate: float = 0.5
    group_rates: dict[int, float] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    recipe: Recipe = RECIPES["paper"]
    seed: int = 0
    min_accuracy: float | None = None
    max_drop: float = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.members < 1:
            raise UsageError(f"members should be at least 1, is {self.members}")
        if self.recipe.epochs < 0:
            raise UsageError(f"epochs should be at least 0, is {self.recipe.epochs}")
        for name, share in (("min-accuracy", self.min_accuracy), ("max-drop", self.max_drop)):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} should lie in [0, 1], is {share}")
        check_rate(self.rate)


@dataclass(frozen=True)
class Prepared:
    """The request's models and data, checked. `settings` is what a member's recipe key is taken of."""

    original: Original
    units: tuple[Unit, ...]
    whole: dict[str, str]
    training: TrainingSet
    held: Labelled
    recipe: Recipe  # the request's, resolved for this data
    fingerprint: str
    seen: bytes  # `pixel_hashes` of all images that the pool is made and judged on
    settings: dict[str, JsonValue]
    notes: tuple[str, ...]


def prepare(request: PoolRequest) -> Prepared:
    """Load weights and data and find the prunable units. Raises as `make_pool` says."""
    place = pick_device(request.device)
    weights = read_weights(request.weights, model=request.model)
    dataset = load_labelled(request.data, weights.spec)
    original, notes = original_of(weights, dataset, mean=request.mean, std=request.std)
    labelled = align(dataset, original.classes)
    holdout_print = ""
    if request.holdout is None:
        kept, held = hold_back(labelled, dataset.groups, spec=request.data)
    else:
        other = load_data(request.holdout, original.spec.input, role="test")
        kept, held, holdout_print = labelled, align(other, original.classes), other.fingerprint
    units, whole = find_units(original.net, original.spec.input)
    unknown = [name for name in request.ignore if not any(name in unit.layers for unit in units) and name not in whole]
    if unknown:
        raise UsageError(
            f"--ignore {unknown[0]!r}: the model has no such layer; its units are {', '.join(u.name for u in units)}"
        )
    whole |= {layer: "ignored" for unit in units if set(unit.layers) & set(request.ignore) for layer in unit.layers}
    units = tuple(unit for unit in units if not set(unit.layers) & set(request.ignore))
    if not units:
        raise UsageError("--ignore leaves no layer to prune")
    # unknown groups and the like are found now, not after the data was loaded and the first member half made
    METHODS[request.method](units, original.net, request.rate, request.group_rates, np.random.default_rng(0))
    recipe = request.recipe.resolved(len(kept))
    settings: dict[str, JsonValue] = {
        "original": sha256_bytes(weights_bytes(original.net, original.metadata())),
        "data": dataset.fingerprint,
        "holdout": holdout_print,
        "method": request.method,
        "rate": request.rate,
        "group_rates": {str(channels): rate for channels, rate in request.group_rates.items()},
        "ignore": sorted(request.ignore),
        "recipe": encode(recipe),
    }
    original.net.to(place)
    training = TrainingSet.of(kept.images, kept.labels, original.preprocessing, place)
    seen = pixel_hashes(np.concatenate([kept.images, held.images]))
    return Prepared(original, units, whole, training, held, recipe, dataset.fingerprint, seen, settings, notes)
