import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pdtool.artifacts import Preprocessing
from pdtool.compress.costs import count
from pdtool.compress.models import ModelSpec, Normalised, build
from pdtool.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("resnet18", "resnet18:width=64,input=3x32x32"),
        ("resnet18:width=16,classes=43,input=3x32x32", "resnet18:width=16,classes=43,input=3x32x32"),
        ("vgg16:input=1x64x48,classes=2", "vgg16:width=64,classes=2,input=1x64x48"),
        ("lenet5", "lenet5:width=6,input=1x32x32"),
        ("my.nets:small", "my.nets:small:input=3x32x32"),
        ("nets:small:classes=5,input=1x8x8", "nets:small:classes=5,input=1x8x8"),
    ],
)
def test_a_spec_has_one_canonical_form(text: str, canonical: str) -> None:
    spec = ModelSpec.parse(text)
    assert str(spec) == canonical
    assert ModelSpec.parse(canonical) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet19", "unknown model 'resnet19'; expected one of resnet18, vgg16, lenet5"),
        ("resnet18:depth=3", "unknown option 'depth'"),
        ("nets:small:width=3", "unknown option 'width'.*takes classes and input"),
        ("resnet18:width=0", "width= .*whole number in 1..4096, is '0'"),
        ("resnet18:width=-4", "is '-4'"),
        ("lenet5:classes=1", "classes= .*in 2..100000"),
        ("lenet5:input=32x32", "should be CxHxW"),
        ("lenet5:input=2x32x32", "with C 1 or 3"),
        ("", "unknown model"),
    ],
)
def test_a_bad_spec_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelSpec.parse(text)


def test_resnet18_has_the_published_cost() -> None:
    # 556.65 M (Wang et al. 2021, Table 1) are the convolutions and the linear layer, and two for each output of a
    # batch norm
    spec = ModelSpec.parse("resnet18:classes=10")
    costs = count(build(spec), spec.input)
    norms = sum(layer.output_bytes // 4 for layer in costs.layers if layer.kind == "BatchNorm2d")
    assert costs.macs == 555_422_720
    assert round((costs.macs + 2 * norms) / 1e6, 2) == 556.65
    assert costs.parameters == 11_173_962


def test_vgg16_has_the_published_cost() -> None:
    # 314.03 M (ibid.): as above, and one for each output of a ReLU module
    spec = ModelSpec.parse("vgg16:classes=10")
    costs = count(build(spec), spec.input)
    norms = sum(layer.output_bytes // 4 for layer in costs.layers if layer.kind == "BatchNorm2d")
    relus = sum(layer.output_bytes // 4 for layer in costs.layers if layer.kind == "ReLU")
    assert costs.macs == 313_201_664
    assert round((costs.macs + 2 * norms + relus) / 1e6, 2) == 314.03


def test_lenet5_is_the_paper_s_at_width_6() -> None:
    net = build(ModelSpec.parse("lenet5:classes=10"))
    assert sum(parameter.numel() for parameter in net.parameters()) == 61_706


@pytest.mark.parametrize("text", ["resnet18:width=4,classes=7,input=1x17x23", "lenet5:classes=3,input=3x28x40"])
def test_nets_take_other_sizes(text: str) -> None:
    spec = ModelSpec.parse(text)
    assert build(spec)(torch.zeros(2, *spec.input)).shape == (2, spec.classes)


@pytest.mark.parametrize(
    ("text", "least"), [("lenet5:classes=3,input=1x8x8", "16x16"), ("vgg16:classes=3,input=3x31x99", "32x32")]
)
def test_too_small_a_picture_is_a_usage_error(text: str, least: str) -> None:
    with pytest.raises(UsageError, match=f"{least} at least"):
        build(ModelSpec.parse(text))


def test_building_is_seeded_and_leaves_the_global_generator_alone() -> None:
    spec = ModelSpec.parse("lenet5:classes=3")
    state = torch.get_rng_state()
    one, same, other = (build(spec, seed=seed).state_dict()["fc1.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_classes_come_from_the_data_and_must_not_contradict_it() -> None:
    assert ModelSpec.parse("lenet5").with_classes(4).classes == 4
    with pytest.raises(InputError, match="has 5 classes but the data has 4"):
        ModelSpec.parse("lenet5:classes=5").with_classes(4)
    with pytest.raises(UsageError, match=r"add classes=N"):
        build(ModelSpec.parse("lenet5"))


def test_a_factory_of_the_user_s_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usernets.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))\n"
        "def fixed():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))\n"
        "def broken():\n    raise ZeroDivisionError('oops')\n"
        "def text():\n    return 'net'\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)

    def of(name: str) -> nn.Module:
        return build(ModelSpec.parse(f"usernets:{name}:classes=5,input=3x2x2"))

    assert of("make")(torch.zeros(1, 3, 2, 2)).shape == (1, 5)
    assert sys.path == path
    for name, message in (
        ("fixed", r"should give logits \(2, 5\) for 2 pictures, gave \(2, 4\)"),
        ("broken", "failed to build: ZeroDivisionError: oops"),
        ("text", "should return a torch.nn.Module, returned str"),
        ("absent", "cannot be imported"),
    ):
        with pytest.raises(InputError, match=message):
            of(name)
    with pytest.raises(InputError, match=re.escape("does not take pictures of 3x5x5")):
        build(ModelSpec.parse("usernets:make:classes=5,input=3x5x5"))
    with pytest.raises(InputError, match="cannot be imported .*No module named"):
        build(ModelSpec.parse("no.such.module:make:classes=5"))


def test_normalised_takes_pixels() -> None:
    preprocessing = Preprocessing(channels=3, height=2, width=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    out = Normalised(nn.Identity(), preprocessing)(torch.full((1, 3, 2, 2), 0.6))
    assert torch.allclose(out[0, :, 0, 0], torch.tensor([1.0, 1.6, 0.3]))
