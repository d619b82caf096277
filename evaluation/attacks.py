"""Attacks on the original by name in `ATTACKS`, sets of them in `PRESETS`, and `run_attack`, which carries one out.

Pixels lie in [0, 1] and the normalisation is part of the attacked net, so that an epsilon of 8/255 means eight grey
levels. Every attack is a function `f(net, images (N, C, H, W), labels (N,), **settings) -> images` of that shape;
what did not succeed comes back unchanged or merely altered: `run_attack` asks the net what counts. Random draws come
from torch's random state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pdtool
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attack_apgd import apgd_ce, apgd_dlr
from pdtool.evaluation.attack_art import one_pixel, toolbox
from pdtool.evaluation.attack_common import Setting, device_of, frozen, read_settings, spec_of
from pdtool.evaluation.attack_fia import fia
from pdtool.evaluation.attack_foolbox import SMALLER_LEADS, bim, cw, deepfool, fgsm, library, mim, pgd
from pdtool.evaluation.attack_ila import ila
from pdtool.evaluation.attack_jsma import jsma
from pdtool.evaluation.attack_local_search import local_search
from pdtool.evaluation.attack_pgd import pgd_margin
from pdtool.evaluation.attack_presets import PRESETS
from pdtool.evaluation.attack_square import square
from pdtool.evaluation.attacked import Attacked
from pdtool.images import Images, as_input

__all__ = ["ATTACKS", "PRESETS", "Attack", "library", "parse_attack", "run_attack"]

Function = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Attack:
    """An attack: how it is called, what it does, where it comes from and its settings (printed beside each number)."""

    name: str
    function: Function
    description: str
    source: str
    settings: Mapping[str, Setting]
    by: str = "pdtool"  # whose code: pdtool or a library

    @property
    def spec(self) -> str:
        """Name and settings as `--attack` takes them, e.g. "fgsm:epsilon=0.03"; a switch that is off is left out."""
        return spec_of(self.name, self.settings)


# Settings: those of the papers that this screener comes from, where they name them, in [0, 1] pixels, except for bounds
# so small that they fool few nets (see `PRESETS`); `pgd` and its kin at the usual 8/255.
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack(
            "fgsm",
            fgsm,
            "one signed gradient step (L-inf)",
            "Goodfellow et al. 2015",
            {"epsilon": 0.03, "targeted": False},
            "foolbox",
        ),
        Attack(
            "bim",
            bim,
            "signed gradient steps, the last point (L-inf)",
            "Kurakin et al. 2017",
            {"epsilon": 0.03, "step": 0.006, "steps": 10, "targeted": False},
            "foolbox",
        ),
        Attack(
            "pgd",
            pgd,
            "projected gradient steps from a random start, the last point (L-inf)",
            "Madry et al. 2018",
            {"epsilon": 8 / 255, "step": 2 / 255, "steps": 10, "targeted": False},
            "foolbox",
        ),
        Attack(
            "pgd-margin",
            pgd_margin,
            "projected gradient steps on the difference of logits, the best point (L-inf)",
            "Carlini and Wagner 2017; Madry et al. 2018",
            {"epsilon": 8 / 255, "step": 2 / 255, "steps": 10, "targeted": False},
        ),
        Attack(
            "mim",
            mim,
            "signed steps along a running sum of gradients, the last point (L-inf)",
            "Dong et al. 2018",
            {"epsilon": 8 / 255, "step": 0.8 / 255, "steps": 10, "momentum": 1.0, "targeted": False},
            "foolbox",
        ),
        Attack(
            "apgd-ce",
            apgd_ce,
            "AutoAttack's PGD with steps that adapt, on the cross-entropy, the best point (L-inf)",
            "Croce and Hein 2020",
            {"epsilon": 8 / 255, "steps": 100},
        ),
        Attack(
            "apgd-dlr",
            apgd_dlr,
            "AutoAttack's PGD with steps that adapt, on the ratio of logits, the best point (L-inf)",
            "Croce and Hein 2020",
            {"epsilon": 8 / 255, "steps": 100},
        ),
        Attack(
            "ila",
            ila,
            "pushes a middle layer along the way of BIM (L-inf)",
            "Huang et al. 2019",
            {
                "epsilon": 0.03,
                "step": 0.006,
                "steps": 10,
                "base_epsilon": 0.03,
                "base_step": 0.006,
                "base_steps": 10,
                "depth": 0.5,
            },
        ),
        Attack(
            "fia",
            fia,
            "weakens the features that speak for the label (L-inf)",
            "Wang et al. 2021",
            {
                "epsilon": 0.03,
                "step": 1 / 255,
                "steps": 10,
                "momentum": 1.0,
                "masks": 30,
                "drop": 0.3,
                "depth": 0.5,
            },
        ),
        Attack(
            "deepfool",
            deepfool,
            "smallest step over the nearest boundary (L2)",
            "Moosavi-Dezfooli et al. 2016",
            {"steps": 50, "overshoot": 0.02},
            "foolbox",
        ),
        Attack(
            "cw",
            cw,
            "optimised small change (L2)",
            "Carlini and Wagner 2017",
            {"const": 0.6, "searches": 1, "steps": 1000, "step": 0.01, "confidence": 0.0},
            "foolbox",
        ),
        Attack(
            "jsma",
            jsma,
            "a few values to their highest, towards a random class (L0)",
            "Papernot et al. 2016",
            {"theta": 1.0, "gamma": 0.12},
        ),
        Attack(
            "local-search",
            local_search,
            "a few pixels changed, found by trying (L0, no gradients)",
            "Narodytska and Kasiviswanathan 2017",
            {"p": 1.0, "r": 1.5, "d": 5, "t": 5, "k": 1, "rounds": 10, "seeds": 0.1, "candidates": 128},
        ),
        Attack(
            "one-pixel",
            one_pixel,
            "a few pixels in any colour, by differential evolution (L0, no gradients)",
            "Su et al. 2019",
            {"pixels": 3, "iterations": 100},
            "adversarial-robustness-toolbox",
        ),
        Attack(
            "square",
            square,
            "random squares, kept where they help (L-inf, no gradients)",
            "Andriushchenko et al. 2020",
            {"epsilon": 8 / 255, "queries": 5000, "share": 0.8},
        ),
    )
}


def parse_attack(text: str) -> Attack:
    """`name` or `name:setting=value,...` as an attack; a value may be a fraction such as 8/255.

    Raises UsageError for an unknown name or setting, or a value that is no number of its range.

    >>> parse_attack("fgsm:epsilon=8/255").settings
    {'epsilon': 0.03137254901960784, 'targeted': False}
    """
    name, _, options = text.partition(":")
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}; expected one of {', '.join(ATTACKS)}")
    attack = ATTACKS[name]
    return replace(attack, settings=read_settings("attack", text, options, attack.settings))


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
    are returned. An image that an attack leaves without a number somewhere is given back as it came. `provenance` is
    stored beside attack, settings, library and seed. `advance(n)` is called after n images. Same seed, batch and
    machine: same bytes. Raises UsageError for an unknown attack, InputError where there is nothing to attack,
    MissingError without the library that carries the attack out. Runs where the weights are.
    """
    attack = parse_attack(attack) if isinstance(attack, str) else attack
    made_by = _made_by(attack)
    device = device_of(net)
    clean = as_input(images)
    # one seed, one machine, one result: on a GPU only with cuDNN's deterministic algorithms
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        source = np.flatnonzero(_labels(net, clean, batch) == labels)
        advance(len(images) - len(source))
        if len(source) == 0:
            raise InputError(
                f"the original classifies none of the {len(images)} images correctly, so there is nothing to attack; "
                f"use data of its own classes"
            )
        attacked = np.empty((len(source), *images.shape[1:]), dtype=np.float32)
        linf, l2 = np.empty(len(source)), np.empty(len(source))
        given = np.empty(len(source), dtype=np.int64)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for start in range(0, len(source), batch):
                rows = slice(start, start + batch)
                index = source[rows]
                before, truth = torch.from_numpy(clean[index]).to(device), torch.from_numpy(labels[index]).to(device)
                found = _finite(attack.function(net, before, truth, **attack.settings).detach(), before)
                planes = found.clamp(0.0, 1.0).cpu().numpy()
                change = (planes - clean[index]).reshape(len(index), -1).astype(np.float64)
                attacked[rows] = np.moveaxis(planes, 1, 3)
                linf[rows], l2[rows] = np.abs(change).max(axis=1), np.sqrt((change**2).sum(axis=1))
                given[rows] = _labels(net, planes, batch)
                advance(len(index))
    return Attacked(
        images=attacked,
        labels=labels[source],
        given=given,
        success=given != labels[source],
        source=source,
        linf=linf,
        l2=l2,
        provenance={
            "attack": attack.name,
            "settings": dict(attack.settings),
            "library": made_by,
            "seed": seed,
            "batch": batch,
            "images_given": len(images),
            **({"note": SMALLER_LEADS} if attack.settings.get("confidence") else {}),
            **(provenance or {}),
        },
    )


def _finite(found: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The images found; where one holds a value that is no number (it would count as a success), the given one."""
    sound = found.isfinite().flatten(1).all(dim=1)
    return torch.where(sound[:, None, None, None], found, images)


def _made_by(attack: Attack) -> str:
    """Whose code carries the attack out, with its version and torch's. Raises MissingError where it is missing."""
    if attack.by == "foolbox":
        version = library().__version__
    elif attack.by == "adversarial-robustness-toolbox":
        version = toolbox("art").__version__
    else:
        version = pdtool.__version__
    return f"{attack.by} {version}, torch {torch.__version__}"


def _labels(net: torch.nn.Module, planes: NDArray[np.float32], batch: int) -> NDArray[np.int64]:
    device, steps = device_of(net), range(0, len(planes), batch)
    with torch.inference_mode(), frozen(net):
        labels = [net(torch.from_numpy(planes[i : i + batch]).to(device)).argmax(1).cpu().numpy() for i in steps]
    return np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)
