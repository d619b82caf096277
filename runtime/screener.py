"""Screen images: the original labels each, members vote one after another until the test decides."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from pdtool.artifacts import BundleModel
from pdtool.calibration.table import CONTINUE, FLAG, table_of
from pdtool.decisions import Calibration, Verdict
from pdtool.devices.memory import parse_bytes
from pdtool.errors import InputError, UsageError
from pdtool.images import Images, as_input, fit, size_of
from pdtool.runtime.bundle import OpenBundle, open_bundle
from pdtool.runtime.calibrated import calibration_of
from pdtool.runtime.forecast import Plan, expected_loads
from pdtool.runtime.need import need
from pdtool.runtime.providers import Provider, open_calibrated
from pdtool.runtime.residency import Counters, Residency, draw_order
from pdtool.runtime.sizes import measure_here
from pdtool.runtime.sources import Frame
from pdtool.runtime.waves import Answer, Late, TimeBudget, ask
from pdtool.runtime.workers import Workers

__all__ = ["Screener"]


class Screener:
    """Turns images into verdicts with a calibrated bundle, inside a memory budget.

    with Screener.open("bundle", memory_budget="64MiB") as screener:
        verdicts = screener.screen(images)  # uint8 (N, H, W, C)
    """

    def __init__(
        self,
        opened: OpenBundle,
        calibration: Calibration,
        provider: Provider,
        *,
        budget: int | None,
        seed: int | None,
        rotate: int | None,
        time_budget: TimeBudget | None = None,
    ) -> None:
        bundle = opened.bundle
        self.provider = provider
        self._time = time_budget
        self.opened = opened
        self.calibration = calibration
        self._table = table_of(calibration)
        scales = calibration.temperatures
        self._scales = dict(zip([m.id for m in bundle.members], scales, strict=True)) if scales else None
        self._size = size_of(bundle.preprocessing)
        self._classes = bundle.classes
        self._batch = bundle.measured_batch
        self._rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
        self._rotate = rotate
        self._frames = 0
        self._pixels = np.empty((2, self._batch, *self._size), dtype=np.float32)  # a batch, and some frames of it
        self._workers = Workers(provider.workers, self._batch)
        self._closed = False
        self.residency = self._residency(provider.models, budget, 0)
        if budget is not None and provider.held is not None:
            models, larger = measure_here(
                provider.models, provider.load, provider.held, self._workers, self._size, self._batch
            )
            self.residency = self._residency(models, budget, larger)
        self._draw_order()

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        *,
        memory_budget: str | int | None = None,
        seed: int | None = None,
        rotate: int | None = None,
        threads: int | None = None,
        latency_ms: float | None = None,
        late: Late = "unscreened",
        build: bool = True,
        note: Callable[[str], None] = lambda text: None,
    ) -> "Screener":
        """Open and verify a bundle folder for screening, with the engines that its calibration was measured with.

        `memory_budget` (bytes, or "64MiB"; None: no limit) bounds what engines, their scratch and their load peaks
        hold at any moment. `seed` fixes the order in which members are asked; None draws a secret one. `rotate`
        draws a new order every so many frames. `latency_ms` is the time budget of a frame, `late` what becomes of one
        that needs longer (`pdtool.runtime.waves.TimeBudget`). `threads` of the CPU are used (None: all that the process
        may use). `note` is told of TensorRT plans that are built first; without `build`, which is for `plan` alone, of
        how many lack, and nothing is written. Raises InputError (no bundle, not calibrated), IntegrityError (changed
        files, other engines than the calibration's), MissingError (those engines are not here), GateError (budget too
        small), UsageError (bad values).
        """
        budget = None if memory_budget is None else parse_bytes(memory_budget)
        time_budget = None if latency_ms is None else TimeBudget(latency_ms, late)
        if rotate is not None and rotate < 1:
            raise UsageError(f"expected to re-draw the order every 1 or more frames, got {rotate}")
        opened = open_bundle(bundle)
        calibration = calibration_of(opened)
        gpu = calibration.engines.split()[0]
        if budget is not None and gpu in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
            raise UsageError(f"{gpu} does not say what models take on the GPU: leave the memory budget out")
        provider = open_calibrated(opened, threads=threads, build=build, note=note)
        try:
            return cls(opened, calibration, provider, budget=budget, seed=seed, rotate=rotate, time_budget=time_budget)
        except BaseException:
            provider.close()
            raise

    def plan(self) -> Plan:
        """What stays loaded under the budget and how many models a clean frame needs."""
        needed = need(self.residency.original, self.residency.members)
        return Plan(
            budget=self.residency.budget,
            least=needed.least,
            everything=needed.everything,
            members=len(self.residency.members),
            stays=self.residency.stays(),
            max_models=self._table.max_models,
            expected_models_clean=self.calibration.expected_models_clean,
            expected_loads_clean=expected_loads(self.residency, self.calibration.models_clean, rotate=self._rotate),
        )

    def screen(self, images: Images | Iterable[Images], *, source: str = "memory") -> list[Verdict]:
        """Verdicts for images (N, H, W, C), uint8 0..255 or float32 0..1, or an iterable of pictures of any size.

        Raises InputError for what is no batch of pictures (an array of another shape, a single picture, a path); a
        single bad picture of an iterable is `unscreened`, the others are not harmed.
        """
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise InputError(f"expected images of shape (N, H, W, C), got {images.shape}")
        if isinstance(images, str | bytes | dict) or not isinstance(images, Iterable):
            raise InputError(
                f"expected an array of images (N, H, W, C) or an iterable of pictures, got {type(images).__name__}; "
                f"a single picture goes into a list, files are read with open_frames"
            )
        now = time.time()
        frames = (
            Frame(index=i, source=source, time=now, image=image, reason=None, live=False, dropped=0)
            for i, image in enumerate(images)
        )
        return list(self.screen_frames(frames))

    def screen_frames(self, frames: Iterable[Frame]) -> Iterator[Verdict]:
        """Verdicts for frames, in their order; a live frame is screened at once, others in batches."""
        if self._closed:
            raise RuntimeError("this screener is closed; open another one")
        waiting: list[Frame] = []
        spent = 0.0
        for frame in frames:
            started = time.perf_counter()
            waiting.append(self._fitted(frame))  # at once: sixteen 4K frames that wait for a batch are 400 MB
            spent += time.perf_counter() - started
            if frame.live or len(waiting) == self._batch:
                yield from self._screen_batch(waiting, time.perf_counter() - spent)
                waiting, spent = [], 0.0
        yield from self._screen_batch(waiting, time.perf_counter() - spent)

    def close(self) -> None:
        """Close every engine and what ran them; a closed screener cannot screen again."""
        self._closed = True
        try:
            self.residency.close()
        finally:
            self._workers.close()
            self.provider.close()

    def __enter__(self) -> "Screener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _residency(self, models: Sequence[BundleModel], budget: int | None, larger: int) -> Residency:
        return Residency(
            models[0],
            models[1:],
            budget,
            self.provider.load,
            in_background=self.provider.in_background,
            counters=Counters(larger=larger),
        )

    def _draw_order(self) -> None:
        self.residency.set_order(draw_order(self._rng, self.residency.members))

    def _fitted(self, frame: Frame) -> Frame:
        """The frame with its picture in the input's size, or without one and the reason why."""
        if frame.image is None:
            return frame
        try:
            if not isinstance(frame.image, np.ndarray):
                raise InputError(
                    f"expected a picture as a NumPy array, got {type(frame.image).__name__}; numpy.asarray makes one"
                )
            return replace(frame, image=fit(frame.image, self._size))
        except InputError as error:
            return replace(frame, image=None, reason=str(error))

    def _screen_batch(self, frames: list[Frame], started: float) -> Iterator[Verdict]:
        """Verdicts for fitted frames; `started` is when work on them began (perf_counter seconds)."""
        good = [i for i, frame in enumerate(frames) if frame.image is not None]
        pictures = [frame.image for frame in frames if frame.image is not None]
        answers = dict(zip(good, self._decide(pictures, started), strict=True))
        for i, frame in enumerate(frames):
            if i not in answers:
                yield _unscreened(frame, frame.reason or "no picture", 1e3 * (time.perf_counter() - started))
                continue
            answer = answers[i]
            if answer.label < 0:
                reason = answer.failed or "the original gave no finite answer"
                yield _unscreened(frame, reason, 1e3 * (time.perf_counter() - started))
                continue
            if answer.decision == CONTINUE:  # a table that does not decide must not clear
                reason = answer.failed or (self._late(answer) if answer.late else "the members asked left it open")
                yield _unscreened(frame, reason, 1e3 * (time.perf_counter() - started))
                continue
            flagged = answer.decision == FLAG
            yield Verdict(
                frame=frame.index,
                source=frame.source,
                time=frame.time,
                label=self._classes[answer.label],
                verdict="adversarial" if flagged else "clean",
                models_used=answer.used,
                changes=answer.changes,
                evidence=answer.evidence,
                corrected_label=self._classes[int(answer.votes.argmax())] if flagged else None,
                latency_ms=answer.latency_ms,
                reason=self._late(answer) if answer.late else None,
            )

    def _late(self, answer: Answer) -> str:
        assert self._time is not None
        return f"the time budget of {self._time.ms:g} ms ran out after {answer.used} members"

    def _decide(self, pictures: list[Images], started: float) -> list[Answer]:
        if not pictures:
            return []
        if self._rotate is not None and self._frames // self._rotate != (self._frames + len(pictures)) // self._rotate:
            self._draw_order()
        self._frames += len(pictures)
        batch = self._pixels[0, : len(pictures)]
        for i, picture in enumerate(pictures):
            as_input(picture[None], out=batch[i : i + 1])
        return ask(
            batch,
            self.residency,
            self._table,
            classes=len(self._classes),
            scales=self._scales,
            grading=self.calibration.grading,
            started=started,
            budget=self._time,
            workers=self._workers,
            spare=self._pixels[1],
        )


def _unscreened(frame: Frame, reason: str, latency_ms: float) -> Verdict:
    return Verdict(
        frame=frame.index,
        source=frame.source,
        time=frame.time,
        label=None,
        verdict="unscreened",
        models_used=0,
        changes=0,
        evidence=None,
        corrected_label=None,
        latency_ms=latency_ms,
        reason=reason,
    )
