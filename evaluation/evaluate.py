"""Attack the original, screen clean and attacked images through the exported bundle, count, write the reports."""

import json
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pdtool
from pdtool.artifacts import Bundle, FileEntry
from pdtool.compress.folder import PoolFolder, open_pool
from pdtool.compress.watch import Watch, silent
from pdtool.data import Dataset, labels_as, load_data, refuse_seen
from pdtool.decisions import Calibration
from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attacked import Attacked, write_attacked
from pdtool.evaluation.attacks import ATTACKS, Attack, parse_attack, run_attack
from pdtool.evaluation.metrics import auroc, mean, rate
from pdtool.evaluation.report import Evidence, html_report, markdown_report
from pdtool.evaluation.results import AttackResult, CleanResult, Evaluation, Subject
from pdtool.evaluation.screening import Screened, screen_set
from pdtool.files import npz_bytes, sha256_file, write_atomic
from pdtool.images import as_input, size_of
from pdtool.jsonform import encode
from pdtool.outputs import new_folder
from pdtool.runtime.bundle import OpenBundle, open_bundle, pretty
from pdtool.runtime.screener import Screener

__all__ = ["DEFAULT_ATTACKS", "evaluate_bundle", "mixed_stream"]

DEFAULT_ATTACKS = ("fgsm", "deepfool")


@dataclass
class _Clock:
    """Wall time of each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def evaluate_bundle(
    bundle: Path,
    pool: Path,
    data: str,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    *,
    out: Path,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 128,
    memory_budget: str | None = None,
    model: str | None = None,
    force: bool = False,
    watch: Watch = silent,
) -> Evaluation:
    """Evaluate a calibrated bundle against attacks on its pool's original and write the folder `out`.

    Written: report.html, report.md, report.json, verdicts.jsonl (every frame), one .npz of attacked images an attack
    and mixed.npz (clean and attacked images in turn). `data` is read in the role "test"; `limit` takes that many
    images of it. Raises InputError for a bundle that is not this pool's, for the images the pool was made on, and
    for data that does not fit; UsageError for an unknown attack; what opening bundle and pool raises.
    """
    chosen = _named(attacks)
    clock = _Clock()
    opened, of = open_bundle(bundle), open_pool(pool, model=model)
    calibration = opened.calibration
    if calibration is None:
        raise InputError(f"{bundle}: is not calibrated; run: pdtool calibrate {bundle} --data CLEAN_IMAGES")
    subject = _subject(opened, of, calibration)
    Screener.open(bundle, memory_budget=memory_budget).close()  # a budget that is too small is said before the attacks
    own = ["report.html", "report.md", "verdicts.jsonl", "mixed.npz"]
    own += [f"{name}{number}.npz" for name in ATTACKS for number in ("", "-*")]
    inputs = (bundle, pool, Path(data.partition("#")[0]))
    with new_folder(out, force=force, marker="report.json", own=own, inputs=inputs) as folder:
        with clock.step("read the data"):
            clean_data = load_data(data, size_of(opened.bundle.preprocessing), role="test", limit=limit)
            truth = labels_as(clean_data, opened.bundle.classes)
        if truth is None:
            raise InputError(f"{data}: has no labels; an attack is judged by them")
        refuse_seen(clean_data, opened.read(opened.bundle.seen), opened.made_on)
        refuse_seen(clean_data, b64decode(calibration.seen), "the bundle was calibrated on")
        net = of.original()
        base = {"model": of.pool.model, "model_sha256": of.pool.original.file.sha256, "data": data}
        base |= {"data_fingerprint": clean_data.fingerprint, "pdtool": pdtool.__version__}
        attacked: dict[str, Attacked] = {}
        for name, attack in chosen.items():
            with clock.step(f"attack with {name}"), watch(f"attack with {name}", len(truth)) as task:
                found = run_attack(
                    net, clean_data.images, truth, attack,
                    seed=seed, batch=batch, provenance=base, advance=task.advance,
                )  # fmt: skip
                task.say(f"{attack.spec}: fooled the original on {int(found.success.sum())} of {len(found)} images")
            write_attacked(folder / f"{name}.npz", found, opened.bundle.classes)
            attacked[name] = found
        write_atomic(folder / "mixed.npz", mixed_stream(clean_data, truth, attacked, opened.bundle))
        with clock.step("screen"), watch("screen", len(opened.models) * (1 + len(attacked))) as task:
            screen = partial(screen_set, bundle, seed=seed, memory_budget=memory_budget, advance=task.advance)
            clean = screen("clean", clean_data.images, truth, np.arange(len(truth)))
            screened = {name: screen(name, a.images, a.labels, a.source) for name, a in attacked.items()}
        evaluation = Evaluation(
            pdtool=pdtool.__version__,
            subject=subject,
            data=data,
            data_fingerprint=clean_data.fingerprint,
            seed=seed,
            clean=_clean_result(clean),
            attacks=tuple(
                _attack_result(chosen[name], name, folder / f"{name}.npz", found, screened[name], clean)
                for name, found in attacked.items()
            ),
            whole_pool_cost=1 + sum(m.macs for m in opened.bundle.members) / opened.bundle.original.macs,
            seconds=clock.seconds,
        )
        evidence = Evidence(clean, tuple(screened.values()), opened.bundle.classes)
        lines = [json.dumps(encode(verdict)) for frames in (clean, *screened.values()) for verdict in frames.verdicts]
        write_atomic(folder / "verdicts.jsonl", ("\n".join(lines) + "\n").encode())
        write_atomic(folder / "report.json", pretty(evaluation))
        write_atomic(folder / "report.md", markdown_report(evaluation).encode())
        write_atomic(folder / "report.html", html_report(evaluation, evidence).encode())
    return evaluation


def mixed_stream(data: Dataset, truth: NDArray[np.int64], attacked: dict[str, Attacked], bundle: Bundle) -> bytes:
    """Clean and successfully attacked images in turn, no scene twice, as the bytes of an .npz that `screen` takes.

    Even images stay clean; odd ones are attacked, the attacks taking turns; where none succeeded the image is left
    out. Arrays: images float32 (N, H, W, C), labels, classes, attack ("" where clean), source (index in the data).
    """
    pixels = np.moveaxis(as_input(data.images), 1, 3)
    where = {name: {int(i): k for k, i in enumerate(a.source) if a.success[k]} for name, a in attacked.items()}
    names = list(attacked)
    images, labels, attack, source = [], [], [], []
    for i in range(len(truth)):
        name = ""
        picture = pixels[i]
        if i % 2:
            turn = i // 2 % len(names) if names else 0
            name = next((n for n in names[turn:] + names[:turn] if i in where[n]), "")
            if not name:
                continue
            picture = attacked[name].images[where[name][i]]
        images.append(picture)
        labels.append(truth[i])
        attack.append(name)
        source.append(i)
    return npz_bytes(
        {
            "images": np.stack(images).astype(np.float32),
            "labels": np.array(labels, dtype=np.int64),
            "classes": np.array(bundle.classes),
            "attack": np.array(attack, dtype=np.str_),
            "source": np.array(source, dtype=np.int64),
        }
    )


def _named(attacks: Sequence[str]) -> dict[str, Attack]:
    """Each attack under a name that is a file name: its own, with -2, -3 behind it for other settings of the same."""
    if not attacks:
        raise UsageError("expected at least one attack, got none; add --attack fgsm")
    named: dict[str, Attack] = {}
    for text in attacks:
        attack = parse_attack(text)
        if attack in named.values():
            raise UsageError(f"attack {text!r} is given twice with the same settings; give it once")
        times = 1 + sum(other.name == attack.name for other in named.values())
        named[attack.name if times == 1 else f"{attack.name}-{times}"] = attack
    return named


def _subject(opened: OpenBundle, of: PoolFolder, calibration: Calibration) -> Subject:
    bundle, pool = opened.bundle, of.pool
    weights = {member.id: member.model.file.sha256 for member in pool.members}
    weights[bundle.original.id] = pool.original.file.sha256
    same = pool.classes == bundle.classes and pool.preprocessing == bundle.preprocessing
    if not same or any(weights.get(model.id) != model.weights_sha256 for model in opened.models):
        raise InputError(
            f"{opened.folder}: was not exported from the pool {of.folder}; give the pool that it came from"
        )
    return Subject(
        model=pool.model,
        method=pool.method,
        rate=pool.rate,
        members=len(bundle.members),
        original_accuracy=pool.original.accuracy,
        original_macs=bundle.original.macs,
        member_macs=float(np.mean([member.macs for member in bundle.members])),
        bundle_digest=bundle.digest,
        rule=calibration.rule,
        evidence=calibration.evidence,
        target_fpr=calibration.target_fpr,
        confidence=calibration.confidence,
        fpr_upper=calibration.fpr_upper,
        p0=calibration.p0,
        p1=calibration.p1,
        max_models=calibration.max_models,
        calibration_data=calibration.data,
        calibration_images=calibration.fit_images + calibration.check_images,
    )


def _clean_result(clean: Screened) -> CleanResult:
    return CleanResult(
        images=len(clean),
        accuracy=rate(~clean.wrong),
        flagged=rate(clean.flagged),
        right_flagged=rate(clean.flagged[~clean.wrong]),
        wrong_flagged=rate(clean.flagged[clean.wrong]),
        unscreened=int((~clean.screened).sum()),
        models_used=mean(clean.used),
        most_models_used=int(clean.used.max(initial=0)),
        cost=mean(clean.cost),
        label_change_rate=mean(clean.lcr),
        diversity=clean.diversity,
    )


def _attack_result(
    attack: Attack, name: str, path: Path, found: Attacked, screened: Screened, clean: Screened
) -> AttackResult:
    fooled = screened.wrong
    caught = fooled & screened.flagged
    return AttackResult(
        name=name,
        spec=attack.spec,
        description=attack.description,
        source=attack.source,
        settings=dict(attack.settings),
        file=FileEntry(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)),
        attacked=len(found),
        success=rate(found.success),
        lost=int((found.success & ~fooled).sum()),
        linf=mean(found.linf[fooled]),
        l2=mean(found.l2[fooled]),
        flagged=rate(screened.flagged[fooled]),
        auroc=auroc(clean.score, screened.score[fooled]),
        corrected=rate(screened.corrected[caught] == screened.truth[caught]),
        failed_flagged=rate(screened.flagged[~fooled]),
        unscreened=int((~screened.screened).sum()),
        models_used=mean(screened.used[fooled]),
        most_models_used=int(screened.used[fooled].max(initial=0)),
        cost=mean(screened.cost[fooled]),
        label_change_rate=mean(screened.lcr[fooled]),
        diversity=screened.diversity,
    )
