"""A hand-written network with the interface of a generated one, for what builds and runs it."""

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


def network_with(tmp_path, old, new):
    """A copy of the tiny network in which a piece of code is another."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in TINY.iterdir():
        folder.joinpath(path.name).write_text(path.read_text().replace(old, new))
    assert new in folder.joinpath("tiny.c").read_text()
    return folder
