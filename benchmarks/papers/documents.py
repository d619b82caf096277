"""The documents that `run.py` leaves in OUT, read strictly, and the attacks that the papers' tables name in them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from defend import Defences
from plan import ADAPTIVE, RULES, SCALES

from pdtool.artifacts import Bundle, Pool
from pdtool.compress.models import ModelSpec, build
from pdtool.decisions import Calibration
from pdtool.errors import InputError
from pdtool.evaluation.adaptive_results import AdaptiveResult
from pdtool.evaluation.attacks import PRESETS, parse_attack
from pdtool.evaluation.results import AttackResult, Evaluation
from pdtool.files import read_limited
from pdtool.jsonform import decode, parse

__all__ = [
    "POOLS", "PRESETS_OF_PAPERS", "Found", "Log", "attack_of", "channels_of", "check_reports", "each", "read_all",
    "read_log",
]  # fmt: skip

T = TypeVar("T")
# Pool of the tables -> its method
POOLS = {pool.name: pool.method for pool in SCALES["small"].pools}
PRESETS_OF_PAPERS = ("paper-access2021", "paper-icml2021")


@dataclass(frozen=True)
class Found:
    """What there is of one set of images; pools, calibrations and evaluations by name (`paper`, `paper-wald`, ...)."""

    name: str
    title: str
    published: str  # the papers' data that stand beside it
    pools: dict[str, Pool]
    calibrations: dict[str, Calibration]
    reports: dict[str, Evaluation]
    adaptive: dict[str, AdaptiveResult]
    defences: Defences | None

    @property
    def lossy(self) -> bool:
        """The pictures are the lossy JPEG ones of CIFAR-10."""
        return any("cifar10-test-public" in report.data for report in self.reports.values())


@dataclass(frozen=True)
class Log:
    """A stage of `stages.jsonl`: all its runs together."""

    stage: str
    command: str
    commit: str  # of the run that made it
    seconds: float
    runs: int


def read_all(out: Path) -> tuple[Found, ...]:
    """What OUT holds, the sets of images in the order of the scales. Raises InputError for a malformed
    document and for evaluations that do not belong together."""
    titles = {data.name: data.title for scale in SCALES.values() for data in scale.data}
    return tuple(_read(out / name, name, title) for name, title in titles.items() if (out / name).is_dir())


def _read(folder: Path, name: str, title: str) -> Found:
    calibrated = (*POOLS, *RULES)
    reports = each(Evaluation, {n: folder / f"{n}-evaluation" / "report.json" for n in calibrated})
    check_reports(folder, reports)
    adaptive = each(AdaptiveResult, {n: folder / f"{n}-adaptive" / "adaptive.json" for n in ADAPTIVE})
    for n, result in adaptive.items():
        bundle = each(Bundle, {n: folder / ADAPTIVE[n] / "bundle.json"}).get(n)
        if bundle is not None and bundle.digest != result.target.bundle_digest:
            raise InputError(f"{folder / n}-adaptive is of another {ADAPTIVE[n]}; remove it and run run.py again")
    alike = {(r.data_fingerprint, r.seed, r.steps, r.queries, r.targets) for r in adaptive.values()}
    if len(alike) > 1:
        raise InputError(f"{folder}: the adaptive attacks are of unlike images, seeds or strength; remove the odd ones")
    return Found(
        name=name,
        title=title,
        published="cifar10" if name == "cifar10" else "svhn",
        pools=each(Pool, {pool: folder / pool / "pool.json" for pool in POOLS}),
        calibrations=each(Calibration, {n: folder / f"{n}-bundle" / "calibration.json" for n in calibrated}),
        reports=reports,
        adaptive=adaptive,
        defences=each(Defences, {"": folder / "defences.json"}).get(""),
    )


def check_reports(folder: Path, reports: Mapping[str, Evaluation]) -> None:
    """Raise InputError where the evaluations are not of the bundles beside them, or of unlike images or seeds."""
    for n, report in reports.items():
        bundle = each(Bundle, {n: folder / f"{n}-bundle" / "bundle.json"}).get(n)
        if bundle is not None and bundle.digest != report.subject.bundle_digest:
            raise InputError(f"{folder / n}-evaluation is of another {n}-bundle; remove it and run run.py again")
    if len({(report.data_fingerprint, report.seed) for report in reports.values()}) > 1:
        raise InputError(f"{folder}: the evaluations are of unlike images or seeds; remove the odd ones")


def each(kind: type[T], paths: dict[str, Path]) -> dict[str, T]:
    """The documents that there are, by name. Raises InputError for a malformed one."""
    return {
        name: decode(kind, parse(read_limited(path), file=str(path)), file=str(path))
        for name, path in paths.items()
        if path.exists()
    }


def read_log(out: Path) -> tuple[Log, ...]:
    """The stages in the order in which they were begun; () where nothing was made by `run.py`."""
    path = out / "stages.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    stages: dict[str, Log] = {}
    for line in lines:
        before = stages.get(line["stage"])
        seconds, runs = (before.seconds, before.runs) if before else (0.0, 0)
        stages[line["stage"]] = Log(line["stage"], line["command"], line["commit"], seconds + line["seconds"], runs + 1)
    return tuple(stages.values())


def attack_of(report: Evaluation | None, name: str, presets: Sequence[str] = PRESETS_OF_PAPERS) -> AttackResult | None:
    """The report's attack of that name with the settings that the papers' presets give it; None where it lacks."""
    if report is None:
        return None
    specs = [parse_attack(text).spec for preset in presets for text in PRESETS[preset]]
    wanted = next((spec for spec in specs if spec.partition(":")[0] == name), None)
    return next((a for a in report.attacks if a.spec == wanted), None)


def channels_of(pool: Pool) -> dict[str, int]:
    """Layer -> output channels of the original."""
    net = build(ModelSpec.parse(pool.model))
    return {name: int(layer.out_channels) for name, layer in net.named_modules() if hasattr(layer, "out_channels")}
