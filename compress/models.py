"""Model specs: one string names an architecture; `build` makes the net.

    resnet18:width=16,classes=43,input=3x32x32
    vgg16, lenet5                                      what is left out gets its default
    package.module:factory                             a function of yours that returns the net
    package.module:factory:classes=10,input=3x64x64

A factory is called with `classes=` where it takes such an argument, otherwise with nothing. It must return
an `nn.Module` that maps float32 (N, C, H, W) to logits (N, classes) and must not need training data. Its module
is imported from the installed packages or the current folder: a spec names code to run. So a factory is called only
where the user names it; one that a file of weights or a pool names is refused without the user's word (`approve`).
"""

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdtool.artifacts import Preprocessing
from pdtool.errors import InputError, UsageError
from pdtool.extras import current_folder_importable
from pdtool.images import Size

__all__ = ["LeNet5", "ModelSpec", "Normalised", "ResNet18", "VGG16", "approve", "build"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2); 1x1 projection where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small pictures: 3x3 stem of stride 1, no max pooling, stages of 1, 2, 4 and 8 x `width` channels.

    At width 64, 3x32x32 and 10 classes it has 555.42 M multiply-accumulates in its convolutions and linear layer.
    """

    def __init__(self, width: int, classes: int, size: Size) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size[0], width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        before = width
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1)))
            before = after
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class VGG16(nn.Module):
    """VGG-16 for small pictures: 13 convolutions with batch norm, five max poolings, global mean, one linear layer."""

    def __init__(self, width: int, classes: int, size: Size) -> None:
        super().__init__()
        if min(size[1:]) < 32:
            raise UsageError(f"vgg16 halves the picture five times and needs 32x32 at least, got {size[1]}x{size[2]}")
        layers: list[nn.Module] = []
        before = size[0]
        for after, times in ((width, 2), (2 * width, 2), (4 * width, 3), (8 * width, 3), (8 * width, 3)):
            for _ in range(times):
                layers += [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; `width` is its first layer's channels, 6 in the paper."""

    def __init__(self, width: int, classes: int, size: Size) -> None:
        super().__init__()
        height, breadth = (((side - 4) // 2 - 4) // 2 for side in size[1:])
        if height < 1 or breadth < 1:
            raise UsageError(f"lenet5 needs pictures of 16x16 at least, got {size[1]}x{size[2]}")
        second = width * 16 // 6
        self.conv1 = nn.Conv2d(size[0], width, 5)
        self.conv2 = nn.Conv2d(width, second, 5)
        self.fc1 = nn.Linear(second * height * breadth, 20 * width)
        self.fc2 = nn.Linear(20 * width, 14 * width)
        self.fc3 = nn.Linear(14 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
        logits: Tensor = self.fc3(x)
        return logits


# name -> class, default width, default input
BUILTIN: dict[str, tuple[Callable[[int, int, Size], nn.Module], int, Size]] = {
    "resnet18": (ResNet18, 64, (3, 32, 32)),
    "vgg16": (VGG16, 64, (3, 32, 32)),
    "lenet5": (LeNet5, 6, (1, 32, 32)),
}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A parsed model spec. `str()` is its one canonical form: every option spelled out, in this order.

    `width` is None for a factory; `classes` is None until it is known from the data (`with_classes`).
    """

    name: str
    width: int | None
    classes: int | None
    input: Size  # channels, height, width

    @staticmethod
    def parse(text: str) -> "ModelSpec":
        """Raises UsageError for an unknown name or option, or a value out of range."""
        name, _, options = text.strip().partition(":")
        if name not in BUILTIN:
            factory, _, options = options.partition(":")
            if not (re.fullmatch(r"\w+(\.\w+)*", name) and factory.isidentifier()):
                known = ", ".join(BUILTIN)
                raise UsageError(f"unknown model {text!r}; expected one of {known}, or package.module:factory of yours")
            name = f"{name}:{factory}"
        width, size = (BUILTIN[name][1], BUILTIN[name][2]) if name in BUILTIN else (None, (3, 32, 32))
        classes = None
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            if key == "input":
                size = _size(value, text)
            elif key == "classes":
                classes = _whole(key, value, text, 2, 100_000)
            elif key == "width" and width is not None:
                width = _whole(key, value, text, 1, 4096)
            else:
                keys = "classes and input" if width is None else "width, classes and input"
                raise UsageError(f"unknown option {key!r} in model {text!r}; it takes {keys}")
        return ModelSpec(name=name, width=width, classes=classes, input=size)

    @property
    def is_factory(self) -> bool:
        """Whether building it imports and calls code that is not pdtool's."""
        return self.name not in BUILTIN

    def with_classes(self, classes: int) -> "ModelSpec":
        """The spec for `classes` classes. Raises InputError where it names another number."""
        if self.classes not in (None, classes):
            raise InputError(f"model {self} has {self.classes} classes but the data has {classes}; leave classes= out")
        return replace(self, classes=classes)

    def __str__(self) -> str:
        width = [] if self.width is None else [f"width={self.width}"]
        classes = [] if self.classes is None else [f"classes={self.classes}"]
        return f"{self.name}:" + ",".join([*width, *classes, "input=" + "x".join(map(str, self.input))])


class Normalised(nn.Module):
    """A net behind its `(x - mean) / std`: takes float32 (N, C, H, W) in [0, 1]. Attacked and exported in this form."""

    def __init__(self, net: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


def approve(named: str, model: str | None, *, file: str) -> ModelSpec:
    """The spec that a file names, if it may be built: a factory's code runs only where the user gives it as `model`.

    Raises UsageError for a factory without that word, and where `model` is another than the file's.
    """
    spec = ModelSpec.parse(named)
    if model is None and spec.is_factory:
        raise UsageError(
            f"{file}: names {spec.name}, which is code that would be run; "
            f"if you trust it, say so with --model {spec.name}"
        )
    if model is not None and ModelSpec.parse(model).name != spec.name:
        raise UsageError(f"{file}: is of the model {spec.name}, --model says {model!r}; give --model {spec.name}")
    return spec


def build(spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """The net of `spec` in training mode, initialised from `seed`; the global random state is left as it was.

    Raises UsageError where `classes` is not known yet, InputError where a factory fails or its net does not fit.
    """
    if spec.classes is None:
        raise UsageError(f"model {spec} does not say how many classes; add classes=N")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.name in BUILTIN:
            assert spec.width is not None
            return BUILTIN[spec.name][0](spec.width, spec.classes, spec.input)
        net = _call_factory(spec)
    _check_output(net, spec)
    return net.train()


def _call_factory(spec: ModelSpec) -> nn.Module:
    module_name, _, name = spec.name.partition(":")
    try:
        with current_folder_importable():
            factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"model {spec.name!r} cannot be imported ({error}); install its package or run from its folder"
        ) from None
    try:
        takes_classes = "classes" in inspect.signature(factory).parameters
        net = factory(classes=spec.classes) if takes_classes else factory()
    except Exception as error:  # the user's own factory may raise anything
        raise InputError(f"model {spec.name!r} failed to build: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise InputError(f"model {spec.name!r} should return a torch.nn.Module, returned {type(net).__name__}")
    return net


def _check_output(net: nn.Module, spec: ModelSpec) -> None:
    try:
        with torch.no_grad():
            out = net.eval()(torch.zeros(2, *spec.input))
    except Exception as error:  # and so may its forward
        shape = "x".join(map(str, spec.input))
        raise InputError(f"model {spec.name!r} does not take pictures of {shape} ({error}); set input=CxHxW") from error
    if not isinstance(out, Tensor) or out.shape != (2, spec.classes):
        came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"model {spec.name!r} should give logits (2, {spec.classes}) for 2 pictures, gave {came}")


def _whole(key: str, value: str, text: str, least: int, most: int) -> int:
    if not value.isdecimal() or not least <= int(value) <= most:
        raise UsageError(f"{key}= in model {text!r} should be a whole number in {least}..{most}, is {value!r}")
    return int(value)


def _size(value: str, text: str) -> Size:
    match = re.fullmatch(r"([13])x(\d{1,4})x(\d{1,4})", value)
    if match is None or not all(0 < int(side) <= 4096 for side in match.groups()):
        raise UsageError(f"input= in model {text!r} should be CxHxW such as 3x32x32 with C 1 or 3, is {value!r}")
    channels, height, width = map(int, match.groups())
    return channels, height, width
