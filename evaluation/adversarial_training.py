"""Adversarially trained models, to compare with: trained on images that are attacked anew at every step.

Three regimes, by name in `REGIMES`, each on top of the ordinary training loop, its schedule and its augmentation. All
perturb pixels in [0, 1] by at most `epsilon` and keep them there. They differ from the papers in that loop alone.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.modes import evaluating
from pdtool.compress.original import Original, Trained, train_original
from pdtool.compress.training import (
    RECIPES,
    Hooks,
    Recipe,
    TrainingSet,
    device_of,
    estimate_norms,
    fit,
    half_of,
)
from pdtool.compress.watch import Watch, silent
from pdtool.errors import UsageError

__all__ = ["REGIMES", "Regime", "fit_adversarially", "train_adversarially"]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How images are attacked while a net is trained; pixels in [0, 1]. `beta` is given for TRADES only.

    Without `beta` the net is trained on attacked images in place of clean ones: `steps` signed gradient steps of `step`
    on the cross-entropy, from a random point within `epsilon`, with batch norm as in training (as Madry's and Wong's
    programs do). With it, on the clean images and on `beta` times the divergence of its answers to attacked ones, which
    are made to raise that divergence with batch norm as in use (as Zhang's program does).
    """

    name: str
    description: str
    source: str
    epsilon: float = 8 / 255
    step: float
    steps: int
    beta: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for settings that attack nothing."""
        if not 0 < self.epsilon <= 1 or not 0 < self.step <= 1 or self.steps < 1:
            raise UsageError(
                f"regime {self.name}: expected epsilon and step in (0, 1] (pixels lie in [0, 1]) and at least one "
                f"step, got {self.epsilon}, {self.step} and {self.steps}"
            )

    @property
    def spec(self) -> str:
        """Name and settings, e.g. "fast-at:epsilon=0.0313725,step=0.0392157,steps=1"."""
        beta = "" if self.beta is None else f",beta={self.beta:g}"
        return f"{self.name}:epsilon={self.epsilon:g},step={self.step:g},steps={self.steps}{beta}"


# Settings of the papers for CIFAR-10; TRADES' own epsilon is 0.031, a little less than 8/255.
REGIMES: Mapping[str, Regime] = {
    regime.name: regime
    for regime in (
        Regime(
            name="pgd-at",
            description="trained on PGD",
            source="Madry et al. 2018",
            step=2 / 255,
            steps=7,
        ),
        Regime(
            name="trades",
            description="trained to answer the same within epsilon",
            source="Zhang et al. 2019",
            step=0.007,
            steps=10,
            beta=6.0,
        ),
        Regime(
            name="fast-at",
            description="trained on one step from a random start (FGSM-RI)",
            source="Wong et al. 2020",
            step=10 / 255,
            steps=1,
        ),
    )
}


def train_adversarially(
    regime: Regime,
    original: Original,
    data: str,
    out: Path,
    *,
    test: str | None = None,
    recipe: Recipe = RECIPES["train"],
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    watch: Watch = silent,
) -> Trained:
    """Train a net of the original's spec, classes and preprocessing from scratch, and write weights as `train` does.

    `accuracy` is that on clean images: the tenth of `data` that `train` and `compress` hold back, or `test`. The file
    loads like any original's; its metadata also says the regime. An epoch takes about steps + 1 times as long as
    ordinary training. Raises what `train_original` raises.
    """
    return train_original(
        str(original.spec),
        data,
        out,
        test=test,
        recipe=recipe,
        seed=seed,
        device=device,
        force=force,
        like=original,
        fitting=partial(fit_adversarially, regime),
        about={"regime": regime.spec},
        watch=watch,
    )


def fit_adversarially(
    regime: Regime,
    net: nn.Module,
    data: TrainingSet,
    recipe: Recipe,
    *,
    seed: int,
    tick: Callable[[int], None] = lambda steps: None,
) -> float:
    """Train `net` (which takes normalised inputs) in place by the regime, as `fit` does; returns seconds.

    Batch norm is estimated at the end on what the net was trained on, attacked images: on clean ones, as `fit` leaves
    it, a ResNet-18 of width 8 after six epochs of fast AT withstands PGD on 5 % of CIFAR-10 instead of 15 %.
    """
    started = time.perf_counter()
    noise = torch.Generator().manual_seed(seed)

    def augment(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return _fooling(regime, net, data, pixels, labels, generator), labels

    def divergence(net: nn.Module, inputs: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        pixels = inputs * data.std + data.mean
        given = F.log_softmax(_logits(net, data, _diverging(regime, net, data, pixels, noise)), dim=1)
        assert regime.beta is not None
        return regime.beta * F.kl_div(given, F.softmax(logits, dim=1), reduction="batchmean")

    fit(
        net,
        data,
        recipe,
        seed=seed,
        hooks=Hooks(augment=augment) if regime.beta is None else Hooks(loss=divergence),
        tick=tick,
    )
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):  # one seed, one result
        _estimate_norms(regime, net, data, recipe.norm_images, noise)
    return time.perf_counter() - started


def _estimate_norms(regime: Regime, net: nn.Module, data: TrainingSet, count: int, generator: torch.Generator) -> None:
    """Batch norm from `count` images evenly over the data, attacked; for TRADES from as many clean ones, too."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        return
    count = min(count, len(data))
    index = torch.arange(count, device=data.labels.device) * len(data) // count
    seen = []
    for part in torch.split(index, 256):
        pixels = data.pixels(part)
        if regime.beta is None:
            seen.append(_fooling(regime, net, data, pixels, data.labels[part], generator))
        else:
            seen += [_diverging(regime, net, data, pixels, generator), pixels]
    images = torch.cat(seen).permute(0, 2, 3, 1).contiguous()
    unlabelled = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    estimate_norms(net, TrainingSet(images, unlabelled, data.mean, data.std), len(images))


def _fooling(
    regime: Regime, net: nn.Module, data: TrainingSet, pixels: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """The images from a random start towards a high cross-entropy, the net in the mode that it is in."""
    start = pixels + regime.epsilon * (2 * _random(torch.rand, pixels, generator) - 1)
    return _ascend(regime, net, data, pixels, start, partial(F.cross_entropy, target=labels, reduction="sum"))


def _diverging(regime: Regime, net: nn.Module, data: TrainingSet, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The images from close by towards answers that diverge from the clean ones', the net in evaluation mode."""
    with evaluating(net):
        with torch.no_grad():
            wanted = F.softmax(_logits(net, data, pixels), dim=1)

        def loss(given: Tensor) -> Tensor:
            return F.kl_div(F.log_softmax(given, dim=1), wanted, reduction="sum")

        return _ascend(regime, net, data, pixels, pixels + 0.001 * _random(torch.randn, pixels, generator), loss)


def _ascend(
    regime: Regime, net: nn.Module, data: TrainingSet, pixels: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """Signed gradient steps from `start` that raise the loss of the net's logits, never far from the pixels."""
    attacked = _near(start, pixels, regime.epsilon)
    for _ in range(regime.steps):
        attacked.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(_logits(net, data, attacked)), attacked)
        attacked = _near(attacked.detach() + regime.step * gradient.sign(), pixels, regime.epsilon)
    return attacked


def _near(attacked: Tensor, pixels: Tensor, epsilon: float) -> Tensor:
    return attacked.clamp(pixels - epsilon, pixels + epsilon).clamp_(0, 1)


def _logits(net: nn.Module, data: TrainingSet, pixels: Tensor) -> Tensor:
    device = device_of(net)
    half = half_of(device)
    with torch.autocast(device.type, dtype=half, enabled=half is not None):
        logits: Tensor = net((pixels - data.mean) / data.std)
    return logits.float()


def _random(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU, so that every device draws the same."""
    return draw(like.shape, generator=generator).to(like.device)
