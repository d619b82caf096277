import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdtool.artifacts import Preprocessing
from pdtool.compress.models import ModelSpec, Normalised, build
from pdtool.compress.original import Trained, load_original, pick_device, train_original
from pdtool.compress.prune import prune
from pdtool.compress.split import Labelled, align, hold_back
from pdtool.compress.training import (
    RECIPES,
    Hooks,
    Recipe,
    TrainingSet,
    accuracy,
    estimate_norms,
    fit,
    half_of,
    made_on,
    predict,
)
from pdtool.compress.weights import load_weights, save_weights
from pdtool.data import load_data
from pdtool.errors import GateError, InputError, UsageError

GREY = Preprocessing(channels=1, height=32, width=32, mean=(0.3,), std=(0.35,))
SHORT = replace(RECIPES["train"], epochs=1)


@pytest.fixture(scope="module")
def digits() -> tuple[Labelled, Labelled]:
    data = load_data("digits", (1, 32, 32), role="train")
    return hold_back(align(data, data.classes), data.groups, spec="digits")


@pytest.fixture(scope="module")
def training(digits: tuple[Labelled, Labelled]) -> TrainingSet:
    return TrainingSet.of(digits[0].images, digits[0].labels, GREY)


def lenet() -> nn.Module:
    return build(ModelSpec.parse("lenet5:classes=10"))


def test_a_classifier_of_digits_is_good_in_seconds(trained: Trained) -> None:
    assert trained.accuracy > 0.93 and trained.accuracy_images > 80
    test = load_data("digits", (1, 32, 32), role="test")
    original, notes = load_original(Path(trained.file))
    assert notes == () and test.labels is not None
    assert accuracy(original.net, test.images, test.labels, original.preprocessing) > 0.93


def test_training_is_deterministic_and_leaves_the_global_generator_alone(training: TrainingSet) -> None:
    state = torch.get_rng_state()
    nets = [lenet() for _ in range(3)]
    for net, seed in zip(nets, (4, 4, 5), strict=True):
        fit(net, training, SHORT, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (net.state_dict()["fc3.weight"] for net in nets)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_dropout_is_seeded_too(training: TrainingSet) -> None:
    nets = []
    for _ in range(2):
        torch.rand(3)  # moves the global generator
        nets.append(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(1024, 10)))
        nn.init.zeros_(nets[-1].get_parameter("2.weight")), nn.init.zeros_(nets[-1].get_parameter("2.bias"))
        fit(nets[-1], training, SHORT, seed=1)
    assert torch.equal(nets[0].get_parameter("2.weight"), nets[1].get_parameter("2.weight"))
    assert nets[0].get_parameter("2.weight").abs().max() > 0


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_mixed_precision_learns_as_well(
    training: TrainingSet, digits: tuple[Labelled, Labelled], half: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = [lenet(), lenet()]
    recipe = replace(SHORT, epochs=6)
    monkeypatch.setattr("pdtool.compress.training.half_of", lambda device: None)
    fit(nets[0], training, recipe, seed=0)
    monkeypatch.setattr("pdtool.compress.training.half_of", lambda device: half)
    fit(nets[1], training, recipe, seed=0)
    first, second = (accuracy(net, digits[1].images, digits[1].labels, GREY) for net in nets)
    assert second > first - 0.1 > 0.6
    weights = [net.get_parameter("conv1.weight") for net in nets]
    assert weights[1].dtype == torch.float32 and not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("able", "half"), [("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx2", None)]
)
def test_cpus_take_half_precision_where_they_have_instructions_for_it(
    able: str, half: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True}, raising=False)
    assert half_of(torch.device("cpu")) is None  # tests ask for float32
    monkeypatch.delenv("PDTOOL_FLOAT32")
    assert half_of(torch.device("cpu")) is half
    assert ("bfloat16" in made_on(lenet())) == (half is not None)


def test_where_torch_does_not_tell_cpus_train_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.delenv("PDTOOL_FLOAT32")
    assert half_of(torch.device("cpu")) is None


def test_every_step_is_counted(training: TrainingSet) -> None:
    ticks: list[int] = []
    recipe = replace(SHORT, epochs=2, batch=200)
    fit(lenet(), training, recipe, seed=0, tick=ticks.append)
    assert sum(ticks) == recipe.steps(len(training)) == 2 * (len(training) // 200)


def test_a_teacher_is_imitated(training: TrainingSet, trained: Trained) -> None:
    teacher = load_original(Path(trained.file))[0].net
    before = copy.deepcopy(teacher.state_dict())
    inputs = (training.pixels(slice(0, 200)) - training.mean) / training.std
    gaps = []
    for distill in (0.9, 0.0):
        net = copy.deepcopy(teacher)
        prune(net, (1, 32, 32), {"conv1": [0, 1, 2], "conv2": range(8)})
        fit(net, training, replace(RECIPES["paper"], epochs=3, lr=0.02, distill=distill), seed=0, teacher=teacher)
        with torch.no_grad():
            gaps.append((net(inputs).softmax(1) - teacher(inputs).softmax(1)).abs().mean())
    assert gaps[0] < 0.8 * gaps[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_images_are_shifted_by_whole_pixels_with_their_edges_repeated() -> None:
    picture = torch.arange(25, dtype=torch.uint8).reshape(1, 5, 5, 1)
    data = TrainingSet(picture, torch.zeros(1, dtype=torch.long), torch.zeros(1), torch.ones(1))
    recipe, generator, seen = replace(SHORT, shift=2, light=0), torch.Generator().manual_seed(0), set()
    for _ in range(200):
        shifted = (data.shifted(torch.tensor([0]), recipe, generator)[0, 0] * 255).round().long()
        row, column = divmod(int(shifted[2, 2]), 5)
        expected = [
            [5 * min(max(row + i, 0), 4) + min(max(column + j, 0), 4) for j in range(-2, 3)] for i in range(-2, 3)
        ]
        assert shifted.tolist() == expected
        seen.add((row, column))
    assert len(seen) == 25


def test_mirroring_is_off_unless_asked_for() -> None:
    picture = torch.tensor([[[[0], [255]]]], dtype=torch.uint8)
    data = TrainingSet(picture, torch.zeros(1, dtype=torch.long), torch.zeros(1), torch.ones(1))
    generator = torch.Generator().manual_seed(0)

    def seen(recipe: Recipe) -> set[tuple[float, ...]]:
        index = torch.zeros(50, dtype=torch.long)
        return {tuple(p.ravel().tolist()) for p in data.shifted(index, replace(recipe, shift=0, light=0), generator)}

    assert seen(SHORT) == {(0.0, 1.0)}
    assert seen(replace(SHORT, flip=True)) == {(0.0, 1.0), (1.0, 0.0)}


def test_float_images_are_taken_as_they_are(digits: tuple[Labelled, Labelled], training: TrainingSet) -> None:
    floats = TrainingSet.of((digits[0].images / 255).astype(np.float32), digits[0].labels, GREY)
    assert torch.allclose(floats.pixels(slice(0, 5)), training.pixels(slice(0, 5)))


def test_hooks_see_pixels_and_can_add_images_loss_and_masks(training: TrainingSet) -> None:
    seen: list[tuple[int, ...]] = []

    def double(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert pixels.min() >= 0 and pixels.max() <= 1
        return torch.cat([pixels, pixels]), torch.cat([labels, labels])

    def extra(net: nn.Module, inputs: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        seen.append(tuple(logits.shape))
        return 0.0 * logits.sum()

    def mask(net: nn.Module) -> None:
        with torch.no_grad():
            net.get_parameter("conv1.weight")[0] = 0

    net = lenet()
    fit(net, training, replace(SHORT, batch=64), seed=0, hooks=Hooks(augment=double, loss=extra, after_step=mask))
    assert set(seen) == {(128, 10)}
    assert bool((net.get_parameter("conv1.weight")[0] == 0).all())


def test_batch_norm_is_estimated_on_plain_images(training: TrainingSet) -> None:
    norm = nn.BatchNorm2d(1, momentum=0.3)
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(1024, 10))
    fit(net, training, replace(SHORT, norm_images=512), seed=0)
    index = torch.arange(512) * len(training) // 512
    inputs = (training.pixels(index) - training.mean) / training.std
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(inputs.mean().item(), abs=1e-3)
    assert norm.running_var.item() == pytest.approx(inputs.var().item(), abs=1e-2)
    assert norm.momentum == 0.3 and not net.training


def test_batch_norm_is_estimated_on_every_class_of_data_that_lists_one_after_the_other() -> None:
    """A folder is read class by class: dark pictures first here, and few pictures must not mean dark ones alone."""
    dark, light = np.full((600, 8, 8, 1), 10, np.uint8), np.full((600, 8, 8, 1), 250, np.uint8)
    preprocessing = Preprocessing(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
    data = TrainingSet.of(np.concatenate([dark, light]), np.repeat([0, 1], 600), preprocessing)
    net = nn.Sequential(nn.BatchNorm2d(1))
    estimate_norms(net, data, 512)
    norm = net[0]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(130 / 255)
    assert norm.running_var.item() == pytest.approx((120 / 255) ** 2, rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_training(training: TrainingSet) -> None:
    with pytest.raises(GateError, match=r"training diverged: the loss is (nan|inf) after \d+ steps; lower --lr"):
        fit(lenet(), training, replace(SHORT, lr=1e9), seed=0)


def test_predictions_do_not_depend_on_the_batch(trained: Trained, digits: tuple[Labelled, Labelled]) -> None:
    original, _ = load_original(Path(trained.file))
    net = Normalised(original.net, original.preprocessing)
    images = digits[1].images
    assert np.array_equal(predict(net, images, batch=7), predict(net, images))
    assert predict(net, images[:0]).shape == (0,)


def test_trained_weights_say_everything(trained: Trained, tmp_path: Path) -> None:
    _, metadata = load_weights(Path(trained.file))
    assert metadata["model"] == "lenet5:width=6,classes=10,input=1x32x32"
    assert math.isclose(float(metadata["accuracy"]), trained.accuracy, abs_tol=1e-6)
    assert metadata.keys() >= {"classes", "preprocessing", "data_fingerprint", "seed", "pdtool", "recipe"}
    again = train_original("lenet5", "digits", tmp_path / "again.safetensors", recipe=replace(SHORT, epochs=8))
    assert Path(again.file).read_bytes() == Path(trained.file).read_bytes()


def test_training_refuses_what_it_cannot_use(tmp_path: Path, trained: Trained) -> None:
    out = tmp_path / "w.safetensors"
    np.savez(tmp_path / "one.npz", images=np.zeros((20, 32, 32, 1), np.uint8), labels=np.zeros(20, np.int64))
    with pytest.raises(InputError, match="at least two classes"):
        train_original("lenet5", str(tmp_path / "one.npz"), out)
    with pytest.raises(UsageError, match=r"should end in \.safetensors"):
        train_original("lenet5", "digits", tmp_path / "w.pt")
    with pytest.raises(InputError, match="exists already; .*--force"):
        train_original("lenet5", "digits", Path(trained.file))
    with pytest.raises(InputError, match="its folder does not exist"):
        train_original("lenet5", "digits", tmp_path / "no" / "w.safetensors")
    with pytest.raises(InputError, match="has 4 classes but the data has 10"):
        train_original("lenet5:classes=4", "digits", out)
    with pytest.raises(UsageError, match="--mean and --std: .*1 numbers each"):
        train_original("lenet5", "digits", out, mean=(0.5, 0.5))
    with pytest.raises(UsageError, match="where torch computes should be auto, cpu or cuda"):
        pick_device("tpu")
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lr", math.inf, "lr should be a number above 0, is inf"),
        ("lr", math.nan, "is nan"),
        ("lr", 0.0, "is 0.0"),
        ("clip", -1.0, "clip should be a number above 0"),
        ("temperature", 0.0, "temperature should be a number above 0"),
        ("weight_decay", math.inf, "weight_decay should be a number of at least 0"),
        ("momentum", math.nan, r"momentum should lie in \[0, 1\]"),
        ("distill", 1.5, r"distill should lie in \[0, 1\]"),
    ],
)
def test_no_recipe_holds_a_number_that_training_cannot_use(setting: str, value: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SHORT, **{setting: value})  # type: ignore[arg-type]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    planned = train_original("lenet5", "digits", tmp_path / "w.safetensors", dry_run=True)
    assert planned.steps > 100 and not list(tmp_path.iterdir())


def test_foreign_weights_need_a_model_and_say_what_is_assumed(tmp_path: Path, trained: Trained) -> None:
    original, _ = load_original(Path(trained.file))
    path = tmp_path / "foreign.safetensors"
    save_weights(path, original.net, {})
    data = load_data("digits", (1, 32, 32), role="train")
    with pytest.raises(UsageError, match="does not say which model it is for; give --model"):
        load_original(path, data)
    loaded, notes = load_original(path, data, model="lenet5")
    assert "does not say how its inputs were normalised" in notes[0]
    assert loaded.preprocessing.mean == pytest.approx(original.preprocessing.mean, abs=0.01)
    loaded, notes = load_original(path, data, model="lenet5", mean=(0.25,), std=(0.5,))
    assert notes == () and loaded.preprocessing.mean == (0.25,)
    with pytest.raises(InputError, match="does not fit lenet5:width=12"):
        load_original(path, data, model="lenet5:width=12")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"classes": "{"}, "'classes' should be a list of names"),
        ({"classes": '["a"]'}, "has 10 classes but the data has 1"),
        ({"preprocessing": "{}"}, "field 'channels' is missing"),
        ({"preprocessing": "nonsense"}, "not valid JSON"),
    ],
)
def test_wrong_metadata_is_named(tmp_path: Path, trained: Trained, metadata: dict[str, str], message: str) -> None:
    original, _ = load_original(Path(trained.file))
    save_weights(tmp_path / "w.safetensors", original.net, original.metadata() | metadata)
    with pytest.raises(InputError, match=message):
        load_original(tmp_path / "w.safetensors")
