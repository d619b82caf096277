"""What the attacks share: settings as text, the net held still, gradients of the image, margins, other classes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from pdtool.compress import modes
from pdtool.compress.training import device_of
from pdtool.errors import UsageError

__all__ = [
    "Setting",
    "device_of",
    "frozen",
    "gradient",
    "logits_of",
    "margin",
    "other_class",
    "read_settings",
    "spec_of",
    "within",
]

Setting = float | int | bool
# settings in units of pixels, where an epsilon is among them
IN_PIXELS = ("epsilon", "step", "base_epsilon", "base_step")
# settings that count something that must happen
AT_LEAST_ONE = (
    "steps", "base_steps", "searches", "masks", "t", "k", "rounds", "candidates", "pixels", "iterations", "queries",
)  # fmt: skip
# settings that are shares: of values, pixels, candidates or layers
SHARES = ("share", "drop", "depth", "seeds", "gamma")
ABOVE_ZERO = (("square", "epsilon"), ("square", "share"))  # where nothing could be done with 0


def spec_of(name: str, settings: Mapping[str, Setting]) -> str:
    """Name and settings as they are given on the command line, exactly; a switch that is off is left out.

    >>> spec_of("pgd", {"epsilon": 8 / 255, "step": 0.25 / 255, "steps": 10, "targeted": False})
    'pgd:epsilon=8/255,step=0.25/255,steps=10'
    """
    said = [f"{key}={_said(value)}" for key, value in settings.items() if value is not False]
    return f"{name}:" + ",".join(said) if said else name


def _said(value: Setting) -> str:
    """The shortest text that is read as this very number."""
    if isinstance(value, int):
        return str(int(value))
    short, levels = f"{value:g}", f"{value * 255:g}"
    if float(short) == value:
        return short
    return f"{levels}/255" if float(levels) / 255 == value else repr(value)


def read_settings(kind: str, text: str, options: str, known: Mapping[str, Setting]) -> dict[str, Setting]:
    """The `known` settings with `options` ("key=value,...", behind the name in `text`) put in; `kind`: "attack", ...

    Raises UsageError for an unknown setting, or a value that is no number of its range.
    """
    settings, said = dict(known), f"{kind} {text!r}"
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in settings:
            takes = f"it takes {', '.join(settings)}" if settings else "it takes none"
            raise UsageError(f"{kind} {text.partition(':')[0]} has no setting {key!r}; {takes}")
        settings[key] = number = _number(value, said, settings[key])
        if number > 1 and "epsilon" in settings and key in IN_PIXELS:
            levels = number if number <= 255 else 8
            raise UsageError(f"{said}: pixels lie in [0, 1], {key} is at most 1; write {key}={levels:g}/255")
        if number == 0 and key in AT_LEAST_ONE:
            raise UsageError(f"{said}: expected at least 1 for {key}, got 0")
        if number > 1 and key in SHARES:
            raise UsageError(f"{said}: {key} is a share, at most 1, got {value}")
        if number == 0 and (text.partition(":")[0], key) in ABOVE_ZERO:
            raise UsageError(f"{said}: expected more than 0 for {key}, got {value}")
    return settings


@contextmanager
def frozen(net: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients of the weights inside (an attack needs those of the image); restored after."""
    with modes.evaluating(net), modes.frozen(net):
        yield


def logits_of(net: torch.nn.Module, images: torch.Tensor, *, batch: int = 1024) -> torch.Tensor:
    """The net's logits (N, classes) of the images, `batch` at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(images, batch)])


def gradient(loss: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values (N,) of `loss` for images (N, C, H, W), and their gradient with respect to the images."""
    given = images.detach().requires_grad_(True)
    values = loss(given)
    (found,) = torch.autograd.grad(values.sum(), given)
    return values.detach(), found


def within(x: torch.Tensor, images: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The points `x` brought back within `epsilon` (L-inf) of the images and into [0, 1]."""
    return (images + (x - images).clamp(-epsilon, epsilon)).clamp(0, 1)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Best other logit minus that of the label, (N,): positive where the label is not the net's."""
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(dim=1) - logits[own]


def other_class(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """A random class other than the label for each of `labels` (N,), drawn from torch's random state."""
    drawn = torch.randint(classes - 1, labels.shape).to(labels.device)
    return drawn + (drawn >= labels)


def _number(value: str, said: str, like: Setting) -> Setting:
    """`value` as a number of the kind of `like`: a switch, a whole number or any."""
    above, _, below = value.partition("/")
    switch, whole = isinstance(like, bool), isinstance(like, int)
    try:
        number = float(above) / float(below) if below else float(above)
        if number < 0 or not np.isfinite(number) or (whole and number != int(number)) or (switch and number > 1):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        kind = "a whole number of at least 0" if whole else "a number or a fraction such as 8/255 of at least 0"
        kind = "1 (on) or 0 (off)" if switch else kind
        raise UsageError(f"{said}: expected {kind}, got {value!r}") from None
    return bool(number) if switch else int(number) if whole else number
