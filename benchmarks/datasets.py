"""Real data for the training benchmarks, and the small changes that every epoch makes to it.

FOLDER holds the packed sets with their `load.py`: `load(name)` gives `(x, y), (x_test, y_test)`.
"""

import importlib.util
from pathlib import Path
from typing import Literal

import keras
import numpy as np

# Drawn once, for all runs: seeds differ in initial weights, order and augmentation only.
_DRAWING = 2026

Samples = tuple[np.ndarray, np.ndarray]


def read_set(folder: Path, name: str) -> tuple[Samples, Samples]:
    """Training and test samples as float32 of about unit size, labels as integers."""
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return standardized(*module.load(name))


def standardized(train: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Every channel of the training samples has mean 0 and deviation 1."""
    (x, y), (x_test, y_test) = train, test
    if x.ndim == 3:  # Signals: one wide.
        x, x_test = x[:, :, np.newaxis], x_test[:, :, np.newaxis]
    mean, deviation = (f(x, axis=(0, *range(1, x.ndim - 1))) for f in (np.mean, np.std))
    x, x_test = ((part - mean) / deviation for part in (x, x_test))
    return (x.astype("float32"), y.astype("int32")), (
        x_test.astype("float32"),
        y_test.astype("int32"),
    )


def draw(samples: Samples, number: int) -> Samples:
    """As many samples, drawn without repetition, the same ones every time."""
    x, y = samples
    drawn = np.random.default_rng(_DRAWING).permutation(len(x))[:number]
    return x[drawn], y[drawn]


class Augmented(keras.utils.PyDataset):
    """Batches in a new order every epoch, each sample moved a little and perhaps mirrored.

    Args:
        samples: `x` of shape `(samples, height, width, channels)` and `y`.
        batch_size: Samples in a batch; the rest of an epoch that fills none is left out.
        shift: How far a sample is moved at most, along height and width.
        flip: Whether half of the samples are mirrored.
        seed: Of order and changes.
        border: What a moved sample uncovers, as `numpy.pad` calls it: its edge again, or zeros
            ("constant").
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        shift: tuple[int, int],
        flip: bool,
        seed: int,
        border: Literal["edge", "constant"] = "edge",
    ) -> None:
        super().__init__()
        self.x, self.y = samples
        self.batch_size, self.shift, self.flip = batch_size, shift, flip
        self.size = self.x.shape[1:3]
        margins = [(0, 0), *((s, s) for s in shift), (0, 0)]
        self.wide = np.pad(self.x, margins, mode=border)
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.x) // self.batch_size

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.x))

    def __getitem__(self, index: int) -> Samples:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows, columns = (
            self.rng.integers(0, 2 * most + 1, (len(chosen), 1)) + np.arange(length)
            for most, length in zip(self.shift, self.size, strict=True)
        )
        if self.flip:
            mirrored = self.rng.random((len(chosen), 1)) < 0.5
            columns = np.where(mirrored, columns[:, ::-1], columns)
        x = self.wide[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return x, self.y[chosen]
