"""Greedy local search: perturb the few pixels that matter, found by trying, without gradients.

Source: Narodytska and Kasiviswanathan, "Simple black-box adversarial attacks on deep neural networks", 2017,
Algorithm 3. Pixels are seen around middle grey there, from -1/2 to 1/2.
"""

import torch

from pdtool.evaluation.attack_common import frozen, logits_of

__all__ = ["local_search", "wrapped"]


def local_search(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    p: float,
    r: float,
    d: int,
    t: int,
    k: int,
    rounds: int,
    seeds: float,
    candidates: int,
) -> torch.Tensor:
    """Each round: try candidate pixels one by one at +-`p`, multiply the `t` that hurt the label most by `r`.

    The first candidates are a random share `seeds` of all pixels; later ones the squares of half side `d` around the
    pixels of the last round, of which `candidates` are drawn where there are more. A product that leaves the range of
    pixels comes in again on its other side. Ends when the label is not among the net's `k` best, or after `rounds`:
    at most `rounds` x `t` pixels change. Images for which that holds already come back unchanged.

    A trial keeps the pixel's side of grey, as the paper has it, while the change of a dark or bright pixel leads to the
    other side. `p` = 0 tries grey instead: it fools more nets with fewer pixels, all of the digits instead of none.
    """
    n, height, width = len(images), images.shape[2], images.shape[3]
    x = images.clone()
    drawn = max(t, round(seeds * height * width))
    field = torch.rand(n, height * width).argsort(dim=1)[:, :drawn]
    tried = torch.zeros(n, height * width, dtype=torch.bool).scatter_(1, field, True).to(images.device)
    left = torch.arange(n, device=images.device)
    with frozen(net):
        for _ in range(rounds):
            best = logits_of(net, x[left]).topk(min(k, logits_of(net, x[:1]).shape[1]), dim=1).indices
            left = left[(best == labels[left, None]).any(dim=1)]
            if not len(left):
                break
            worst = _worst(net, x, labels, left, _drawn(tried[left], candidates), p, t)
            for image, pixels in zip(left.tolist(), worst, strict=True):
                values = x[image].flatten(1)
                values[:, pixels] = wrapped(values[:, pixels], r)
                x[image] = values.reshape(images.shape[1:])
            tried[left] = _around(worst, height, width, d).to(tried.device)
    return x


def wrapped(pixels: torch.Tensor, r: float) -> torch.Tensor:
    """Pixels in [0, 1], their distance from middle grey times `r` (up to 2), brought into the range by going round."""
    far = r * (pixels - 0.5)
    return ((far + 0.5) - (far > 0.5).to(far) + (far < -0.5).to(far)).clamp(0, 1)


def _drawn(tried: torch.Tensor, candidates: int) -> torch.Tensor:
    """At most `candidates` of each row's marked places, drawn at random; (M, places) as marks."""
    order = (torch.rand(tried.shape).to(tried.device) - 2 * tried.float()).argsort(dim=1)
    first = torch.zeros_like(tried).scatter_(1, order[:, :candidates], True)
    return tried & first


def _worst(
    net: torch.nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    left: torch.Tensor,
    marked: torch.Tensor,
    p: float,
    t: int,
) -> list[torch.Tensor]:
    """For each image of `left` the `t` marked pixels that, at +-`p`, leave its label the least probability."""
    which, pixel = marked.nonzero(as_tuple=True)
    chance = []
    for images, pixels in zip(torch.split(left[which], 1024), torch.split(pixel, 1024), strict=True):
        trial = x[images].flatten(2)
        rows = torch.arange(len(pixels), device=x.device)
        old = trial[rows, :, pixels] - 0.5
        trial[rows, :, pixels] = torch.where(old < 0, -p, p) + 0.5
        logits = logits_of(net, trial.reshape(-1, *x.shape[1:]))
        chance.append(logits.softmax(dim=1).gather(1, labels[images, None])[:, 0])
    many: list[int] = marked.sum(dim=1).tolist()
    parts = zip(torch.split(torch.cat(chance), many), torch.split(pixel, many), strict=True)
    return [pixels[given.argsort(stable=True)[:t]] for given, pixels in parts]


def _around(pixels: list[torch.Tensor], height: int, width: int, d: int) -> torch.Tensor:
    """Marks of the squares of half side `d` around each image's pixels; (M, height x width)."""
    marked = torch.zeros(len(pixels), 1, height, width)
    for square, places in zip(marked, pixels, strict=True):
        square.flatten()[places.cpu()] = 1
    side = torch.nn.functional.max_pool2d(marked, 2 * d + 1, stride=1, padding=d)
    return side.flatten(1) > 0
