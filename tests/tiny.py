"""A hand-written network with the interface of a generated one, for what builds and runs it."""

import shutil
from pathlib import Path

import numpy as np

from kprune.boards import BOARDS

TINY = Path(__file__).parent / "firmware" / "tiny"
QEMU_BOARDS = [board.name for board in BOARDS.values() if board.qemu]
TOOLS = ("make", "arm-none-eabi-gcc", "qemu-system-arm")


def random_inputs(count, size, seed=0):
    values = np.random.default_rng(seed).integers(-128, 128, (count, size))
    return values.astype(np.int8)


def tiny_reference(x):
    """What tests/firmware/tiny computes."""
    doubled = np.clip(x.astype(int) * np.arange(1, 7), -128, 127)
    return np.clip(doubled[:, 0::2] + doubled[:, 1::2], -128, 127)


def network_with(tmp_path, changes, file="tiny.c"):
    """A copy of the tiny network in which pieces of a file are others: old text -> new text."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    text = folder.joinpath(file).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    folder.joinpath(file).write_text(text)
    return folder
