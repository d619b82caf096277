"""Profiles of a real pool and its bundles: the sums are right, the page stands alone, estimates are called so."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pdtool.devices.catalogue import find
from pdtool.errors import InputError, IntegrityError, UsageError
from pdtool.evaluation import profile_report as report
from pdtool.evaluation.profile import ModelProfile, Profile, frame_cost, profile
from pdtool.export.bundle import export_pool
from pdtool.jsonform import decode, encode
from pdtool.runtime.bundle import open_bundle


@pytest.fixture(scope="module")
def calibrated(workshop: Path) -> Profile:
    return profile(workshop / "bundle", device=find("orin-nano-8gb"), runs=5)


@pytest.fixture(scope="module")
def plain(workshop: Path) -> Profile:
    return profile(workshop / "plain", runs=5)


def test_counts_are_those_of_the_bundle_and_flops_are_twice_the_macs(calibrated: Profile, workshop: Path) -> None:
    opened = open_bundle(workshop / "bundle")
    assert [model.id for model in calibrated.models] == [model.id for model in opened.models]
    for model, source in zip(calibrated.models, opened.models, strict=True):
        assert (model.macs, model.parameters, model.file_bytes) == (source.macs, source.parameters, source.file.bytes)
        assert model.flops == 2 * model.macs == 2 * sum(layer.macs for layer in model.layers)
        assert model.parameters == sum(layer.parameters for layer in model.layers)
    assert re.fullmatch(r"torch \S+ flop_counter", calibrated.counted_by)


def test_lenet5_has_the_operations_that_its_shapes_give(calibrated: Profile) -> None:
    """28 x 28 x 6 x 25 + 10 x 10 x 16 x 150 + 400 x 120 + 120 x 84 + 84 x 10, by hand."""
    assert calibrated.models[0].macs == 117_600 + 240_000 + 48_000 + 10_080 + 840


def test_measured_figures_are_in_order(calibrated: Profile) -> None:
    for model in calibrated.models:
        p50, p90, p99 = model.latency_ms
        assert 0 < p50 <= p90 <= p99
        assert model.load_ms > 0
        assert 0 < model.file_bytes <= model.resident_bytes <= model.load_peak_bytes
    assert calibrated.least_bytes < calibrated.all_bytes
    assert calibrated.all_bytes >= sum(model.resident_bytes for model in calibrated.models)


def test_a_clean_frame_costs_the_original_and_the_expected_number_of_mean_members(
    calibrated: Profile, workshop: Path
) -> None:
    calibration = open_bundle(workshop / "bundle").calibration
    assert calibration is not None and calibrated.frame.calibrated
    original, members = calibrated.models[0], calibrated.models[1:]
    alone, clean, most = calibrated.frame.rows
    mean = sum(member.macs for member in members) / len(members)
    assert (alone.macs, alone.originals_macs, alone.originals_ms) == (original.macs, 1.0, 1.0)
    assert clean.members == calibration.expected_models_clean
    assert clean.macs == pytest.approx(original.macs + calibration.expected_models_clean * mean)
    assert clean.originals_macs == pytest.approx(clean.macs / original.macs)
    assert clean.originals_ms == pytest.approx(clean.ms / original.latency_ms[0])
    assert alone.ms < clean.ms <= most.ms and most.members == min(calibration.max_models, len(members))


def test_without_a_calibration_no_expectation_is_claimed(plain: Profile) -> None:
    assert not plain.frame.calibrated
    members = len(plain.models) - 1
    assert [row.members for row in plain.frame.rows] == [0, 1, members // 2, members]
    assert "expected" not in " ".join(row.what for row in plain.frame.rows)
    assert any(note.startswith("not calibrated") for note in plain.notes)
    assert "on average" not in " ".join(report.summary(plain))


def test_one_member_gives_one_row_of_asking_members(plain: Profile) -> None:
    assert [row.members for row in frame_cost(plain.models[:2]).rows] == [0, 1]


@pytest.fixture(scope="module")
def packed(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Of a bundle with packs of 3, 3 and 2 members."""
    out = tmp_path_factory.mktemp("packed") / "bundle"
    export_pool(workshop / "pool", out, pack=3)
    return profile(out, device=find("orin-nano-8gb"), runs=5)


def test_a_pack_is_measured_once_and_runs_whole(packed: Profile, plain: Profile) -> None:
    original, members = packed.models[0], packed.models[1:]
    assert [m.macs for m in packed.models] == [m.macs for m in plain.models]  # what is counted stays a member's
    assert [m.file for m in members] == [f"models/pack-00{i // 3}.onnx" for i in range(8)]
    whole = {m.file: m for m in members}
    assert all(m.latency_ms == whole[m.file].latency_ms for m in members)
    ms, macs = (sum(m.latency_ms[0] for m in whole.values()) / 3, sum(m.macs for m in members) / 3)
    rows = packed.frame.rows
    assert [row.members for row in rows] == [0, 1, 4, 8]
    for row, packs in zip(rows, (0, 1, 2, 3), strict=True):
        assert row.macs == pytest.approx(original.macs + packs * macs)
        assert row.ms == pytest.approx(original.latency_ms[0] + packs * ms)
    assert original.estimate is not None
    estimates = [m.estimate.ms for m in packed.models if m.estimate is not None]
    assert rows[3].estimate_ms == pytest.approx(sum(estimates))
    sizes = [m.resident_bytes for m in whole.values()]
    assert packed.all_bytes >= original.resident_bytes + sum(sizes)
    assert packed.all_bytes < original.resident_bytes + sum(sizes) + packed.least_bytes  # each file counted once
    assert "packs of 3 members: a frame that asks one of them runs them all" in packed.notes


def test_a_clean_frames_expected_packs_come_from_how_many_members_frames_ask(packed: Profile, workshop: Path) -> None:
    calibration = open_bundle(workshop / "bundle").calibration
    assert calibration is not None
    shares = (0.5, 0.0, 0.1, 0.2, 0.0, 0.0, 0.2)  # of frames that ask 1, 2, ... 7: packs 1, 1, 1, 2, 2, 2, 3
    asked = sum(n * share for n, share in enumerate(shares, start=1))
    level: tuple[float | None, ...] = (*(None,) * 6, 0.5)
    calibration = dataclasses.replace(
        calibration, evidence="graded", flag_at=None, clear_at=None, flag_above=level, clear_below=level,
        temperatures=(1.0,) * 8, after_change=False, max_models=7, models_clean=shares, expected_models_clean=asked,
        p99_models_clean=7,
    )  # fmt: skip
    row = frame_cost(packed.models, calibration).rows[1]
    assert row.members == asked
    macs = sum(m.macs for m in packed.models[1:]) / 3
    assert row.macs == pytest.approx(packed.models[0].macs + (0.6 * 1 + 0.2 * 2 + 0.2 * 3) * macs)


def test_a_report_shows_packs_as_files(packed: Profile) -> None:
    counted, measured, frame = report.tables(packed)
    assert [row[0] for row in counted.rows] == [model.id for model in packed.models]
    assert [row[-1] == "in its pack" for row in counted.rows] == [
        False,
        False,
        True,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    names = ["original", "pack-000: m000 to m002", "pack-001: m003 to m005", "pack-002: m006 to m007"]
    assert [row[0] for row in measured.rows] == names
    assert all(len(row) == len(measured.headers) for row in measured.rows)
    assert "packs x mean pack" in frame.title
    text = report.html(packed)
    assert all(name in text for name in names)


def test_a_pool_is_measured_through_a_bundle_and_says_so(workshop: Path, plain: Profile) -> None:
    before = sorted(path.name for path in (workshop / "pool").rglob("*"))
    pool = profile(workshop / "pool", runs=5)
    assert (pool.kind, pool.name) == ("pool", "pool")
    assert pool.notes[0] == "measured through a temporary ONNX bundle exported from the pool"
    assert [model.macs for model in pool.models] == [model.macs for model in plain.models]
    assert [model.layers for model in pool.models] == [model.layers for model in plain.models]
    assert sorted(path.name for path in (workshop / "pool").rglob("*")) == before


def test_a_device_adds_estimates_that_are_called_so_and_whether_it_fits(calibrated: Profile) -> None:
    board = calibrated.device
    assert board is not None and board.all_loaded.fits and "share it" in board.all_loaded.note
    for model in calibrated.models:
        assert model.estimate is not None and model.estimate.label == "estimate"
        assert model.estimate.ms == max(model.estimate.compute_ms, model.estimate.memory_ms) > 0
    text = " ".join(report.summary(calibrated))
    assert "all models fit at once" in text and "estimate from peak figures, not measured" in text
    for table in report.tables(calibrated)[1:]:
        assert table.headers[-1] == "estimate, fp32"


def test_a_board_too_small_is_told_apart_from_one_that_needs_a_budget(workshop: Path) -> None:
    small = dataclasses.replace(find("jetson-nano"), memory_bytes=1000)
    text = " ".join(report.summary(profile(workshop / "plain", device=small, runs=1)))
    assert "does not fit, not even the original and one member" in text
    measured = profile(workshop / "plain", runs=1)
    between = dataclasses.replace(small, memory_bytes=(measured.least_bytes + measured.all_bytes) // 2)
    text = " ".join(report.summary(profile(workshop / "plain", device=between, runs=1)))
    assert "screen with --memory-budget" in text


def test_a_lower_precision_changes_estimates_alone(workshop: Path, calibrated: Profile) -> None:
    half = profile(workshop / "bundle", device=find("orin-nano-8gb"), precision="fp16", runs=1)
    assert half.precision == "fp32" and half.device is not None and half.device.precision == "fp16"
    for low, full in zip(half.models, calibrated.models, strict=True):
        assert low.estimate is not None and full.estimate is not None
        assert low.estimate.ms < full.estimate.ms


def test_a_bundle_is_profiled_on_a_device_without_torch(workshop: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from pdtool.evaluation import profile, profile_report\n"
        "print(profile_report.markdown(profile.profile(Path(sys.argv[1]), runs=1)))"
    )
    command = [sys.executable, "-c", code, str(workshop / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Cost of the bundle bundle")


def test_unusable_requests_are_refused_before_measuring(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*args: object, **more: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("pdtool.evaluation.profile.measure_models", measure)
    with pytest.raises(InputError, match=r"neither pool.json nor bundle.json in it"):
        profile(tmp_path)
    with pytest.raises(UsageError, match=r"jetson-nano has no known int8 peak"):
        profile(workshop / "plain", device=find("jetson-nano"), precision="int8")
    with pytest.raises(UsageError, match=r"batch and runs should be at least 1, are 0 and 50"):
        profile(workshop / "plain", batch=0)


def test_a_damaged_bundle_is_not_profiled(bundle: Path) -> None:
    costs = bundle / "costs.json"
    costs.write_bytes(costs.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(IntegrityError, match=r"costs.json: SHA-256 is not the recorded one"):
        profile(bundle)


def test_the_json_document_reads_back_as_the_same_profile(calibrated: Profile) -> None:
    document = json.loads(json.dumps(encode(calibrated)))
    assert document["format"] == "pdtool.profile/1"
    assert decode(Profile, document, file="profile.json") == calibrated


class Page(HTMLParser):
    """Text, references and tags of a page; fails on a tag that is closed without having been opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.references, self.tags = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name.split(":")[-1] in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_says_everything(calibrated: Profile) -> None:
    text = report.html(calibrated)
    page = Page(text)
    assert not re.search(r"http|@import|url\((?!#)", text)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == 3 and page.tags.count("details") == len(calibrated.models)
    assert "prefers-color-scheme: dark" in text
    for model in calibrated.models:
        assert model.id in page.text
    for line in report.summary(calibrated):
        assert line in page.text
    for table in (*report.tables(calibrated), *report.layer_tables(calibrated)):
        assert table.title in page.text
        for row in table.rows:
            assert all(html.escape(cell, quote=False) in text for cell in row)


def test_names_cannot_put_markup_into_the_page(calibrated: Profile) -> None:
    evil = "<script>alert(1)</script>"
    model: ModelProfile = dataclasses.replace(calibrated.models[1], id=evil)
    changed = dataclasses.replace(calibrated, name=evil, models=(calibrated.models[0], model, *calibrated.models[2:]))
    page = Page(report.html(changed))
    assert "script" not in page.tags and evil in page.text
    assert "<script" not in report.markdown(changed)


def test_markdown_has_the_same_tables(calibrated: Profile) -> None:
    text = report.markdown(calibrated)
    for table in (*report.tables(calibrated), *report.layer_tables(calibrated)):
        assert f"## {table.title}\n\n| {table.headers[0]} |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == sum(2 + len(t.rows) for t in (*report.tables(calibrated), *report.layer_tables(calibrated)))


@pytest.mark.parametrize(("name", "start"), [("r.html", "<!doctype html>"), ("r.md", "# Cost of"), ("r.json", "{")])
def test_a_report_is_written_by_its_suffix_and_holds_no_path(
    calibrated: Profile, tmp_path: Path, workshop: Path, name: str, start: str
) -> None:
    report.write(calibrated, tmp_path / name)
    text = (tmp_path / name).read_text()
    assert text.startswith(start)
    assert str(workshop) not in text
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"r.pdf: expected a name that ends in .html, .md, .json"):
        report.check_out(tmp_path / "r.pdf")
    with pytest.raises(InputError, match=r"missing does not exist; make it or choose another"):
        report.check_out(tmp_path / "missing" / "r.html")


def test_members_below_their_floor_are_named(workshop: Path, tmp_path: Path) -> None:
    pool = Path(shutil.copytree(workshop / "pool", tmp_path / "pool"))
    document = json.loads((pool / "pool.json").read_text())
    document["members"][2] |= {"used": False, "reason": "accuracy below the floor"}
    (pool / "pool.json").write_text(json.dumps(document))
    result = profile(pool, runs=1)
    assert f"left out, since under the accuracy floor: {document['members'][2]['id']}" in result.notes
    assert len(result.models) == len(document["members"])  # the original in its place
