"""Attacks on the original: one small function each, by name in `ATTACKS`.

Pixels lie in [0, 1] and the normalisation is part of the attacked net, so that an epsilon of 8/255 means eight grey
levels. Every function takes the net, images (N, C, H, W), their labels and its settings, and returns images of that
shape; what did not succeed comes back unchanged or merely altered: `run_attack` asks the net what counts.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attacked import Attacked
from pdtool.extras import require
from pdtool.images import Images, as_input

__all__ = ["ATTACKS", "Attack", "library", "parse_attack", "run_attack"]

Setting = float | int | bool
Function = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Attack:
    """An attack: how it is called, what it does, where it comes from and its settings (printed beside each number)."""

    name: str
    function: Function
    description: str
    source: str
    settings: Mapping[str, Setting]

    @property
    def spec(self) -> str:
        """Name and settings as `--attack` takes them, e.g. "fgsm:epsilon=0.03"."""
        return f"{self.name}:" + ",".join(f"{key}={value:g}" for key, value in self.settings.items())


def fgsm(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    """One step of `epsilon` along the sign of the gradient of the cross-entropy."""
    return _call(library().attacks.LinfFastGradientAttack(), net, images, labels, epsilon)


def bim(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float, step: float, steps: int
) -> torch.Tensor:
    """`steps` signed gradient steps of `step`, held within `epsilon` of the image."""
    attack = library().attacks.LinfBasicIterativeAttack(abs_stepsize=step, steps=steps, random_start=False)
    return _call(attack, net, images, labels, epsilon)


def pgd(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epsilon: float, step: float, steps: int
) -> torch.Tensor:
    """BIM from a random point within `epsilon` of the image."""
    attack = library().attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=True)
    return _call(attack, net, images, labels, epsilon)


def deepfool(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, steps: int, overshoot: float
) -> torch.Tensor:
    """Steps over the nearest linearised boundary, `overshoot` beyond it: a small L2 change."""
    attack = library().attacks.L2DeepFoolAttack(steps=steps, candidates=10, overshoot=overshoot, loss="logits")
    return _call(attack, net, images, labels, None)


def cw(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    const: float,
    searches: int,
    steps: int,
    step: float,
    confidence: float,
) -> torch.Tensor:
    """Adam on the squared L2 change plus `const` x the margin; `searches` values of `const` are tried."""
    attack = library().attacks.L2CarliniWagnerAttack(
        binary_search_steps=searches, steps=steps, stepsize=step, confidence=confidence, initial_const=const
    )
    found = _call(attack, net, images, labels, None)
    # Foolbox 3.3.4 returns an all-black image where it found nothing; black would count as a success
    nothing = (found == 0).flatten(1).all(dim=1)
    return torch.where(nothing[:, None, None, None], images, found)


# Settings: those of the papers that this screener comes from, where they name them, in [0, 1] pixels; `pgd` at the
# usual 8/255; `cw` with learning rate 0.01, ten times the papers', which finds smaller changes in the same 1000 steps.
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("fgsm", fgsm, "one signed gradient step (L-inf)", "Goodfellow et al. 2015", {"epsilon": 0.03}),
        Attack(
            "bim",
            bim,
            "signed gradient steps (L-inf)",
            "Kurakin et al. 2017",
            {"epsilon": 0.03, "step": 0.006, "steps": 10},
        ),
        Attack(
            "pgd",
            pgd,
            "projected gradient steps from a random start (L-inf)",
            "Madry et al. 2018",
            {"epsilon": 8 / 255, "step": 2 / 255, "steps": 10},
        ),
        Attack(
            "deepfool",
            deepfool,
            "smallest step over the nearest boundary (L2)",
            "Moosavi-Dezfooli et al. 2016",
            {"steps": 50, "overshoot": 0.02},
        ),
        Attack(
            "cw",
            cw,
            "optimised small change (L2)",
            "Carlini and Wagner 2017",
            {"const": 0.6, "searches": 1, "steps": 1000, "step": 0.01, "confidence": 0.0},
        ),
    )
}


def parse_attack(text: str) -> Attack:
    """`name` or `name:setting=value,...` as an attack; a value may be a fraction such as 8/255.

    Raises UsageError for an unknown name or setting, or a value that is no number of its range.

    >>> parse_attack("fgsm:epsilon=8/255").settings
    {'epsilon': 0.03137254901960784}
    """
    name, _, options = text.partition(":")
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}; expected one of {', '.join(ATTACKS)}")
    attack = ATTACKS[name]
    settings = dict(attack.settings)
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in settings:
            raise UsageError(f"attack {name} has no setting {key!r}; it takes {', '.join(settings)}")
        settings[key] = number = _number(value, text, whole=isinstance(settings[key], int))
        if number > 1 and "epsilon" in settings and key in ("epsilon", "step"):
            levels = number if number <= 255 else 8
            raise UsageError(f"attack {text!r}: pixels lie in [0, 1], {key} is at most 1; write {key}={levels:g}/255")
        if number == 0 and key in ("steps", "searches"):
            raise UsageError(f"attack {text!r}: expected at least 1 for {key}, got 0")
    return replace(attack, settings=settings)


def run_attack(
    net: torch.nn.Module,
    images: Images,
    labels: NDArray[np.int64],
    attack: Attack | str,
    *,
    seed: int = 0,
    batch: int = 128,
    provenance: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Attacked:
    """Attack the images (N, H, W, C) that `net` classifies correctly; the others are left out.

    `net` takes float32 (N, C, H, W) in [0, 1] and stays as it is; success is judged here, on the float32 images that
    are returned. `provenance` is stored beside attack, settings, library and seed. `advance(n)` is called after n
    images. Same seed, batch and machine: same bytes. Raises UsageError for an unknown attack, InputError where there
    is nothing to attack, MissingError without Foolbox.
    """
    attack = parse_attack(attack) if isinstance(attack, str) else attack
    foolbox = library()
    clean = as_input(images)
    source = np.flatnonzero(_labels(net, clean, batch) == labels)
    advance(len(images) - len(source))
    if len(source) == 0:
        raise InputError(
            f"the original classifies none of the {len(images)} images correctly, so there is nothing to attack; "
            f"use data of its own classes"
        )
    pieces = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(source), batch):
            index = source[start : start + batch]
            given = torch.from_numpy(clean[index])
            found = attack.function(net, given, torch.from_numpy(labels[index]), **attack.settings)
            pieces.append(found.detach().clamp(0.0, 1.0).numpy())
            advance(len(index))
    attacked = np.concatenate(pieces)
    change = (attacked - clean[source]).reshape(len(source), -1).astype(np.float64)
    given_label = _labels(net, attacked, batch)
    return Attacked(
        images=np.ascontiguousarray(np.moveaxis(attacked, 1, 3)),
        labels=labels[source],
        given=given_label,
        success=given_label != labels[source],
        source=source,
        linf=np.abs(change).max(axis=1),
        l2=np.sqrt((change**2).sum(axis=1)),
        provenance={
            "attack": attack.name,
            "settings": dict(attack.settings),
            "library": f"foolbox {foolbox.__version__}, torch {torch.__version__}",
            "seed": seed,
            "batch": batch,
            "images_given": len(images),
            **(provenance or {}),
        },
    )


def library() -> ModuleType:
    """Foolbox. Raises MissingError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by its own imports
        return require("foolbox", "attack the original")


def _call(
    attack: Any, net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float | None
) -> torch.Tensor:
    with _frozen(net):
        model = library().PyTorchModel(net, bounds=(0, 1), device="cpu")
        found: torch.Tensor = attack(model, images, labels, epsilons=epsilon)[1]
    return found


@contextmanager
def _frozen(net: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients of the weights inside (an attack needs those of the image); restored after."""
    training = {module: module.training for module in net.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in net.parameters()}
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, want in wanted.items():
            parameter.requires_grad_(want)


def _labels(net: torch.nn.Module, planes: NDArray[np.float32], batch: int) -> NDArray[np.int64]:
    with torch.inference_mode(), _frozen(net):
        steps = range(0, len(planes), batch)
        labels = [net(torch.from_numpy(planes[i : i + batch])).argmax(1).numpy() for i in steps]
    return np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)


def _number(value: str, text: str, *, whole: bool) -> Setting:
    above, _, below = value.partition("/")
    try:
        number = float(above) / float(below) if below else float(above)
        if number < 0 or not np.isfinite(number) or (whole and number != int(number)):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        kind = "a whole number" if whole else "a number or a fraction such as 8/255"
        raise UsageError(f"attack {text!r}: expected {kind} of at least 0, got {value!r}") from None
    return int(number) if whole else number
