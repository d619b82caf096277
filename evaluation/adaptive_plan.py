"""What an adaptive study tries: which attackers, how large the changes, how hard."""

from dataclasses import dataclass

from pdtool.errors import UsageError
from pdtool.evaluation.adaptive_results import Threat

__all__ = ["EPSILONS", "GRADIENT", "LIMIT", "THREATS", "Plan", "parse_epsilon"]

GRADIENT: tuple[Threat, ...] = ("oblivious", "surrogates", "stolen", "full")
THREATS = (*GRADIENT, "decision", "availability")
EPSILONS = tuple(levels / 255 for levels in (1, 2, 4, 8, 16, 255))
LIMIT = 100  # images


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is tried: the attackers, each epsilon (most change of a pixel, pixels in [0, 1]), and how hard.

    `steps` gradient steps, `targets` wrong classes an image (the likeliest, then random ones; None: 2, or 3 of more
    than 10 classes), `restarts` of each (the first from the image, others from random points), `at_once` members in a
    step (or all, if fewer), `queries` an image.
    """

    threats: tuple[str, ...] = THREATS
    epsilons: tuple[float, ...] = EPSILONS
    steps: int = 50
    targets: int | None = None
    restarts: int = 1
    at_once: int = 8
    queries: int = 500

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be tried."""
        for threat in self.threats:
            if threat not in THREATS:
                raise UsageError(f"unknown threat {threat!r}; expected one of {', '.join(THREATS)}")
        if not self.threats or not self.epsilons:
            raise UsageError("expected at least one threat and one epsilon")
        if not all(0 < epsilon <= 1 for epsilon in self.epsilons):
            shown = ", ".join(f"{epsilon:g}" for epsilon in self.epsilons)
            raise UsageError(f"an epsilon should lie above 0 and be at most 1 (pixels in [0, 1]), got {shown}; 8/255?")
        if list(self.epsilons) != sorted(set(self.epsilons)):
            raise UsageError("expected epsilons in rising order, each once")
        for name in ("steps", "targets", "restarts", "at_once", "queries"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise UsageError(f"expected at least 1 for {name}, got {given}")

    @property
    def middle(self) -> float:
        """The epsilon at which the attacks are checked: the middle one of those below 1."""
        bounded = [epsilon for epsilon in self.epsilons if epsilon < 1] or list(self.epsilons)
        return bounded[len(bounded) // 2]

    @property
    def fewer(self) -> int:
        """The steps of the attacks that the real ones are checked against."""
        return max(1, self.steps // 5)


def parse_epsilon(text: str) -> float:
    """`8/255` or `0.03` as a number. Raises UsageError for what is none; `Plan` checks the range.

    >>> parse_epsilon("51/255"), parse_epsilon("0.03")
    (0.2, 0.03)
    """
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--epsilon should be a number or a fraction such as 8/255, is {text!r}") from None
