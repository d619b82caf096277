"""Attacks on a real net: bounds kept, success judged on what is stored, the same seed the same bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdtool.errors import InputError, UsageError
from pdtool.evaluation.attack_common import margin, other_class
from pdtool.evaluation.attacked import Attacked, write_attacked
from pdtool.evaluation.attacks import ATTACKS, PRESETS, Attack, parse_attack, run_attack
from pdtool.images import as_input

Labels = NDArray[np.int64]
Scans = NDArray[np.uint8]

QUICK = {
    "fgsm": "fgsm:epsilon=0.1",
    "bim": "bim:epsilon=0.1,step=0.02,steps=6",
    "pgd": "pgd:epsilon=0.1,step=0.02,steps=6",
    "pgd-margin": "pgd-margin:epsilon=0.1,step=0.02,steps=6",
    "mim": "mim:epsilon=0.1,step=0.02,steps=6",
    "apgd-ce": "apgd-ce:epsilon=0.1,steps=8",
    "apgd-dlr": "apgd-dlr:epsilon=0.1,steps=8",
    "ila": "ila:epsilon=0.1,step=0.02,steps=6,base_epsilon=0.1,base_step=0.02,base_steps=6",
    "fia": "fia:epsilon=0.1,step=0.02,steps=6,masks=5",
    "deepfool": "deepfool:steps=20",
    "cw": "cw:steps=60,step=0.05",
    "jsma": "jsma:gamma=0.2",
    "local-search": "local-search:p=0,d=3",
    "one-pixel": "one-pixel:pixels=20,iterations=4",
    "square": "square:epsilon=0.2,queries=60",
}
MOST = {name: 8 if name == "one-pixel" else 64 for name in QUICK}  # images


@pytest.fixture(scope="module")
def attacked(net: torch.nn.Module, images: Scans, labels: Labels) -> dict[str, Attacked]:
    return {name: run_attack(net, images[: MOST[name]], labels[: MOST[name]], QUICK[name], seed=3) for name in QUICK}


def test_every_attack_is_tried() -> None:
    assert QUICK.keys() == ATTACKS.keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_success_is_what_the_net_says_of_the_stored_images(
    net: torch.nn.Module, images: Scans, labels: Labels, attacked: dict[str, Attacked], name: str
) -> None:
    result, images, labels = attacked[name], images[: MOST[name]], labels[: MOST[name]]
    with torch.no_grad():
        clean = net(torch.from_numpy(as_input(images))).argmax(1).numpy()
        now = net(torch.from_numpy(as_input(result.images))).argmax(1).numpy()
    assert result.source.tolist() == np.flatnonzero(clean == labels).tolist()  # only what was right
    assert (result.labels == labels[result.source]).all()
    assert (result.success == (now != result.labels)).all()
    assert result.success.mean() > 0.3
    assert result.images.dtype == np.float32 and result.images.min() >= 0 and result.images.max() <= 1


@pytest.mark.parametrize("name", ATTACKS)
def test_norms_are_those_of_the_change(
    net: torch.nn.Module, images: Scans, labels: Labels, attacked: dict[str, Attacked], name: str
) -> None:
    result = attacked[name]
    change = result.images - images[result.source].astype(np.float32) / 255
    assert np.allclose(result.linf, np.abs(change).max(axis=(1, 2, 3)), atol=1e-6)
    assert np.allclose(result.l2, np.linalg.norm(change.reshape(len(result), -1), axis=1), atol=1e-5)
    if "epsilon" in parse_attack(name).settings:
        assert 0 < result.linf.max() <= parse_attack(QUICK[name]).settings["epsilon"] + 1e-6


def test_smallest_change_attacks_are_smaller_than_one_step(attacked: dict[str, Attacked]) -> None:
    both = attacked["fgsm"].success & attacked["deepfool"].success & attacked["cw"].success
    fgsm = attacked["fgsm"].l2[both].mean()
    assert attacked["deepfool"].l2[both].mean() < fgsm
    assert attacked["cw"].l2[both].mean() < fgsm


def test_cw_that_finds_nothing_leaves_the_image_instead_of_a_black_one(
    net: torch.nn.Module, images: Scans, labels: Labels
) -> None:
    result = run_attack(net, images, labels, "cw:steps=1,step=0,const=0")
    assert not result.success.any()
    assert result.linf.max() < 1e-5


@pytest.mark.parametrize("name", ATTACKS)
def test_same_seed_same_bytes_and_the_random_state_left_alone(
    net: torch.nn.Module, images: Scans, labels: Labels, attacked: dict[str, Attacked], name: str
) -> None:
    state, numpys = torch.random.get_rng_state(), np.random.get_state()
    again = run_attack(net, images[: MOST[name]], labels[: MOST[name]], QUICK[name], seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for before, after in zip(numpys, np.random.get_state(), strict=True):
        assert np.array_equal(before, after)
    assert again.images.tobytes() == attacked[name].images.tobytes()


RANDOM = ("pgd", "pgd-margin", "apgd-ce", "apgd-dlr", "fia", "jsma", "local-search", "one-pixel", "square")


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_another_attack(
    net: torch.nn.Module, images: Scans, labels: Labels, attacked: dict[str, Attacked], name: str
) -> None:
    other = run_attack(net, images[: MOST[name]], labels[: MOST[name]], QUICK[name], seed=4)
    assert other.images.tobytes() != attacked[name].images.tobytes()


@pytest.mark.parametrize("name", ATTACKS)
def test_images_that_are_wrong_already_do_no_harm(
    net: torch.nn.Module, images: Scans, labels: Labels, name: str
) -> None:
    attack = parse_attack(QUICK[name])
    given = torch.from_numpy(as_input(images[:8]))
    wrong = (torch.from_numpy(labels[:8]) + 1) % 10
    found = attack.function(net, given, wrong, **attack.settings)
    assert found.shape == given.shape and found.isfinite().all() and found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    if name in ("deepfool", "jsma", "local-search", "one-pixel", "square"):  # there is nothing to do
        assert torch.equal(found, given)


@pytest.fixture(scope="module")
def colour_net() -> torch.nn.Module:
    """Untrained, of three colours and two classes' more than the digits."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(72, 12)).eval()


@pytest.mark.parametrize("name", ATTACKS)
def test_colour_pictures_that_are_not_square_are_attacked(
    colour_net: torch.nn.Module, images: Scans, name: str
) -> None:
    flat = images.reshape(-1)[: 8 * 16 * 18 * 3].reshape(8, 16, 18, 3)
    with torch.no_grad():
        truth = colour_net(torch.from_numpy(as_input(flat))).argmax(1).numpy()
    found = run_attack(colour_net, flat, truth, QUICK[name], batch=3)
    assert found.images.shape == (8, 16, 18, 3) and found.success.any()


def test_an_image_without_numbers_is_no_success(net: torch.nn.Module, images: Scans, labels: Labels) -> None:
    def breaks(net: torch.nn.Module, given: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        broken = given.clone()
        broken[::2, 0, 3, 4] = torch.nan
        broken[1::4, 0, 3, 4] = torch.inf
        return broken

    result = run_attack(net, images, labels, Attack("breaks", breaks, "", "", {}))
    assert not result.success.any() and (result.linf == 0).all() and (result.l2 == 0).all()
    assert (result.images == np.moveaxis(as_input(images), 1, 3)[result.source]).all()


def test_attacks_run_with_deterministic_convolutions(net: torch.nn.Module, images: Scans, labels: Labels) -> None:
    seen = []

    def notes(net: torch.nn.Module, given: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        cudnn = torch.backends.cudnn
        seen.append((cudnn.enabled, cudnn.benchmark, cudnn.deterministic))
        return given

    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    run_attack(net, images[:2], labels[:2], Attack("notes", notes, "", "", {}))
    assert seen == [(True, False, True)]
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == before


def test_the_net_is_left_as_it_was(net: torch.nn.Module, images: Scans, labels: Labels) -> None:
    before = [parameter.requires_grad for parameter in net.parameters()]
    net.train()
    for spec in QUICK.values():
        run_attack(net, images[:2], labels[:2], spec)
    assert all(module.training for module in net.modules())
    net.eval()
    assert [parameter.requires_grad for parameter in net.parameters()] == before
    assert all(parameter.grad is None for parameter in net.parameters())


def test_provenance_says_how_it_was_made(attacked: dict[str, Attacked]) -> None:
    provenance = attacked["pgd"].provenance
    assert provenance["attack"] == "pgd" and provenance["seed"] == 3 and provenance["images_given"] == 64
    assert provenance["settings"] == {"epsilon": 0.1, "step": 0.02, "steps": 6, "targeted": False}
    assert provenance["library"].startswith("foolbox 3.")


def test_stored_images_are_bit_for_bit_the_attacked_ones(tmp_path: Path, attacked: dict[str, Attacked]) -> None:
    path = tmp_path / "deepfool.npz"
    write_attacked(path, attacked["deepfool"], [str(i) for i in range(10)])
    with np.load(path, allow_pickle=False) as stored:
        read = {name: stored[name] for name in stored.files}
    assert json.loads(str(read.pop("provenance"))) == attacked["deepfool"].provenance
    assert read.pop("classes").tolist() == [str(i) for i in range(10)]
    for name, array in read.items():
        assert array.tobytes() == getattr(attacked["deepfool"], name).tobytes()
    assert {"images", "labels", "given", "success", "source"} <= read.keys()
    first = path.read_bytes()
    write_attacked(path, attacked["deepfool"], [str(i) for i in range(10)])
    assert path.read_bytes() == first


def test_settings_are_parsed() -> None:
    assert parse_attack("pgd:epsilon=4/255,steps=3").settings == {
        "epsilon": 4 / 255,
        "step": 2 / 255,
        "steps": 3,
        "targeted": False,
    }
    assert parse_attack("fgsm").spec == "fgsm:epsilon=0.03"
    assert parse_attack("fgsm:targeted=1").spec == "fgsm:epsilon=0.03,targeted=1"
    assert ATTACKS["fgsm"].settings == {"epsilon": 0.03, "targeted": False}


def test_settings_are_said_so_that_they_are_read_again() -> None:
    given = [*ATTACKS, *QUICK.values(), *(spec for preset in PRESETS.values() for spec in preset)]
    given += [f"fgsm:epsilon={value}" for value in ("1/3", "0.123456789", "1e-7", "7.5/255", "0.2", "1/255", "0", "1")]
    given += ["cw:steps=1234567", "cw:const=1e-9"]
    for text in given:
        attack = parse_attack(text)
        again = parse_attack(attack.spec)
        assert again == attack and {*map(type, again.settings.values())} == {*map(type, attack.settings.values())}
    assert parse_attack("pgd").spec == "pgd:epsilon=8/255,step=2/255,steps=10"
    assert parse_attack("mim:step=0.8/255").spec == "mim:epsilon=8/255,step=0.8/255,steps=10,momentum=1"
    assert parse_attack("fgsm:epsilon=0.0075").spec == "fgsm:epsilon=0.0075"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_attacks_that_parse_and_differ(name: str) -> None:
    chosen = [parse_attack(spec) for spec in PRESETS[name]]
    assert len({attack.spec for attack in chosen}) == len(chosen) > 0
    assert [parse_attack(attack.spec).name for attack in chosen] == [attack.name for attack in chosen]


SAID = {  # what each paper's text says, by the lines of its list of attacks
    # Wang et al. 2021, section IV-C, in the units of the sets: ILA's sizes halved, FIA keeps 0.7 of the values
    "paper-access2021": (
        ("fgsm", {"epsilon": 0.03}),
        ("jsma", {"gamma": 0.12}),
        ("cw", {"const": 0.6, "steps": 1000}),
        ("deepfool", {"steps": 50, "overshoot": 0.02}),
        ("one-pixel", {"pixels": 3, "iterations": 100}),
        ("local-search", {"p": 1.0, "r": 1.5, "d": 5, "t": 5, "k": 1}),
        (
            "ila",
            {"steps": 10, "base_steps": 10, "base_epsilon": 0.015, "base_step": 0.0025, "epsilon": 0.005, "step": 1},
        ),
        ("fia", {"epsilon": 0.03, "steps": 10, "step": 1 / 255, "momentum": 1.0, "masks": 30, "drop": 0.3}),
    ),
    # Chen et al. 2021, section 4.3: the same words for FGSM, JSMA, CW, DeepFool and one pixel
    "paper-icml2021": (
        ("fgsm", {"epsilon": 0.03}),
        ("jsma", {"gamma": 0.12}),
        ("cw", {"const": 0.6, "steps": 1000}),
        ("deepfool", {"steps": 50, "overshoot": 0.02}),
        ("one-pixel", {"pixels": 3, "iterations": 100}),
        ("local-search", {"p": 1.0, "r": 1.5, "d": 5, "t": 5, "k": 1}),
    ),
    # Bian et al. 2021, section 4.1: MIM in 10 steps of epsilon / 10, PGD in 7 of epsilon / 4, CW for CIFAR-10
    "paper-sors": (
        ("fgsm", {"epsilon": 1 / 255}),
        ("fgsm", {"epsilon": 2 / 255}),
        ("fgsm", {"epsilon": 4 / 255}),
        ("fgsm", {"epsilon": 8 / 255}),
        ("pgd", {"epsilon": 1 / 255, "step": 0.25 / 255, "steps": 7}),
        ("pgd", {"epsilon": 2 / 255, "step": 0.5 / 255, "steps": 7}),
        ("pgd", {"epsilon": 4 / 255, "step": 1 / 255, "steps": 7}),
        ("pgd", {"epsilon": 8 / 255, "step": 2 / 255, "steps": 7}),
        ("mim", {"epsilon": 1 / 255, "step": 0.1 / 255, "steps": 10}),
        ("mim", {"epsilon": 2 / 255, "step": 0.2 / 255, "steps": 10}),
        ("mim", {"epsilon": 4 / 255, "step": 0.4 / 255, "steps": 10}),
        ("mim", {"epsilon": 8 / 255, "step": 0.8 / 255, "steps": 10}),
        ("cw", {"confidence": 0.0, "steps": 100}),
    ),
    # Wang et al. 2018, Tables I and II, and below each "We set the search step for line search in C&W as 10."
    "paper-2018": (
        ("fgsm", {"epsilon": 0.1, "targeted": False}),
        ("fgsm", {"epsilon": 0.15, "targeted": False}),
        ("fgsm", {"epsilon": 0.25, "targeted": False}),
        ("fgsm", {"epsilon": 0.1, "targeted": True}),
        ("fgsm", {"epsilon": 0.15, "targeted": True}),
        ("fgsm", {"epsilon": 0.25, "targeted": True}),
        ("bim", {"epsilon": 0.1, "targeted": True}),
        ("bim", {"epsilon": 0.15, "targeted": True}),
        ("bim", {"epsilon": 0.25, "targeted": True}),
        ("cw", {"searches": 10, "steps": 100}),
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_presets_have_the_numbers_that_their_paper_says(name: str) -> None:
    chosen = [parse_attack(spec) for spec in PRESETS[name]]
    for attack, said in SAID[name]:
        assert any(
            other.name == attack and all(other.settings[key] == pytest.approx(value) for key, value in said.items())
            for other in chosen
        ), (attack, said)
    assert {attack.name for attack in chosen} == {attack for attack, _ in SAID[name]}
    assert SAID.keys() == {preset for preset in PRESETS if preset.startswith("paper-")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fgsn", "unknown attack 'fgsn'; expected one of fgsm, bim"),
        ("fgsm:eps=1", "no setting 'eps'; it takes epsilon"),
        ("fgsm:epsilon=much", "expected a number or a fraction such as 8/255 of at least 0, got 'much'"),
        ("fgsm:epsilon=1/0", "got '1/0'"),
        ("fgsm:epsilon=-1", "got '-1'"),
        ("fgsm:epsilon=8", "epsilon is at most 1; write epsilon=8/255"),
        ("pgd:step=2", "step is at most 1; write step=2/255"),
        ("bim:steps=0", "expected at least 1 for steps, got 0"),
        ("cw:searches=0", "expected at least 1 for searches, got 0"),
        ("one-pixel:pixels=0", "expected at least 1 for pixels, got 0"),
        ("one-pixel:iterations=0", "expected at least 1 for iterations, got 0"),
        ("square:queries=0", "expected at least 1 for queries, got 0"),
        ("square:epsilon=0", "expected more than 0 for epsilon, got 0"),
        ("square:share=0", "expected more than 0 for share, got 0"),
        ("square:share=1.5", "share is a share, at most 1, got 1.5"),
        ("fia:drop=2", "drop is a share, at most 1, got 2"),
        ("ila:depth=3/2", "depth is a share, at most 1, got 3/2"),
        ("local-search:seeds=1.1", "seeds is a share, at most 1, got 1.1"),
        ("jsma:gamma=12", "gamma is a share, at most 1, got 12"),
        ("pgd:targeted=2", r"expected 1 \(on\) or 0 \(off\), got '2'"),
        ("pgd:steps=1.5", "expected a whole number of at least 0, got '1.5'"),
    ],
)
def test_wrong_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_attack(text)


def test_nothing_to_attack_is_an_error(net: torch.nn.Module, images: Scans, labels: Labels) -> None:
    with pytest.raises(InputError, match="classifies none of the 64 images correctly"):
        run_attack(net, images, np.full_like(labels, 99), "fgsm")


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "targeted" in attack.settings])
def test_targeted_attacks_lead_to_the_class_that_was_drawn(
    net: torch.nn.Module, images: Scans, labels: Labels, name: str
) -> None:
    attack = parse_attack(f"{name}:epsilon=0.4" + (",step=0.04,steps=20" if name != "fgsm" else "") + ",targeted=1")
    given, truth = torch.from_numpy(as_input(images)), torch.from_numpy(labels)
    torch.manual_seed(0)
    targets = other_class(truth, 10)
    assert not (targets == truth).any() and len(targets.unique()) == 10
    torch.manual_seed(0)
    reached = (net(attack.function(net, given, truth, **attack.settings)).argmax(1) == targets).float().mean()
    assert reached > (0.25 if name == "fgsm" else 0.9)


def test_margin_is_positive_exactly_where_the_label_is_not_the_nets() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [-1.0, 2.0]


def test_more_confidence_is_more_confidence(net: torch.nn.Module, images: Scans, labels: Labels) -> None:
    lead = []
    for confidence in (0, 5, 20):
        found = run_attack(net, images[:8], labels[:8], f"cw:confidence={confidence},searches=2,steps=60,step=0.1")
        with torch.no_grad():
            led = margin(net(torch.from_numpy(as_input(found.images))), torch.from_numpy(found.labels)).numpy()
        assert found.success.mean() > 0.9
        assert ("smaller lead was taken" in found.provenance.get("note", "")) == (confidence > 0)
        assert (
            led[found.success] > 0.99 * confidence - 0.01
        ).mean() > 0.4  # the rest comes near: to half of it or less
        lead.append(led[found.success].mean())
    assert lead == sorted(lead)
