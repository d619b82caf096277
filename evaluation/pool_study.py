"""How apart a pool's members err: their label changes on the held-out images, clean and attacked."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import Pool
from pdtool.compress.folder import PoolFolder
from pdtool.compress.plan import BoardFit, fits_board
from pdtool.compress.split import Labelled, spread
from pdtool.compress.training import predict
from pdtool.compress.watch import Watch, silent
from pdtool.devices.catalogue import DeviceProfile
from pdtool.evaluation.attacks import parse_attack, run_attack
from pdtool.evaluation.diversity import Diversity, diversity, pair_correlations
from pdtool.evaluation.metrics import auroc

__all__ = ["ATTACKS", "FEW", "PoolStudy", "Votes", "study"]

ATTACKS = ("fgsm:epsilon=0.03", "deepfool")
ATTACKED = 300  # held-out images that are attacked, at most
FEW = 20  # images: fewer say nothing of how apart members err


@dataclass(frozen=True)
class Votes:
    """What the used members say of one set of images.

    `changed` (N, M): label changes, of all clean images or of the attacked ones that fool the original. `given`: how
    many images were attacked (those that the original labels rightly), None for the clean ones. `auroc`: of the label
    change rate against that of the clean images.
    """

    name: str  # "clean" or the attack's
    spec: str | None  # the attack with its settings
    given: int | None
    changed: NDArray[np.bool_]
    auroc: float | None

    def __len__(self) -> int:
        return len(self.changed)

    @property
    def rates(self) -> NDArray[np.float64]:
        """The label change rate of each image (N,)."""
        return _rates(self.changed)

    @property
    def diversity(self) -> Diversity:
        """How different the members' votes are; of fewer than `FEW` images nothing is said."""
        return diversity(self.changed if len(self) >= FEW else self.changed[:0])

    @property
    def pairs(self) -> NDArray[np.float64]:
        """The correlation of every pair of members whose label changes vary; none of fewer than `FEW` images."""
        return pair_correlations(self.changed if len(self) >= FEW else self.changed[:0])


@dataclass(frozen=True)
class PoolStudy:
    """A pool, and what its used members say: `votes` of the clean images first, empty where `left_out` says why."""

    pool: Pool
    name: str  # the folder's
    floor: float  # least accuracy of a used member
    votes: tuple[Votes, ...]
    left_out: str | None
    board: BoardFit | None


def study(
    folder: PoolFolder,
    held: Labelled,
    *,
    floor: float,
    board: DeviceProfile | None = None,
    place: str = "cpu",
    watch: Watch = silent,
) -> PoolStudy:
    """Ask the original and all used members about the held-out images, clean and attacked.

    The attacks are made on the original, from up to `ATTACKED` of the images, with the pool's seed, on the CPU; models
    run on `place`. Raises MissingError without Foolbox, and what opening a model raises.
    """
    pool = folder.pool
    used = [member for member in pool.members if member.used]
    parameters = pool.original.parameters + sum(member.model.parameters for member in used)
    done = PoolStudy(
        pool=pool,
        name=folder.folder.resolve().name,
        floor=floor,
        votes=(),
        left_out=_left_out(pool),
        board=None if board is None else fits_board(parameters, board),
    )
    if done.left_out is not None:
        return done
    few, original = spread(held, ATTACKED), folder.original()
    with watch("measure diversity", 2 * len(few) + len(used) * (len(held) + 2 * len(few))) as task:
        sets = {"clean": (held.images, predict(original.to(place), held.images))}
        given = dict[str, int]()
        if bool((predict(original, few.images) == few.labels).any()):
            original.to("cpu")
            for text in ATTACKS:
                found = run_attack(original, few.images, few.labels, text, seed=pool.seed, advance=task.advance)
                sets[text], given[text] = (found.images[found.success], found.given[found.success]), len(found)
        changed = {text: np.zeros((len(images), len(used)), dtype=bool) for text, (images, _) in sets.items()}
        for i, member in enumerate(used):
            net = folder.member(member.id).to(place)
            for text, (images, labels) in sets.items():
                changed[text][:, i] = predict(net, images) != labels
            task.advance(len(held) + 2 * len(few))
    rates = _rates(changed["clean"])
    votes = [Votes("clean", None, None, changed["clean"], None)]
    for text, count in given.items():
        attack = parse_attack(text)
        votes.append(Votes(attack.name, attack.spec, count, changed[text], auroc(rates, _rates(changed[text]))))
    return replace(done, votes=tuple(votes))


def _rates(changed: NDArray[np.bool_]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = changed.mean(axis=1)
    return rates


def _left_out(pool: Pool) -> str | None:
    used = sum(member.used for member in pool.members)
    if len(pool.members) == 1:
        return "One model alone has nobody to err apart from, so that no diversity was measured."
    if used == 1:
        return "Only one member is used: it has nobody to err apart from, so that no diversity was measured."
    return None
