"""One loop that trains a net or fine-tunes a pruned one, and its accuracy. Seeded; one machine, one result."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.artifacts import Preprocessing
from pdtool.compress.models import Normalised
from pdtool.compress.modes import evaluating
from pdtool.compress.precision import device_of, half_of, made_on
from pdtool.compress.recipe import RECIPES, Recipe
from pdtool.compress.robust import Robust, attacked
from pdtool.compress.training_set import FORMAT, Crafted, TrainingSet, as_pixels
from pdtool.errors import GateError
from pdtool.images import Images

__all__ = [
    "RECIPES",
    "Crafted",
    "Hooks",
    "Recipe",
    "Robust",
    "TrainingSet",
    "accuracy",
    "crafted_of_batch",
    "device_of",
    "fit",
    "half_of",
    "made_on",
    "predict",
]


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


def fit(
    net: nn.Module,
    data: TrainingSet,
    recipe: Recipe,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    crafted: Crafted | None = None,
    robust: Robust | None = None,
    hooks: Hooks | None = None,
    tick: Callable[[int], None] = lambda steps: None,
) -> float:
    """Train `net` (which takes normalised inputs) in place and leave it in evaluation mode; returns seconds.

    With `crafted` images a share of every batch is drawn from them, in place of as many of the data's own: batches
    stay as large and as many. The teacher teaches nothing about images that were attacked. `robust` attacks the net
    itself on a part of the data's own images and adds the loss there, where it is to say what it is taught to say of
    the images before. `tick(1)` is called after every batch. The global random state is left as it was.
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
        share = 0 if crafted is None else crafted_of_batch(crafted.share, recipe.batch)
        drawn = None if crafted is None else _draws(len(crafted), share, generator)
        for step, index in enumerate(_batches(len(data), recipe.batch, recipe.epochs, generator)):
            for group in optimiser.param_groups:
                group["lr"] = lr * _schedule(step, steps)
            index = index[share:].to(data.labels.device)
            pixels, labels = data.shifted(index, recipe, generator), data.labels[index]
            if hooks.augment is not None:
                pixels, labels = hooks.augment(pixels, labels, generator)
            taught = None
            if crafted is not None and drawn is not None:
                picked = next(drawn).to(data.labels.device)
                taught = torch.cat([torch.ones_like(labels, dtype=torch.bool), ~crafted.attacked[picked]])
                pixels = torch.cat([pixels, as_pixels(crafted.images[picked])])
                labels = torch.cat([labels, crafted.labels[picked]])
            inputs = ((pixels - data.mean) / data.std).contiguous(memory_format=FORMAT)
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                logits = net(inputs).float()
                wanted = _wanted(recipe, teacher, inputs, taught)
                loss = _loss(logits, labels, recipe, wanted, taught)
            if robust is not None:
                few = slice(0, robust.of(len(index)))  # clean images come first
                moved = attacked(net, data, pixels[few], labels[few], robust.epsilon, generator)
                with torch.autocast(device.type, dtype=half, enabled=half is not None):
                    said = net(((moved - data.mean) / data.std).contiguous(memory_format=FORMAT)).float()
                    loss = loss + _loss(said, labels[few], recipe, None if wanted is None else wanted[few], None)
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


def crafted_of_batch(share: float, batch: int) -> int:
    """How many images of a batch are crafted: `share` of them, but never all; members must see clean images, too."""
    return min(round(share * batch), batch - 1)


def _batches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def _draws(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Without end: `size` of `count` images, all of them in a new order again and again."""
    left = torch.zeros(0, dtype=torch.long)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:size]
        left = left[size:]


def _schedule(step: int, steps: int) -> float:
    warm = 0.2 * steps
    if step < warm:
        return 0.05 + 0.95 * step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _wanted(recipe: Recipe, teacher: nn.Module | None, inputs: Tensor, taught: Tensor | None) -> Tensor | None:
    """The teacher's logits of the images that are `taught` (B,), softened; None where it teaches nothing."""
    if teacher is None or recipe.distill == 0 or (taught is not None and not taught.any()):
        return None
    with torch.no_grad():
        logits: Tensor = teacher(inputs if taught is None else inputs[taught])
    return logits.float() / recipe.temperature


def _loss(logits: Tensor, labels: Tensor, recipe: Recipe, wanted: Tensor | None, taught: Tensor | None) -> Tensor:
    """As the recipe says; images that are not `taught` (B,) have their label alone. `wanted`: as of `_wanted`."""
    if wanted is None:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if taught is None:
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        return (1 - recipe.distill) * loss + recipe.distill * _divergence(logits, recipe, wanted)
    losses = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="none")
    share = taught.float().mean()
    loss = (losses * (1 - recipe.distill * taught.float())).mean()
    return loss + recipe.distill * share * _divergence(logits[taught], recipe, wanted)


def _divergence(logits: Tensor, recipe: Recipe, wanted: Tensor) -> Tensor:
    target, soft = F.log_softmax(wanted, dim=1), F.log_softmax(logits / recipe.temperature, dim=1)
    return recipe.temperature**2 * F.kl_div(soft, target, reduction="batchmean", log_target=True)


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
            pixels = as_pixels(torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(device))
            labels.append(net(pixels).argmax(1).cpu().numpy())
    return np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)


def accuracy(net: nn.Module, images: Images, labels: NDArray[np.int64], preprocessing: Preprocessing) -> float:
    """Share of the images that `net` (which takes normalised inputs) labels rightly."""
    wrapped = Normalised(net, preprocessing).to(device_of(net))
    return float(np.mean(predict(wrapped, images) == labels))
