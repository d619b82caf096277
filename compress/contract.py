"""What a method of making members is given and what it must give: the contract of every row of `METHODS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from pdtool.artifacts import Kind
from pdtool.compress.hardening import Hardening
from pdtool.compress.original import Original
from pdtool.compress.orthogonal import orthogonality
from pdtool.compress.prune import Unit
from pdtool.compress.split import Labelled
from pdtool.compress.training import Crafted, Hooks, Recipe, Robust, TrainingSet, crafted_of_batch, fit
from pdtool.jsonform import JsonValue

__all__ = ["TRAINING", "Draft", "Method", "Settings", "Task", "fine_tune"]

# the options of `Method.options` that make up the recipe; a method may train by a recipe for epochs of its own
TRAINING: Mapping[str, None] = {"recipe": None, "flip": None, "epochs": None}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a method is asked for. What the method does not take is None or empty."""

    rate: float | None = None  # share to remove, of channels or of weights; to mutate, of neurons or of weights
    group_rates: Mapping[int, float] = field(default_factory=dict)  # channels of a layer -> rate
    preset: str | None = None  # name of a paper's group rates
    round_to: int | None = None  # pruned layers keep a multiple of so many channels
    pattern: str | None = None  # "2:4": two of every four weights along the inputs are zero
    rounds: int | None = None  # of training and pruning
    search_epochs: int | None = None  # a round of searching, beside the recipe's own epochs
    tau: float | None = None  # factor of the last layer's weights


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that making one member may look at; nothing in it is changed.

    `units` are what may lose channels (for methods that prune channels), `layers` the names of the convolutions and
    linear layers whose weights may be zeroed or mutated (for the others). `held` are the images that accuracies are
    measured on. Where members are hardened, `crafted` are the images crafted as `hardening` says, once for all of them,
    against the original and `scouts`, `parent` is the net that they are cut from in place of the original's, of the
    same shape, where there is one, and `kind` is this member's.
    `tick(1)` is to be called as often as `Method.steps` says, `tick(0)` within a step that may be long.
    """

    original: Original
    units: tuple[Unit, ...]
    layers: tuple[str, ...]
    settings: Settings
    recipe: Recipe  # resolved for `training`
    training: TrainingSet
    held: Labelled
    hardening: Hardening | None = None
    crafted: Crafted | None = None
    scouts: tuple["Draft", ...] = ()
    parent: nn.Module | None = None
    kind: Kind = "hardened"
    seed: int = 0
    tick: Callable[[int], None] = lambda steps: None

    @property
    def stem(self) -> nn.Module:
        """What the member is a copy of: the parent, or else the original."""
        return self.original.net if self.parent is None or self.kind == "plain" else self.parent


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A member before it is tuned. `history` is what `prune.replay` needs to give a fresh net this net's shapes.

    Nothing else has to be kept: whatever `tune` does, zeros included, is in the weights that are written.
    """

    net: nn.Module
    history: JsonValue = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to make members, for one file in this folder.

    `options`: the settings that it takes, with their defaults, and those of `TRAINING` that it uses.
    `settle`: the settings with all filled in that depends on the model, and notes for the user. Raises UsageError
    for settings that this model cannot take; nothing has been written then.
    `start`: a net of the member's own, of the original's spec but for `Draft.history`, on the original's device.
    `tune`: trains or changes that net in place and returns what it drew or settled (for pool.json). Raises GateError
    where the member cannot be used; it is then recorded as `start` made it.
    `steps`: how often `tune` ticks.
    Both are functions of the task alone: one seed, one machine, the same bytes.
    """

    options: Mapping[str, object]
    removes: Literal["channels", "weights", "nothing"]
    settle: Callable[[Task], tuple[Settings, tuple[str, ...]]]
    start: Callable[[Task], Draft]
    tune: Callable[[Task, nn.Module], dict[str, JsonValue]]
    steps: Callable[[Task], int]
    single: bool = False  # makes one model, not a pool of them
    inherits: bool = False  # members start with the weights of `Task.stem`: a parent is worth training


def fine_tune(task: Task, net: nn.Module, *, epochs: int | None = None, hooks: Hooks | None = None) -> None:
    """Train the net by the task's recipe, for `epochs` where given; the original is the teacher.

    Raises ValueError where the task is to harden members and nothing was crafted.
    """
    hardening, recipe = task.hardening, task.recipe if epochs is None else replace(task.recipe, epochs=epochs)
    if hardening is not None and task.crafted is None:
        raise ValueError("members are to be hardened, but no images were crafted")
    crafted, robust = task.crafted, None
    if hardening is not None and task.kind == "plain":
        recipe, hardening, crafted = replace(recipe, distill=0.0), None, None
    if hardening is not None and hardening.robust > 0 and task.kind == "robust":
        robust = Robust(hardening.robust, hardening.robust_share)
    hooks = hooks or Hooks()
    if hardening is not None and hardening.orthogonal > 0:
        batch = recipe.resolved(len(task.training)).batch or 1
        clean = batch - crafted_of_batch(hardening.share, batch)
        images = max(min(2, clean), round(hardening.orthogonal_share * clean))  # clean ones, which come first
        given = (task.original.net, *(scout.net for scout in task.scouts))
        hooks = replace(hooks, loss=orthogonality(given, hardening.orthogonal, images))
    fit(
        net,
        task.training,
        recipe,
        seed=task.seed,
        teacher=task.original.net,
        crafted=crafted,
        robust=robust,
        hooks=hooks,
        tick=task.tick,
    )
