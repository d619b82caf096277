"""What hardening is asked for: numbers that go with the recipe, and their form on the command line."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from pdtool.artifacts import Kind
from pdtool.errors import UsageError

__all__ = ["HARDENINGS", "Hardening", "hardening_for", "parse_hardening"]

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly over [0, 1), modulo 1


@dataclass(frozen=True, kw_only=True)
class Hardening:
    """How members are trained to see through attacks on the original and on themselves.

    Against those on the original: on images crafted once a pool. They move up to `epsilon` away from the image in every
    pixel (L-inf), or by as much in the root mean square (L2), each by a random part of it and in a random number of
    gradient steps. Against those on themselves: members are attacked while they are trained, by up to `robust` in every
    pixel. Before them a `parent` is trained so, the original with all of its channels: members are cut from it. Further
    away from the original, and from `scouts` where there are some: gradients are kept `orthogonal` to theirs, layers
    get `fresh` weights. A pool may mix kinds of members (`pdtool.artifacts.Kind`).
    """

    share: float = 0.5  # of every batch that is crafted
    crafted: float = 2.0  # crafted images for each training image
    benign: float = 0.25  # of the crafted images: noise, blur and the like, no attack
    epsilon: float = 10 / 255  # largest change, pixels in [0, 1]
    steps: int = 4  # most gradient steps of an attack
    targeted: float = 0.35  # of the attacks: towards a random wrong label; the rest away from the true one
    l2: float = 0.3  # of the attacks: bounded in L2 instead of L-inf
    scouts: int = 0  # members made first and thrown away: attacks are on the original and on one of them together
    robust: float = 0.0  # furthest that images move in attacks on the member itself; 0: none
    robust_share: float = 1.0  # of the clean images of a batch that are attacked so
    robust_members: float = 1.0  # of the members that are attacked so
    plain_members: float = 0.0  # of the members that are not hardened at all
    parent: int = 0  # epochs of the parent; 0: members are cut from the original
    orthogonal: float = 0.0  # weight of the squared cosines between the member's gradient and the original's, scouts'
    orthogonal_share: float = 0.5  # of the clean images of a batch that it is taken on
    fresh: float = 0.0  # of the layers that begin with random weights

    def __post_init__(self) -> None:
        """Raise UsageError for a number that cannot be used."""
        shares = ("robust_share", "robust_members", "plain_members", "orthogonal_share", "fresh")
        for name in ("share", "benign", "targeted", "l2", "robust", *shares):
            if not 0 <= getattr(self, name) <= 1:
                hint = "; pixels do, write 6/255" if name == "robust" else ""
                raise UsageError(f"hardening: {name} should lie in [0, 1], is {getattr(self, name):g}{hint}")
        if not 0 < self.epsilon <= 1:
            raise UsageError(f"hardening: epsilon should lie in (0, 1], pixels do, is {self.epsilon:g}; write 10/255")
        if not 0 < self.crafted < math.inf:
            raise UsageError(f"hardening: crafted should be a number above 0, is {self.crafted:g}")
        if not 1 <= self.steps <= 1000:
            raise UsageError(f"hardening: steps should lie in 1..1000, is {self.steps}")
        if not 0 <= self.parent <= 10_000:
            raise UsageError(f"hardening: parent should lie in 0..10000 epochs, is {self.parent}")
        if self.robust > 0 and self.robust_share == 0:
            raise UsageError("hardening: robust_share should be above 0, or robust 0: nothing would be attacked")
        if not 0 <= self.orthogonal < math.inf:
            raise UsageError(f"hardening: orthogonal should be a number of at least 0, is {self.orthogonal:g}")
        if self.orthogonal > 0 and self.orthogonal_share == 0:
            raise UsageError(
                "hardening: orthogonal_share should be above 0, or orthogonal 0: no gradient would be taken"
            )
        if not 0 <= self.scouts <= 100:
            raise UsageError(f"hardening: scouts should lie in 0..100, is {self.scouts}")
        if self.share == 1:
            raise UsageError("hardening: share should be below 1: members must see clean images, too")
        if self.robust == 0 and self.robust_members != 1:
            raise UsageError(
                "hardening: robust_members goes with robust, the furthest that images move; give robust=6/255"
            )
        if self.robust > 0 and self.robust_members == 0 and self.parent == 0:
            raise UsageError("hardening: robust with robust_members=0 and no parent attacks nobody; leave it out")
        if self.robust > 0 and self.plain_members + self.robust_members > 1:
            raise UsageError(
                f"hardening: plain_members and robust_members should be at most 1 together, are {self.plain_members:g} "
                f"and {self.robust_members:g}; give robust_members={1 - self.plain_members:g}"
            )

    def kind(self, index: int) -> Kind:
        """What the member number `index` of a pool is: the kinds lie evenly over the members, however many there are.

        >>> mixed = Hardening(robust=0.02, robust_members=0.5, plain_members=0.25)
        >>> [mixed.kind(index) for index in range(4)]
        ['hardened', 'robust', 'robust', 'plain']
        """
        place = (index + 0.5) * GOLDEN % 1
        if place < self.plain_members:
            return "plain"
        return "robust" if self.robust > 0 and place >= 1 - self.robust_members else "hardened"


HARDENINGS = {"hardened": Hardening(robust=6 / 255, robust_members=0.5, parent=6)}  # recipe -> what goes with it


def hardening_for(recipe: str, *, inherits: bool) -> Hardening | None:
    """What goes with a recipe, None where members are not hardened. Those that do not begin with the original's weights
    (`inherits`) have no parent, and without one to begin with they learn too little when attacked themselves."""
    return None if recipe not in HARDENINGS else HARDENINGS[recipe] if inherits else Hardening()


def parse_hardening(texts: Iterable[str], base: Hardening) -> Hardening:
    """`base` with the settings of `NAME=VALUE[,NAME=VALUE...]`; a value may be a fraction. Where
    `robust_members` is not given, `plain_members` may lower it, and with `robust=0` it means nothing.

    Raises UsageError for an unknown name or a value that is no number of its range.

    >>> parse_hardening(["epsilon=8/255,steps=2"], Hardening()).steps
    2
    """
    whole = {field.name: isinstance(getattr(base, field.name), int) for field in fields(base)}
    given: dict[str, float] = {}
    for part in filter(None, ",".join(texts).split(",")):
        name, _, value = part.partition("=")
        if name not in whole:
            raise UsageError(f"hardening has no setting {name!r}; it takes {', '.join(whole)}")
        given[name] = _number(value, part, whole=whole[name])
    if "robust_members" not in given:
        plain = given.get("plain_members", base.plain_members)
        given["robust_members"] = 1.0 if given.get("robust") == 0 else min(base.robust_members, max(0.0, 1 - plain))
    return replace(base, **given)  # type: ignore[arg-type]  # whole numbers where they should be


def _number(value: str, text: str, *, whole: bool) -> float:
    above, _, below = value.partition("/")
    try:
        number = int(value) if whole else float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        kind = "a whole number" if whole else "a number or a fraction such as 10/255"
        raise UsageError(f"hardening: {text!r} should be NAME=VALUE with {kind}") from None
    return number
