"""The papers' tables: their numbers as data, the commands of the runner, and the page that the writer makes."""

import importlib
import re
import shutil
import sys
from pathlib import Path
from statistics import fmean

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "papers"
SCRIPTS = [path.stem for path in FOLDER.glob("*.py")]


@pytest.fixture(scope="module")
def script():
    """Imports a script of the folder by its name; they import each other by name, as scripts do."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def columns(table):
    return list(zip(*table.values(), strict=True))


def test_the_papers_numbers_give_the_means_that_their_texts_state(script):
    p = script("published")
    for data, rc in (("cifar10", 98.30), ("svhn", 98.79)):
        means = dict(zip(p.ACCESS_4_METHODS, map(fmean, columns(p.ACCESS_4[data])), strict=True))
        assert means["random-channel"] == pytest.approx(rc, abs=0.0051)
        assert tuple(map(fmean, columns(p.ICML_4[data]))) == pytest.approx(p.ICML_4_MEANS[data], abs=0.0051)
    cifar = list(map(fmean, columns(p.ACCESS_4["cifar10"])))
    assert cifar[0] == pytest.approx(p.ACCESS_4_MMT_MEAN["cifar10"], abs=0.0051)
    assert fmean(cifar[1:]) - cifar[0] == pytest.approx(p.ACCESS_4_LEAD["cifar10"], abs=0.0051)
    for data, mean in (("cifar10", 95.13), ("svhn", 92.33)):
        pruned = [value for method, value in p.ACCESS_6[data].items() if method != "mutation-nai"]
        assert fmean(pruned) == pytest.approx(mean, abs=0.0051)


def test_what_is_said_of_svhns_means_is_so(script):
    p = script("published")
    svhn = list(map(fmean, columns(p.ACCESS_4["svhn"])))
    assert f"{svhn[0]:.2f}" in p.REMARKS["means"] and f"{fmean(svhn[1:]) - svhn[0]:.2f}" in p.REMARKS["means"]
    assert svhn[0] != pytest.approx(p.ACCESS_4_MMT_MEAN["svhn"], abs=0.5)


def test_the_papers_tables_have_their_rows_and_columns(script):
    p = script("published")
    methods = set(p.METHODS)
    for data in ("cifar10", "svhn"):
        assert (
            set(p.ACCESS_1[data]) == set(p.ACCESS_5[data]) == set(p.ACCESS_6[data]) == set(p.ACCESS_8[data]) == methods
        )
        assert set(p.ACCESS_2[data]) == methods - {"mutation-nai"} | {"original"}
        assert list(p.ACCESS_4[data]) == list(p.ACCESS_ATTACKS) and list(p.ICML_4[data]) == list(p.ICML_ATTACKS)
        assert {len(row) for row in p.ACCESS_4[data].values()} == {len(methods)}
        shares = [value for table in (p.ACCESS_2, p.ACCESS_5, p.ACCESS_6, p.ACCESS_7) for value in table[data].values()]
        assert all(20 < value <= 100 for value in shares)


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_command_of_a_scale_is_one_that_the_command_line_takes(script, scale, tmp_path):
    from typer.main import get_command

    from pdtool.cli.main import app

    plan = script("plan")
    for needed in {images.needs for images in plan.SCALES[scale].data}:
        (tmp_path / needed).touch()
    stages = list(plan.stages(plan.SCALES[scale], tmp_path, tmp_path / "out", limit=None, seed=0))
    assert len({stage.name for stage in stages}) == len({stage.out for stage in stages}) == len(stages) > 50
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group
    seen = set()
    for stage in stages:
        program, name, *rest = stage.command
        if program == "pdtool":
            seen.add(name)
            commands[name].make_context(name, list(rest))  # raises for an option or value that it does not know
        else:
            assert Path(name).is_file() and program == "python"
    assert seen == {"train", "compress", "export", "calibrate", "evaluate"}


def test_the_attacks_that_the_tables_name_are_in_the_papers_presets(script):
    from pdtool.evaluation.attacks import PRESETS

    p = script("published")
    for preset, named in (("paper-access2021", p.ACCESS_ATTACKS), ("paper-icml2021", p.ICML_ATTACKS)):
        assert {*named} - {"wrong"} <= {text.partition(":")[0] for text in PRESETS[preset]}


def stages_of(script, monkeypatch, out, codes):
    """Stages a, b, ... that write their file and end with these codes; -1 sleeps the first time it runs."""
    run, stages = script("run"), script("stages")
    made = []
    for name, code in codes.items():
        file = out / "x" / name
        first = f"import pathlib, time; p = pathlib.Path({str(out / 'x' / ('begun-' + name))!r})\n"
        sleep = "if not p.exists(): p.touch(); time.sleep(60)\n" if code == -1 else ""
        write = f"pathlib.Path({str(file)!r}).touch()" if code <= 0 else f"raise SystemExit({code})"
        made.append(stages.Stage(f"x/{name}", file, ("python", "-c", first + sleep + write)))
    monkeypatch.setattr(run, "stages", lambda *_, **__: iter(made))
    return run


def test_a_stage_that_is_there_is_not_run_again_and_a_failure_stops(script, monkeypatch, tmp_path, capfd):
    run = stages_of(script, monkeypatch, tmp_path, {"a": 0, "b": 5, "c": 0})
    assert run.main(["small", "DATA", str(tmp_path)]) == 5
    assert (tmp_path / "x" / "a").exists() and not (tmp_path / "x" / "c").exists()
    capfd.readouterr()
    assert run.main(["small", "DATA", str(tmp_path), "--only", "x/a", "x/c"]) == 0
    assert "[x/a]" not in (said := capfd.readouterr().err) and "[x/c]" in said
    log = script("documents").read_log(tmp_path)
    assert [line.stage for line in log] == ["x/a", "x/b", "x/c"]


def test_what_another_command_made_is_not_taken_for_this_ones(script, monkeypatch, tmp_path, capfd):
    """A quick look with a small limit, then the real run: its outputs are there, but they are not what is wanted."""
    run = stages_of(script, monkeypatch, tmp_path, {"a": 0, "b": 0})
    assert run.main(["small", "DATA", str(tmp_path), "--only", "x/a"]) == 0
    log = tmp_path / "stages.jsonl"
    log.write_text(log.read_text().replace("python -c", "python -O -c"))  # as if the command had been another one
    with pytest.raises(SystemExit):
        run.main(["small", "DATA", str(tmp_path)])
    assert "x/a was made by another command" in capfd.readouterr().err and not (tmp_path / "x" / "b").exists()


def test_a_step_ends_in_time_and_the_next_goes_on(script, monkeypatch, tmp_path, capfd):
    run = stages_of(script, monkeypatch, tmp_path, {"a": 0, "b": -1, "c": 0})
    monkeypatch.setattr(script("stages"), "GRACE", 1)
    assert run.main(["full", "DATA", str(tmp_path), "--minutes", "0.03"]) == script("stages").LEFT
    said = capfd.readouterr().err
    assert "left: x/b" in said and "left: x/c" in said and (tmp_path / "x" / "begun-b").exists()
    assert run.main(["full", "DATA", str(tmp_path), "--minutes", "1"]) == 0
    assert (tmp_path / "x" / "c").exists() and "[x/a]" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def out(workshop, tmp_path_factory):
    """What the runner leaves, of digits in place of traffic signs: two pools, the rest is missing."""
    from pdtool.evaluation.adaptive import adaptive_study
    from pdtool.evaluation.adaptive_plan import Plan
    from pdtool.evaluation.evaluate import Extras, evaluate_bundle

    folder = tmp_path_factory.mktemp("papers") / "gtsrb"
    for pool in ("paper", "hardened"):
        shutil.copytree(workshop / "pool", folder / pool)
        shutil.copytree(workshop / "bundle", folder / f"{pool}-bundle")
    attacks = ("fgsm:epsilon=0.03", "deepfool:steps=50,overshoot=0.02", "pgd:epsilon=0.5")
    extras = Extras(controls=("noise",), baselines=("softmax",), baseline_data="digits", images=folder / "images")
    bundle, pool = folder / "paper-bundle", folder / "paper"
    evaluate_bundle(bundle, pool, "digits", attacks, out=folder / "paper-evaluation", extras=extras, limit=40)
    shutil.copytree(folder / "paper-evaluation", folder / "hardened-evaluation")
    plan = Plan(threats=("oblivious", "availability"), epsilons=(0.1, 0.3), steps=5)
    adaptive_study(bundle, pool, "digits", plan, out=folder / "paper-adaptive", limit=12)
    return folder.parent


def test_the_page_holds_every_table_and_our_figures_beside_the_papers(script, out):
    documents = script("documents")
    every = documents.read_all(out)
    report = every[0].reports["paper"]
    page = script("tables").write(every, documents.read_log(out))
    titles = re.findall(r"^### (Table \d)", page, re.M)
    assert titles == [f"Table {n}" for n in (*range(1, 9), *range(1, 5))]
    (deepfool,) = [a for a in report.attacks if a.name == "deepfool"]
    area = deepfool.lcr.auroc
    ours = f"**{100 * area.value:.1f}** ({100 * area.low:.1f}–{100 * area.high:.1f})"
    assert f"| GTSRB | DF | {deepfool.frames.count} | 93.90 / – | 99.19 / {ours} | 98.34 / – |" in page
    assert f"| GTSRB | DF | {deepfool.frames.count} | 96.59 / – | 99.73 / {ours} | {ours} |" in page
    assert f"{100 * report.clean.every.cleared.share:.1f}" in page[page.index("### Table 5") :]
    assert "JPEG pictures of quality" not in page  # digits are no CIFAR-10


def test_attackers_who_know_the_defence_stand_pool_beside_pool(script, out):
    documents = script("documents")
    every = documents.read_all(out)
    result = every[0].adaptive["paper"]
    page = script("tables").write(every, documents.read_log(out))
    section = page[page.index("## Attackers who know the defence") : page.index("## Wang")]
    (curve,) = result.curves
    figure = script("cells").figure
    cells = " | ".join(figure(within, 0) for within in curve.within)
    assert f"| T0 oblivious | `--recipe paper` | {cells} | " in section
    clean, alarms = (next(d for d in result.disturbances if d.goal == goal) for goal in (None, "alarm"))
    assert f"| clean frames | `--recipe paper` | 0 | {figure(clean.flagged)} |" in section
    assert f"| T5 alarm | `--recipe paper` | 25.5 | {figure(alarms.flagged)} |" in section
    hold = sum(check.holds for check in result.checks)
    assert f"`--recipe paper` {hold} of {len(result.checks)} checks hold" in section
    assert all(check.name in section for check in result.checks if not check.holds)


def test_the_worst_attack_of_the_goals_is_the_worst_of_the_report(script, out):
    goals = script("goals")
    report = script("documents").read_all(out)[0].reports["paper"]
    found = {title: (value, of) for title, _, _, value, of in goals.goals_of(report)}
    value, of = found["AUROC of the label change rate, worst of all attacks"]
    areas = {a.spec: a.lcr.auroc for a in report.attacks if a.frames.count >= 10}
    worst = min(areas.values(), key=lambda area: area.value)
    interval, spec = of.split("`")[:2]
    assert value == worst.value and areas[spec] == worst
    assert interval.strip() == f"({worst.low:.3f}–{worst.high:.3f})"
    six = [a.lcr.auroc.value for a in report.attacks if a.name in ("fgsm", "deepfool") and a.frames.count]
    assert found["AUROC of the label change rate, mean over the papers' attacks"][0] == pytest.approx(fmean(six))


def test_a_document_that_is_damaged_is_named(script, out, tmp_path):
    from pdtool.errors import InputError

    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "gtsrb" / "paper-evaluation" / "report.json"
    path.write_text(path.read_text().replace('"overall"', '"over"'))
    with pytest.raises(InputError, match="report.json.*over"):
        script("documents").read_all(tmp_path / "out")


def test_evaluations_that_do_not_belong_together_make_no_page(script, out, tmp_path):
    from pdtool.errors import InputError

    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "gtsrb" / "hardened-evaluation" / "report.json"
    text = path.read_text()
    path.write_text(re.sub(r'("seed": )\d+', r"\g<1>7", text))
    with pytest.raises(InputError, match="of unlike images or seeds"):
        script("documents").read_all(tmp_path / "out")
    path.write_text(re.sub(r'("bundle_digest": ")[0-9a-f]{8}', r"\g<1>00000000", text))
    with pytest.raises(InputError, match="is of another hardened-bundle"):
        script("documents").read_all(tmp_path / "out")


def test_defences_are_judged_on_the_images_that_fooled_the_original(script, out):
    defend = script("defend")
    found = defend.defend(out / "gtsrb", "digits", "digits", limit=40)
    report = script("documents").read_all(out)[0].reports["paper"]
    fooled = {a.spec: a.success.events for a in report.attacks}
    assert len(found.rows) == 6
    for row in found.rows:
        assert row.clean.count == 40 and {spec: rate.count for spec, rate in row.attacked.items()} == fooled
