"""What training costs, counted in epochs of the original's own training: seconds depend on what else a machine does.

A forward pass of the original on an image is 1; a training step (forward, backward to activations and to weights) is 3;
a forward and backward pass to the image alone is 2. Members count by their MACs.
"""

from statistics import fmean

from pdtool.artifacts import Pool

__all__ = ["costs"]

STEP, TO_IMAGE, TWICE = 3.0, 2.0, 6.0  # TWICE: the gradient of a gradient, and its step


def costs(pool: Pool) -> tuple[float, float]:
    """Epochs of the original's training for a member, and once for the pool."""
    recipe, ratio = pool.recipe, fmean(member.model.macs for member in pool.members) / pool.original.macs
    hard = recipe.get("hardening")
    settings = hard if isinstance(hard, dict) else {}

    def number(of: dict[str, object], name: str) -> float:
        value = of.get(name, 0.0)
        assert isinstance(value, int | float)
        return float(value)

    share, benign = number(settings, "share"), number(settings, "benign")
    taught = (1 - share) + share * benign if number(dict(recipe), "distill") else 0.0

    scouts = number(settings, "scouts")

    def step(size: float, kind: str | None) -> float:
        """Of an image of a batch, for a net of that share of the original's MACs."""
        if kind == "plain":
            return STEP * size
        robust = number(settings, "robust_share") if number(settings, "robust") and kind == "robust" else 0.0
        right = number(settings, "orthogonal_share") if number(settings, "orthogonal") else 0.0
        own = robust * (TO_IMAGE + STEP) * size + right * (TO_IMAGE * (1 + scouts * ratio) + TWICE * size)
        return STEP * size + taught + (1 - share) * own

    epochs = number(dict(recipe), "epochs")
    member = epochs * fmean(step(ratio, each.kind) for each in pool.members)
    once = number(settings, "parent") * step(1.0, "robust")
    if settings:
        seen = max(epochs, number(settings, "parent")) * share
        crafted = min(number(settings, "crafted"), seen) * (1 - benign)
        against = 1.0  # the original; with scouts once more, and then often one of them, too
        if scouts:
            against += 1 + ratio * scouts / (1 + scouts)
        once += against * crafted * TO_IMAGE * (1 + number(settings, "steps")) / 2
        once += scouts * epochs * step(ratio, "hardened")
    return member / STEP, once / STEP
