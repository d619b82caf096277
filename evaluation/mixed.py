"""A stream of clean and attacked images in turn: what `pdtool screen` is tried on."""

import numpy as np
from numpy.typing import NDArray

from pdtool.artifacts import Bundle
from pdtool.data import Dataset
from pdtool.evaluation.attacked import Attacked
from pdtool.files import npz_bytes
from pdtool.images import as_input

__all__ = ["mixed_stream"]


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
