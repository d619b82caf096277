"""One loop that trains a net or fine-tunes a pruned one, and its accuracy. Seeded; one machine, one result."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.artifacts import Preprocessing
from pdtool.compress.models import Normalised
from pdtool.compress.modes import evaluating
from pdtool.errors import GateError, UsageError
from pdtool.images import Images

__all__ = ["RECIPES", "Hooks", "Recipe", "TrainingSet", "accuracy", "device_of", "fit", "predict"]


# Nets are trained with the channels last in memory. CPU time a step with one thread, first in last: ResNet-18 of width
# 16, batch 128: 591 -> 434 ms, half its channels pruned 253 -> 203, three quarters 148 -> 134; VGG-16 of width 16: 277
# -> 212, pruned 139 -> 106; LeNet-5 the same; slower only with some 2 channels a layer left (91 -> 102).
FORMAT = torch.channels_last


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained: SGD with Nesterov momentum, learning rate warmed up over 20 % of the steps to `lr`, then
    a cosine down to 0; every image shifted by up to `shift` pixels, edges repeated, and made brighter or darker by
    up to the share `light`; batch norm estimated anew at the end.

    With a teacher the loss is (1 - distill) x cross-entropy + distill x temperature^2 x KL(teacher || net), both
    softened by `temperature` (Hinton et al. 2015, section 2).
    """

    name: str
    epochs: int
    batch: int | None = None  # None: 32 below 4,000 images, 64 below 20,000, else 128
    lr: float = 0.1  # for a batch of 128; scaled by sqrt(batch / 128)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 2.0  # largest norm of a step's gradient: nets without batch norm survive high learning rates
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    shift: int = 2
    light: float = 0.4
    flip: bool = False  # off: traffic signs and digits change their meaning in a mirror
    norm_images: int = 2048  # images that batch norm is estimated on at the end

    def __post_init__(self) -> None:
        """Raise UsageError for a number that no training can use."""
        for name in ("lr", "clip", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} should be a number above 0, is {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay should be a number of at least 0, is {self.weight_decay}")
        for name in ("momentum", "label_smoothing", "distill", "light"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} should lie in [0, 1], is {getattr(self, name)}")

    def resolved(self, images: int) -> "Recipe":
        """The recipe for so many images, nothing left open."""
        batch = self.batch or (32 if images < 4_000 else 64 if images < 20_000 else 128)
        return replace(self, batch=min(images, batch))

    def steps(self, images: int) -> int:
        """Optimiser steps on so many images; those left over at the end of an epoch are dropped until the next."""
        batch = self.resolved(images).batch
        assert batch is not None
        return self.epochs * (images // batch)


# "paper": every pruned member is trained on the training data again, as in the papers. "distilled": it imitates the
# original too. Accuracy measured at rate 0.5: LeNet-5 on digits 0.990 and 0.992 (mean of 8); ResNet-18 of width 16 on
# 43 traffic signs (original 0.960) 0.947 and 0.920, the latter in 1.6 times the time: imitation is no default.
RECIPES = {
    "train": Recipe(name="train", epochs=16),
    "paper": Recipe(name="paper", epochs=10),
    "distilled": Recipe(name="distilled", epochs=10, distill=0.3, temperature=2.0),
}


@dataclass(frozen=True)
class Hooks:
    """Where other methods fit into the loop.

    `augment(pixels, labels, generator)` may change or extend a batch: float32 (B, C, H, W) in [0, 1] and int64 (B,).
    `loss(net, inputs, labels, logits)` gives a term to add; `inputs` are normalised. `after_step(net)` runs after
    every optimiser step (masks).
    """

    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None
    after_step: Callable[[nn.Module], None] | None = None


@dataclass(frozen=True)
class TrainingSet:
    """Images (N, H, W, C), uint8 or float32 in [0, 1], and labels (N,) int64, in memory; how nets normalise them."""

    images: Tensor
    labels: Tensor
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)

    @staticmethod
    def of(
        images: Images, labels: NDArray[np.int64], preprocessing: Preprocessing, device: str = "cpu"
    ) -> "TrainingSet":
        """From arrays; everything is put on `device`."""
        return TrainingSet(
            torch.from_numpy(np.ascontiguousarray(images)).to(device),
            torch.from_numpy(np.ascontiguousarray(labels)).to(device),
            torch.tensor(preprocessing.mean, device=device).reshape(1, -1, 1, 1),
            torch.tensor(preprocessing.std, device=device).reshape(1, -1, 1, 1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> "TrainingSet":
        """The same on another device."""
        return TrainingSet(*(part.to(device) for part in (self.images, self.labels, self.mean, self.std)))

    def pixels(self, index: Tensor | slice) -> Tensor:
        """Those images as float32 (B, C, H, W) in [0, 1]."""
        return _as_pixels(self.images[index])

    def shifted(self, index: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
        """Those images, each shifted (and mirrored) at random, as float32 (B, C, H, W) in [0, 1]."""
        count, (height, width), device = len(index), self.images.shape[1:3], self.images.device
        shifts = torch.randint(-recipe.shift, recipe.shift + 1, (2, count, 1), generator=generator).to(device)
        rows = (torch.arange(height, device=device) + shifts[0]).clamp_(0, height - 1)
        columns = (torch.arange(width, device=device) + shifts[1]).clamp_(0, width - 1)
        if recipe.flip:
            mirrored = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
            columns = torch.where(mirrored, columns.flip(1), columns)
        pixels = _as_pixels(self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]])
        light = 1 + recipe.light * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
        return pixels.mul_(light.to(device)).clamp_(0, 1)


def _as_pixels(images: Tensor) -> Tensor:
    planes = images.permute(0, 3, 1, 2).contiguous()
    return planes.float().div_(255) if images.dtype == torch.uint8 else planes


def fit(
    net: nn.Module,
    data: TrainingSet,
    recipe: Recipe,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    hooks: Hooks | None = None,
    tick: Callable[[int], None] = lambda steps: None,
) -> float:
    """Train `net` (which takes normalised inputs) in place and leave it in evaluation mode; returns seconds.

    `tick(1)` is called after every batch. The global random state is left as it was.
    Raises GateError where the loss is no longer a number.
    """
    started = time.perf_counter()
    hooks = hooks or Hooks()
    recipe, steps = recipe.resolved(len(data)), recipe.steps(len(data))
    assert recipe.batch is not None
    generator = torch.Generator().manual_seed(seed)
    lr = recipe.lr * math.sqrt(recipe.batch / 128)
    optimiser = torch.optim.SGD(
        [parameter for parameter in net.parameters() if parameter.requires_grad],
        lr=lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    device = device_of(net)
    half = half_of(device)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    with (
        torch.random.fork_rng(devices=[]),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),  # one seed, one result
        torch.enable_grad(),
    ):
        torch.manual_seed(seed)
        for model in filter(None, (net, teacher)):
            model.to(memory_format=FORMAT)  # type: ignore[call-overload]  # torch documents it
        net.train()
        for step, index in enumerate(_batches(len(data), recipe.batch, recipe.epochs, generator)):
            for group in optimiser.param_groups:
                group["lr"] = lr * _schedule(step, steps)
            index = index.to(data.labels.device)
            pixels, labels = data.shifted(index, recipe, generator), data.labels[index]
            if hooks.augment is not None:
                pixels, labels = hooks.augment(pixels, labels, generator)
            inputs = ((pixels - data.mean) / data.std).contiguous(memory_format=FORMAT)
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                logits = net(inputs)
            logits = logits.float()
            loss = _loss(logits, labels, recipe, teacher, inputs)
            if hooks.loss is not None:
                loss = loss + hooks.loss(net, inputs, labels, logits)
            if not math.isfinite(loss.item()):
                raise GateError(f"training diverged: the loss is {loss.item()} after {step} steps; lower --lr")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(scaler.scale(loss))
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            scaler.step(optimiser)
            scaler.update()
            if hooks.after_step is not None:
                hooks.after_step(net)
            tick(1)
    estimate_norms(net, data, recipe.norm_images)
    net.eval()
    for model in filter(None, (net, teacher)):
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
    for parameter in net.parameters():
        parameter.grad = None
    return time.perf_counter() - started


def half_of(device: torch.device) -> torch.dtype | None:
    """The type that forward passes may use beside float32 (mixed precision); None where there is none to gain by.

    On GPUs bfloat16, or float16 where they lack it. On CPUs none: those without instructions for it are slower.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _batches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def _schedule(step: int, steps: int) -> float:
    warm = 0.2 * steps
    if step < warm:
        return 0.05 + 0.95 * step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _loss(logits: Tensor, labels: Tensor, recipe: Recipe, teacher: nn.Module | None, inputs: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if teacher is None or recipe.distill == 0:
        return loss
    with torch.no_grad():
        target = F.log_softmax(teacher(inputs) / recipe.temperature, dim=1)
    soft = F.log_softmax(logits / recipe.temperature, dim=1)
    divergence = F.kl_div(soft, target, reduction="batchmean", log_target=True)
    return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence


def estimate_norms(net: nn.Module, data: TrainingSet, images: int) -> None:
    """Measure every batch norm's mean and variance anew on `images` pictures, unchanged by augmentation.

    They are taken evenly over the data: folders list one class after the other, and the first ones are of few classes.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    net.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # average over all batches
        norm.train()
    size, most = min(256, len(data)), min(images, len(data))
    batches = max(most // size, 1)
    with torch.no_grad():
        for start in range(batches):  # every batch has its share of every class, too
            index = start + torch.arange(size, device=data.labels.device) * batches
            index = index * len(data) // (batches * size)
            net((data.pixels(index) - data.mean) / data.std)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def predict(net: nn.Module, images: Images, *, batch: int = 256) -> NDArray[np.int64]:
    """The label index (N,) that a net of pixels in [0, 1] gives each image (N, H, W, C), in evaluation mode."""
    device = device_of(net)
    labels = []
    with torch.inference_mode(), evaluating(net):
        for start in range(0, len(images), batch):
            pixels = _as_pixels(torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(device))
            labels.append(net(pixels).argmax(1).cpu().numpy())
    return np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)


def accuracy(net: nn.Module, images: Images, labels: NDArray[np.int64], preprocessing: Preprocessing) -> float:
    """Share of the images that `net` (which takes normalised inputs) labels rightly."""
    wrapped = Normalised(net, preprocessing).to(device_of(net))
    return float(np.mean(predict(wrapped, images) == labels))


def device_of(net: nn.Module) -> torch.device:
    """Where the net's first parameter lives; the CPU where it has none."""
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
