"""Crafted images: training images changed once a pool, by attacks on the original and by what is no attack.

An attack that always runs away from the true label writes that label into the image ("label leaking", Kurakin et al.
2017, section 4.3), and a member could learn to read it there. So attacks differ image by image in what they follow,
how far and in which norm they go, in how many steps and from where; a part of them runs towards a random wrong label.
Noise, blur, coarse colours and compression of the same size carry the label of the image as well: being changed is no
sign of an attack.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.compress.hardening import Hardening
from pdtool.compress.modes import evaluating, frozen
from pdtool.compress.recipe import Recipe
from pdtool.compress.training_set import FORMAT, Crafted, TrainingSet

__all__ = ["ATTACKS", "BATCH", "KINDS", "craft"]

KINDS = ("untargeted", "margin", "targeted", "noise", "gaussian", "blur", "coarse", "compressed")
UNTARGETED, MARGIN, TARGETED = range(3)
ATTACKS = 3  # so many kinds are attacks, the first ones
BATCH = 128  # images crafted at a time


def craft(
    nets: Sequence[nn.Module],
    data: TrainingSet,
    hardening: Hardening,
    recipe: Recipe,
    *,
    seed: int,
    count: int,
    tick: Callable[[int], None] = lambda batches: None,
) -> Crafted:
    """Craft `count` images from augmented training images, every one of those as often as the others.

    Attacks are on the first of `nets` (which take normalised inputs and are left as they are) or on it and one of the
    others together, by chance, batch by batch. One seed, one machine, the same images. `tick(1)` after every batch of
    `BATCH`.
    """
    generator = torch.Generator().manual_seed(seed)
    device, rounds = data.labels.device, math.ceil(count / len(data))
    order = torch.cat([torch.randperm(len(data), generator=generator) for _ in range(rounds)])[:count]
    images, kinds = [], []

    with ExitStack() as stack:
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        for net in nets:
            stack.enter_context(evaluating(net))
            stack.enter_context(frozen(net))
            net.to(memory_format=FORMAT)  # type: ignore[call-overload]  # torch documents it
        for start in range(0, count, BATCH):
            index = order[start : start + BATCH].to(device)
            pixels = data.shifted(index, recipe, generator)
            kind = _draw_kinds(len(index), hardening, generator)
            other = int(torch.randint(0, len(nets), (1,), generator=generator))
            victims = _Victims([nets[0], nets[other]] if other else [nets[0]], data)
            changed = _changed(victims, pixels, data.labels[index], kind, hardening, generator)
            images.append(changed.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
            kinds.append(kind)
            tick(1)
    for net in nets:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
    kind = torch.cat(kinds).to(device)
    labels = data.labels[order.to(device)]
    return Crafted(torch.cat(images), labels, kind, kind < ATTACKS, hardening.share)


@dataclass(frozen=True)
class _Victims:
    """Who is attacked, all at once, and how they normalise pixels."""

    nets: Sequence[nn.Module]
    data: TrainingSet

    def logits(self, pixels: Tensor) -> list[Tensor]:
        """Each net's (B, classes)."""
        inputs = ((pixels - self.data.mean) / self.data.std).contiguous(memory_format=FORMAT)
        return [net(inputs) for net in self.nets]


def _draw_kinds(count: int, hardening: Hardening, generator: torch.Generator) -> Tensor:
    attacks = 1 - hardening.benign
    odds = [attacks * (1 - hardening.targeted) / 2] * 2 + [attacks * hardening.targeted]
    odds += [hardening.benign / (len(KINDS) - ATTACKS)] * (len(KINDS) - ATTACKS)
    return torch.multinomial(torch.tensor(odds), count, replacement=True, generator=generator)


def _changed(
    victims: _Victims,
    pixels: Tensor,
    labels: Tensor,
    kind: Tensor,
    hardening: Hardening,
    generator: torch.Generator,
) -> Tensor:
    """Each image of (B, C, H, W) changed by its kind (B,), by a random part of epsilon."""
    size = hardening.epsilon * (0.1 + 0.9 * torch.rand(len(kind), 1, 1, 1, generator=generator))
    changed = pixels.clone()
    for number in range(ATTACKS, len(KINDS)):
        rows = (kind == number).nonzero()[:, 0]
        if len(rows):
            here = size[rows].to(pixels.device)
            rows = rows.to(pixels.device)
            changed[rows] = _benign(KINDS[number], pixels[rows], here, hardening.epsilon, generator)
    rows = (kind < ATTACKS).nonzero()[:, 0]
    if len(rows):
        follows, size = kind[rows].to(pixels.device), size[rows].to(pixels.device)
        rows = rows.to(pixels.device)
        with torch.enable_grad():
            changed[rows] = _attacked(victims, pixels[rows], labels[rows], follows, size, hardening, generator)
    return changed.clamp_(0, 1)


def _attacked(
    victims: _Victims,
    pixels: Tensor,
    labels: Tensor,
    follows: Tensor,
    size: Tensor,
    hardening: Hardening,
    generator: torch.Generator,
) -> Tensor:
    """Projected gradient steps (Madry et al. 2018) of all images at once; an image that is done takes no more part.

    `size` (B, 1, 1, 1) is the radius: of every pixel, or of the root mean square over the image.
    """
    count, device = len(pixels), pixels.device
    round_ball = (torch.rand(count, generator=generator) < hardening.l2).to(device)
    steps = torch.randint(1, hardening.steps + 1, (count,), generator=generator)
    begins = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).float().to(device)  # half at a random point
    start = (2 * torch.rand(pixels.shape, generator=generator) - 1).to(device)
    # longer strides than the radius by the number of steps: the last ones walk along the ball's surface
    stride = size * torch.where(steps == 1, 1.0, 1.5 / steps).to(device)[:, None, None, None]
    classes = victims.logits(pixels[:1])[0].shape[1]
    other = (torch.randint(1, classes, (count,), generator=generator).to(device) + labels) % classes
    change = _within(start * size * begins, size, round_ball)
    for step in range(int(steps.max())):
        rows = (steps > step).nonzero()[:, 0].to(device)
        point = (pixels[rows] + change[rows]).clamp_(0, 1).requires_grad_(True)
        gains = [_gain(logits, labels[rows], other[rows], follows[rows]) for logits in victims.logits(point)]
        (gradient,) = torch.autograd.grad(torch.stack(gains).sum(), point)
        rms = gradient.square().mean((1, 2, 3), keepdim=True).sqrt_().clamp_(min=1e-20)
        direction = torch.where(round_ball[rows, None, None, None], gradient / rms, gradient.sign())
        moved = point.detach() - pixels[rows] + stride[rows] * direction
        change[rows] = _within(moved, size[rows], round_ball[rows])
    return pixels + change


def _gain(logits: Tensor, labels: Tensor, other: Tensor, follows: Tensor) -> Tensor:
    """What an attack raises, for each image (B,)."""
    away = F.cross_entropy(logits, labels, reduction="none")
    towards = -F.cross_entropy(logits, other, reduction="none")
    own = logits.gather(1, labels[:, None])[:, 0]
    best = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    return torch.where(follows == UNTARGETED, away, torch.where(follows == MARGIN, best - own, towards))


def _within(change: Tensor, size: Tensor, round_ball: Tensor) -> Tensor:
    """The change drawn back into its ball."""
    rms = change.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-20)
    return torch.where(round_ball[:, None, None, None], change * (size / rms).clamp(max=1), change.clamp(-size, size))


def _benign(kind: str, pixels: Tensor, size: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """A change that is no attack; `size` (B, 1, 1, 1) is how large."""
    if kind == "noise":
        return pixels + size * (2.0 * torch.randint(0, 2, pixels.shape, generator=generator) - 1).to(pixels.device)
    if kind == "gaussian":
        return pixels + size * torch.randn(pixels.shape, generator=generator).to(pixels.device)
    if kind == "blur":
        soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return pixels + (soft - pixels) * (size / most)
    if kind == "coarse":
        return (pixels / (2 * size)).round() * (2 * size)
    return _compressed(pixels, size)


def _compressed(pixels: Tensor, size: Tensor) -> Tensor:
    """Blocks of 8x8 with their cosine transform rounded, coarser for finer detail, as JPEG does it."""
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
    place = torch.arange(8.0, device=pixels.device)
    cosines = torch.cos((place[None] + 0.5) * place[:, None] * math.pi / 8) / 2
    cosines[0] /= math.sqrt(2)
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, rows, columns, 8, 8)
    detail = cosines @ blocks @ cosines.T
    grain = size[..., None, None] * (1 + (place[:, None] + place) / 2)  # 1 to 8 x size
    blocks = cosines.T @ ((detail / grain).round() * grain) @ cosines
    again = blocks.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return again[:, :, :height, :width]
