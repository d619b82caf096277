"""What the Adversarial Robustness Toolbox carries out: the attack by a few pixels. It asks for answers alone.

It takes a net of pixels in [0, 1] that gives logits, images (N, C, H, W), labels (N,) and its settings, and returns
images. NumPy's random state, which the toolbox draws from, is seeded from torch's and put back afterwards.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdtool.evaluation.attack_common import device_of, frozen, logits_of
from pdtool.extras import require

__all__ = ["one_pixel", "toolbox"]

Planes = NDArray[np.float32]


def toolbox(module: str) -> ModuleType:
    """The toolbox's `module`, e.g. "art.attacks.evasion". Raises MissingError where it is not installed.

    Its first import leaves its settings, `.art/config.json`, in the home folder.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised by its own imports
        return require(module, "attack the original")


def one_pixel(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, *, pixels: int, iterations: int
) -> torch.Tensor:
    """`pixels` pixels in any colour, found by differential evolution: about 400 candidates, `iterations` generations.

    The label's probability is what is made small (Su et al. 2019). One image after another, a generation at once.
    Images that the net gets wrong already come back unchanged, and so do those on which the attack fails.
    """
    attack = toolbox("art.attacks.evasion").PixelAttack
    with frozen(net), _drawing():
        wanted = logits_of(net, images).argmax(1) == labels
        if not bool(wanted.any()):
            return images
        classifier = _classifier(net, images)
        run = attack(classifier, th=pixels, es=1, max_iter=iterations, verbose=False)
        run._perturb_image = _painted  # the toolbox's own goes through candidates and pixels one by one
        found = images.clone()
        made = run.generate(_numpy(images[wanted]), _numpy(labels[wanted]))
        found[wanted] = torch.from_numpy(made).to(images)
        # the toolbox computes in grey levels and back: all other pixels move by a rounding
        moved = ((found - images).abs() > 1e-4).any(dim=1, keepdim=True)
        return torch.where(moved, found.clamp(0, 1), images)


def _painted(candidates: NDArray[np.float64], image: Planes) -> Planes:
    """A copy of the image (C, H, W) for each candidate: row, column and colour of each pixel, one after another."""
    genes = np.atleast_2d(candidates).astype(int).reshape(-1, candidates.shape[-1] // (2 + len(image)), 2 + len(image))
    copies = np.repeat(image[None], len(genes), axis=0)
    for pixel in np.moveaxis(genes, 1, 0):
        copies[np.arange(len(genes)), :, pixel[:, 0] % image.shape[1], pixel[:, 1] % image.shape[2]] = pixel[:, 2:]
    return copies


def _classifier(net: torch.nn.Module, images: torch.Tensor) -> Any:
    """The net as the toolbox knows one that only answers: NumPy in, probabilities out."""
    device = device_of(net)
    classes = logits_of(net, images[:1]).shape[1]

    def answer(planes: Planes) -> Planes:
        logits = logits_of(net, torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)).to(device))
        if classes < 3:  # the toolbox takes two classes for one output: a third that is never the answer
            logits = torch.nn.functional.pad(logits, (0, 1), value=-1e9)
        said: Planes = logits.softmax(dim=1).cpu().numpy()
        return said

    return toolbox("art.estimators.classification").BlackBoxClassifierNeuralNetwork(
        answer, tuple(images.shape[1:]), max(classes, 3), channels_first=True, clip_values=(0.0, 1.0)
    )


@contextmanager
def _drawing() -> Iterator[None]:
    """NumPy's random state drawn from torch's inside, as it was afterwards."""
    state = np.random.get_state()
    np.random.seed(int(torch.randint(2**31 - 1, (1,))))
    try:
        yield
    finally:
        np.random.set_state(state)


def _numpy(values: torch.Tensor) -> NDArray[Any]:
    given: NDArray[Any] = values.detach().cpu().numpy()
    return given
