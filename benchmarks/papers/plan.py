"""What the two scales are made of: data, pools, rules, attacks, and the commands that make them, in order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages import HERE, Stage

__all__ = ["ADAPTIVE", "CIFAR10", "GTSRB", "RULES", "SCALES", "Data", "Pool", "Scale", "stages"]

# Pools that are attacked by those who know them -> the bundle that judges
ADAPTIVE: Mapping[str, str] = {"paper": "paper-bundle", "hardened": "hardened-margin-bundle"}
# Pools under other rules than their own: bundle -> pool and options of calibrate
RULES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "paper-wald": ("paper", ("--rule", "wald", "--preset", "paper")),
    "paper-fixed": ("paper", ("--rule", "fixed")),
    "paper-mmt": ("paper", ("--rule", "mmt")),
    "mutation-nai-optimal": ("mutation-nai", ()),
    "hardened-graded": ("hardened", ("--evidence", "graded")),
    "hardened-margin": ("hardened", ("--evidence", "margin")),
    "paper-margin": ("paper", ("--evidence", "margin")),
}


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool of the tables: what `compress` is called with, and `calibrate` of its bundle."""

    name: str
    method: str
    members: int
    options: tuple[str, ...] = ()
    rule: tuple[str, ...] = ()
    target_fpr: float = 0.0  # the least asked for: few members cannot keep what many can


@dataclass(frozen=True, kw_only=True)
class Data:
    """A set of images and what is done with it; `{data}` in a spec stands for the folder DATA."""

    name: str
    title: str
    needs: str  # a file of DATA; the set is left out where it is missing
    train: str
    fit: str  # clean test images that bundles are calibrated on
    test: str  # other test images: these are attacked
    foreign: tuple[str, ...]
    model: str
    training: tuple[str, ...]  # options of train
    tuning: Mapping[str, tuple[str, ...]]  # pool -> options of compress
    target_fpr: float
    regimes: Mapping[str, int] = field(default_factory=dict)  # adversarially trained models -> epochs
    adaptive: int = 0  # images attacked by those who know the defence


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size of the experiment: `limit` images are attacked, by slow attacks as many as `limits` says."""

    data: tuple[Data, ...]
    pools: tuple[Pool, ...]
    limit: int
    limits: Mapping[str, int]
    train_on: str
    surrogates: int  # members of such an attacker's own
    attacks: tuple[str, ...] = ("pgd:epsilon=8/255",)
    presets: tuple[str, ...] = ("paper-access2021", "paper-icml2021", "strong")


# Without a parent and attacks on members themselves: `benchmarks/recipes` measures these
HARDENED = ("--recipe", "hardened", "--hardening", "parent=0,robust=0")


def _pools(channels: int, hardened: int, others: int, least: float) -> tuple[Pool, ...]:
    return (
        Pool(name="paper", method="random-channel", members=channels, options=("--recipe", "paper")),
        Pool(name="hardened", method="random-channel", members=hardened, options=HARDENED),
        Pool(name="mutation-nai", method="mutation-nai", members=channels, rule=("--rule", "mmt")),
        Pool(name="l1-norm", method="l1-norm", members=others, target_fpr=least, options=("--recipe", "paper")),
        Pool(name="lottery-ticket", method="lottery-ticket", members=others, target_fpr=least),
        Pool(name="subnetwork", method="subnetwork", members=others, target_fpr=least),
    )


CIFAR10 = Data(
    name="cifar10",
    title="CIFAR-10",
    needs="cifar10-train.tar.gz",
    train="{data}/cifar10-train.tar.gz",
    fit="{data}/cifar10-test-public.tar.gz#1/2",
    test="{data}/cifar10-test-public.tar.gz#2/2",
    foreign=("{data}/gtsrb-test-public.tar.gz",),
    model="resnet18:width=16",
    training=("--epochs", "30", "--flip"),
    tuning={
        "paper": ("--epochs", "4", "--flip"),
        "hardened": ("--epochs", "8", "--flip"),
        "l1-norm": ("--epochs", "4", "--flip", "--max-drop", "0.3"),
        "lottery-ticket": (
            *("--rounds", "2", "--search-epochs", "1", "--epochs", "2", "--flip"),
            *("--max-drop", "0.3"),
        ),
        "subnetwork": ("--search-epochs", "4", "--flip", "--max-drop", "0.5"),
    },
    target_fpr=0.1,
    regimes={"fast-at": 4},
    adaptive=50,
)
GTSRB = Data(
    name="gtsrb",
    title="GTSRB",
    needs="gtsrb-train.tar.gz",
    train="{data}/gtsrb-train.tar.gz",
    fit="{data}/gtsrb-test-public.tar.gz#1/2",
    test="{data}/gtsrb-test-public.tar.gz#2/2",
    foreign=("{data}/cifar10-test-public.tar.gz",),
    model="resnet18:width=16",
    training=(),
    tuning={
        "lottery-ticket": ("--rounds", "3", "--search-epochs", "2", "--epochs", "6"),
        "subnetwork": ("--search-epochs", "10", "--max-drop", "0.2"),
    },
    target_fpr=0.2,  # 53 tracks cannot promise less
    regimes={"pgd-at": 4, "trades": 4, "fast-at": 8},
)
SVHN = Data(
    name="svhn",
    title="SVHN",
    needs="train_32x32.mat",
    train="svhn:{data}#train",
    fit="svhn:{data}#calibrate",
    test="svhn:{data}#test",
    foreign=("{data}/gtsrb-test-public.tar.gz",),
    model="vgg16",
    training=("--epochs", "20"),
    tuning={},
    target_fpr=0.05,
    regimes={"pgd-at": 6, "trades": 4, "fast-at": 15},
)
FULL_CIFAR10 = Data(
    name="cifar10",
    title="CIFAR-10",
    needs="cifar10-train.tar.gz",
    train=CIFAR10.train,
    fit=CIFAR10.fit,
    test=CIFAR10.test,
    foreign=CIFAR10.foreign,
    model="resnet18",
    training=("--epochs", "30", "--flip"),
    tuning={name: ("--flip",) for name in ("paper", "hardened", "l1-norm", "lottery-ticket", "subnetwork")},
    target_fpr=0.05,
    regimes={"pgd-at": 6, "trades": 4, "fast-at": 15},
    adaptive=100,
)
SCALES = {
    "small": Scale(
        data=(CIFAR10, GTSRB),
        pools=_pools(16, 8, 3, 0.2),
        limit=300,
        limits={"cw": 100, "jsma": 100, "local-search": 60, "one-pixel": 20, "square": 30},
        train_on="cpu",
        surrogates=5,
    ),
    "full": Scale(
        data=(FULL_CIFAR10, SVHN),
        pools=_pools(32, 16, 8, 0.0),
        limit=1000,
        limits={"cw": 200, "jsma": 200, "local-search": 200, "one-pixel": 50, "square": 100},
        train_on="cuda",
        surrogates=20,
    ),
}


def stages(scale: Scale, data: Path, out: Path, *, limit: int | None, seed: int) -> Iterator[Stage]:
    """Every stage of a scale in order, of those sets of images that are there. `limit` in place of the scale's."""
    for images in scale.data:
        if (data / images.needs).exists():
            yield from _of(scale, images, data, out / images.name, limit or scale.limit, seed)


def _of(scale: Scale, images: Data, data: Path, out: Path, limit: int, seed: int) -> Iterator[Stage]:
    def spec(text: str) -> str:
        return text.replace("{data}", str(data))

    def stage(name: str, made: str, *command: object) -> Stage:
        return Stage(f"{images.name}/{name}", out / made, tuple(map(str, command)))

    seeded, on = ("--seed", seed), ("--train-on", scale.train_on)
    weights, train, test = out / "model.safetensors", spec(images.train), spec(images.test)
    limits = [text for name, most in scale.limits.items() for text in ("--limit-attack", f"{name}={min(most, limit)}")]

    def export(name: str, pool: str, *options: object) -> Stage:
        return stage(
            f"{name}/export", f"{name}/bundle.json", "pdtool", "export", out / pool, "--out", out / name, *options
        )

    def calibrate(name: str, rule: tuple[str, ...], least: float = 0.0) -> Stage:
        # Neither the papers' tests nor one of three members need keep a promise: stored all the same, and counted
        said = () if {"--evidence", "wald", "mmt"} & set(rule) else ("--evidence", "label")
        options = ("--target-fpr", max(images.target_fpr, least), "--accept-miss", *rule, *said, *seeded)
        return stage(
            f"{name}/calibrate", f"{name}/calibration.json",
            "pdtool", "calibrate", out / name, "--data", spec(images.fit), *options,
        )  # fmt: skip

    def compress(name: str, pool: Pool, members: int, seed: int) -> Stage:
        return stage(
            f"{name}/compress", f"{name}/pool.json",
            "pdtool", "compress", "--weights", weights, "--data", train, "--method", pool.method,
            "--members", members, *pool.options, *images.tuning.get(pool.name, ()), "--out", out / name, *on,
            "--seed", seed,
        )  # fmt: skip

    def adaptive(name: str, bundle: str) -> Stage:
        return stage(
            f"{name}/adaptive", f"{name}-adaptive/adaptive.json",
            "pdtool", "evaluate", out / bundle, "--pool", out / name, "--data", test,
            "--limit", min(images.adaptive, limit), "--adaptive", "--surrogates", out / f"{name}-surrogates",
            "--out", out / f"{name}-adaptive", *seeded,
        )  # fmt: skip

    def evaluate(name: str, bundle: str, pool: str, *options: object) -> Stage:
        return stage(
            f"{name}/evaluate", f"{name}-evaluation/report.json",
            "pdtool", "evaluate", out / bundle, "--pool", out / pool, "--data", test, "--limit", limit, *limits,
            *options, "--attack-on", scale.train_on, "--images", out / "images", "--out", out / f"{name}-evaluation",
            *seeded,
        )  # fmt: skip

    named = [text for attack in scale.attacks for text in ("--attack", attack)]
    named += [text for preset in scale.presets for text in ("--preset", preset)]
    yield stage(
        "original", weights.name,
        "pdtool", "train", "--model", images.model, "--data", train, "--out", weights, *images.training, *on, *seeded,
    )  # fmt: skip
    for pool in scale.pools:
        name = pool.name
        yield compress(name, pool, pool.members, seed)
        yield export(f"{name}-bundle", name)
        yield calibrate(f"{name}-bundle", pool.rule, pool.target_fpr)
        beside: list[str] = []
        if name in ("paper", "hardened"):
            beside = ["--control", "all", *(text for each in images.foreign for text in ("--foreign", spec(each)))]
        if name == "paper":
            yield export(f"{name}-int8", name, "--precision", "int8", "--calibration-data", f"{train}#1/20")
            beside += ["--compare", str(out / f"{name}-int8")]
            beside += ["--baseline", "all", "--baseline-data", f"{train}#1/5"]
        yield evaluate(name, f"{name}-bundle", name, *named, *beside)
    for name, (pool_name, options) in RULES.items():
        yield export(f"{name}-bundle", pool_name)
        yield calibrate(f"{name}-bundle", options)
        yield evaluate(name, f"{name}-bundle", pool_name, *named)
    for pool in scale.pools:
        if images.adaptive and pool.name in ADAPTIVE:
            yield compress(f"{pool.name}-surrogates", pool, scale.surrogates, seed + 1)
            yield adaptive(pool.name, ADAPTIVE[pool.name])
    for regime, epochs in images.regimes.items():
        yield stage(
            f"{regime}/train", f"{regime}.safetensors",
            "python", HERE / "adversarial.py", regime, weights, train, out / f"{regime}.safetensors",
            "--epochs", epochs, *(("--flip",) if "--flip" in images.training else ()), *on, *seeded,
        )  # fmt: skip
    yield stage(
        "defences", "defences.json", "python", HERE / "defend.py", out, train, test, "--limit", limit, *seeded
    )  # fmt: skip
