"""What pool to make, and everything read and checked before the first member is made."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pdtool.compress.contract import Method, Settings, Task
from pdtool.compress.hardening import Hardening
from pdtool.compress.masks import weight_layers
from pdtool.compress.methods import METHODS, check_options, method_named
from pdtool.compress.original import Original, load_labelled, original_of, pick_device, read_weights
from pdtool.compress.prune import Unit, find_units
from pdtool.compress.rates import check_rate
from pdtool.compress.split import Labelled, align, hold_back
from pdtool.compress.training import RECIPES, Recipe, TrainingSet
from pdtool.compress.weights import weights_bytes
from pdtool.data import load_data, pixel_hashes
from pdtool.errors import InputError, UsageError
from pdtool.files import sha256_bytes
from pdtool.jsonform import JsonValue, encode

__all__ = ["METHODS", "PoolRequest", "Prepared", "encode_settings", "held_out", "prepare"]


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """What pool to make. `rate` to `tau` are the method's options (`contract.Settings`): None is the method's default,
    and what it does not take must be left None. `ignore` names layers to leave whole.

    A member is used only with an accuracy of at least `min_accuracy`, or, where that is None, of at least the
    original's less `max_drop`, both on held-out images: a tenth of the data, or `holdout`. `recipe` is how members are
    trained, by the methods that train; with `hardening` on crafted images, too. The defaults are this class's:
    `pdtool compress` hardens members that begin with the original's weights.
    """

    weights: Path
    data: str
    model: str | None = None
    holdout: str | None = None
    method: str = "random-channel"
    members: int = 16
    rate: float | None = None
    group_rates: dict[int, float] = field(default_factory=dict)
    preset: str | None = None
    round_to: int | None = None
    pattern: str | None = None
    rounds: int | None = None
    search_epochs: int | None = None
    tau: float | None = None
    ignore: tuple[str, ...] = ()
    recipe: Recipe = RECIPES["paper"]
    hardening: Hardening | None = None
    seed: int = 0
    min_accuracy: float | None = None
    max_drop: float = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        method = method_named(self.method)
        if self.members < 1:
            raise UsageError(f"members should be at least 1, is {self.members}")
        if method.single and self.members != 1:
            raise UsageError(f"{self.method} makes one model, not a pool; give --members 1, not {self.members}")
        if self.recipe.epochs < 0:
            raise UsageError(f"epochs should be at least 0, is {self.recipe.epochs}")
        for name, share in (("min-accuracy", self.min_accuracy), ("max-drop", self.max_drop)):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} should lie in [0, 1], is {share}")
        check_options(self.method, self.given)
        if self.hardening is not None:
            check_options(self.method, ["hardening"])
            if not method.inherits and (self.hardening.parent or self.hardening.fresh):
                raise UsageError(
                    f"hardening: parent and fresh are for members that begin with the original's weights; leave them "
                    f"out, those of {self.method} do not, or choose random-channel or l1-norm"
                )
        for name, count in (
            ("round-to", self.round_to),
            ("rounds", self.rounds),
            ("search-epochs", self.search_epochs),
        ):
            if count is not None and count < 1:
                raise UsageError(f"{name} should be at least 1, is {count}")
        if self.preset is not None and (self.rate is not None or self.group_rates):
            raise UsageError(f"--preset {self.preset} sets all rates; leave --rate and --group-rate out")
        if self.rate is not None:
            check_rate(self.rate, of=RATE_OF[method.removes])

    def floor(self, original: float) -> float:
        """The least accuracy of a used member, the original's being `original`."""
        return self.min_accuracy if self.min_accuracy is not None else max(0.0, original - self.max_drop)

    @property
    def given(self) -> dict[str, object]:
        """The method's options that are not left to their defaults."""
        names = Settings.__dataclass_fields__
        return {name: value for name in names if (value := getattr(self, name)) is not None and value != {}}

    @property
    def settings(self) -> Settings:
        """The method's options, defaults filled in."""
        options: dict[str, Any] = {**METHODS[self.method].options, **self.given}
        return Settings(**{name: options[name] for name in Settings.__dataclass_fields__ if name in options})


HARDENED_BATCH = 64  # most images of a batch of hardened members
RATE_OF = {
    "channels": "channels to remove",
    "weights": "weights to remove",
    "nothing": "neurons or weights to mutate",
}


@dataclass(frozen=True)
class Prepared:
    """The request's models and data, checked. `key` is what a member's recipe key is taken of."""

    method: Method
    task: Task  # its seed and tick are a member's own
    whole: dict[str, str]  # layers left whole and why
    recipe: dict[str, JsonValue]  # what the method uses of the recipe
    fingerprint: str
    seen: bytes  # `pixel_hashes` of all images that the pool is made and judged on
    key: dict[str, JsonValue]
    notes: tuple[str, ...]


def _recipe(request: PoolRequest, images: int) -> Recipe:
    """The recipe for so many images. Where half of a batch is crafted, smaller batches and more steps made better
    members than 128 images at once."""
    recipe = request.recipe.resolved(images)
    if request.hardening is None or request.recipe.batch is not None:
        return recipe
    return replace(recipe, batch=min(recipe.batch or HARDENED_BATCH, HARDENED_BATCH))


def prepare(request: PoolRequest) -> Prepared:
    """Load weights and data and settle what is to be done. Raises as `make_pool` says."""
    place = pick_device(request.device)
    given = _read(request)
    original, kept, held = given.original, given.kept, given.held
    units, layers, whole = _targets(request, original)
    original.net.to(place)
    task = Task(
        original=original,
        units=units,
        layers=layers,
        settings=request.settings,
        recipe=_recipe(request, len(kept)),
        training=TrainingSet.of(kept.images, kept.labels, original.preprocessing, place),
        held=held,
        hardening=request.hardening,
    )
    method = METHODS[request.method]
    settings, more = method.settle(task)
    task = replace(task, settings=settings)
    recipe = encode(task.recipe) if "recipe" in method.options else {}
    if "epochs" not in method.options:
        recipe.pop("epochs", None)
    if task.hardening is not None:
        recipe["hardening"] = encode(task.hardening)
    key: dict[str, JsonValue] = {
        "original": sha256_bytes(weights_bytes(original.net, original.metadata())),
        "data": given.fingerprint,
        "holdout": given.holdout_fingerprint,
        "method": request.method,
        "settings": encode_settings(settings),
        "ignore": sorted(request.ignore),
        "recipe": recipe,
    }
    seen = pixel_hashes(np.concatenate([kept.images, held.images]))
    return Prepared(method, task, whole, recipe, given.fingerprint, seen, key, (*given.notes, *more))


def held_out(request: PoolRequest) -> Labelled:
    """The images that accuracies are measured on, exactly those of `prepare`, without what training needs."""
    return _read(request).held


def encode_settings(settings: Settings) -> dict[str, JsonValue]:
    """The settings that there are, as JSON values."""
    values = {
        **vars(settings),
        "group_rates": {str(channels): r for channels, r in sorted(settings.group_rates.items())},
    }
    return {name: value for name, value in values.items() if value is not None and value != {}}


@dataclass(frozen=True)
class _Given:
    """The original and the data, `kept` to train on and `held` out."""

    original: Original
    kept: Labelled
    held: Labelled
    fingerprint: str
    holdout_fingerprint: str
    notes: tuple[str, ...]


def _read(request: PoolRequest) -> _Given:
    weights = read_weights(request.weights, model=request.model)
    dataset = load_labelled(request.data, weights.spec)
    original, notes = original_of(weights, dataset, mean=request.mean, std=request.std)
    labelled = align(dataset, original.classes)
    if request.holdout is None:
        kept, held = hold_back(labelled, dataset.groups, spec=request.data)
        return _Given(original, kept, held, dataset.fingerprint, "", notes)
    other = load_data(request.holdout, original.spec.input, role="test")
    held = align(other, original.classes)
    return _Given(original, labelled, held, dataset.fingerprint, other.fingerprint, notes)


def _targets(request: PoolRequest, original: Original) -> tuple[tuple[Unit, ...], tuple[str, ...], dict[str, str]]:
    """What may lose channels, or whose weights may be changed; and what is left whole, and why."""
    ignore, whole = set(request.ignore), dict[str, str]()
    units, layers = tuple[Unit, ...](), tuple[str, ...]()
    if METHODS[request.method].removes == "channels":
        units, whole = find_units(original.net, original.spec.input)
        known = {layer for unit in units for layer in unit.layers} | set(whole)
        whole |= {layer: "ignored" for unit in units if ignore & set(unit.layers) for layer in unit.layers}
        named, units = units, tuple(unit for unit in units if not ignore & set(unit.layers))
        listed = f"its units are {', '.join(unit.name for unit in named)}"
    else:
        named_layers = weight_layers(original.net)
        if not named_layers:
            raise InputError("the model has no convolution or linear layer with a weight of its own")
        known, listed = set(named_layers), f"its layers are {', '.join(named_layers)}"
        layers, whole = tuple(layer for layer in named_layers if layer not in ignore), dict.fromkeys(ignore, "ignored")
    unknown = [name for name in request.ignore if name not in known]
    if unknown:
        raise UsageError(f"--ignore {unknown[0]!r}: the model has no such layer; {listed}")
    if not units and not layers:
        raise UsageError("--ignore leaves no layer to prune")
    return units, layers, whole
