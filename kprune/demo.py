"""`kprune demo`: the whole road on real data, in a few minutes.

scikit-learn ships handwritten digits (1797 images of 8 x 8 from 43 people, collected by E. Alpaydin
and C. Kaynak for the UCI repository), so nothing is downloaded.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kprune.budget import Budget
from kprune.c.array import to_c_array
from kprune.c.files import claim, write_files
from kprune.c.network import to_c
from kprune.callbacks import PruneCallback
from kprune.errors import ToolNotFoundError
from kprune.flatbuffer import read
from kprune.interpreters import quantize, run_tflite
from kprune.masking import add_masks
from kprune.report import Profile, plot_run, profile
from kprune.simulation import simulate
from kprune.slimming import slim
from kprune.tflite import to_tflite

BUDGET = Budget(macs=0.25)
BOARD = "stm32f405"
EPOCHS = 60
BATCH = 32


@dataclass(frozen=True)
class Stage:
    """One row of the table; `bytes` is the flatbuffer, None for a network in float."""

    network: str
    arithmetic: str
    accuracy: float
    params: int
    macs: int
    bytes: int | None = None


@dataclass(frozen=True)
class BoardRun:
    """What a network takes on the board; RAM without the stack."""

    network: str
    board: str
    accuracy: float
    instructions: int
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int


def run_demo(folder: Path, console: Console | None = None) -> dict:
    """Train, slim, quantise, write and verify a network for handwritten digits.

    Args:
        folder: Where the models, `report.png` and `report.json` go; `tflm/` in it gets the C array,
            `c/` the stand-alone C.
        console: Where progress and the tables are shown; nowhere if None.

    Returns:
        What `report.json` says: the stages with their accuracy on the test images, and what the
        networks take on the simulated board (None, where its tools are not installed).

    Raises:
        ToolNotFoundError: scikit-learn or TensorFlow Lite Micro is not installed.
        OSError: The folder cannot be made or written to.
    """
    console = console or Console(quiet=True)
    keras.utils.set_random_seed(0)
    data = load_digits()
    claim(folder)
    (x, _), _ = data
    dense = digits_network()
    masked = add_masks(dense)
    before = profile(masked)

    train(dense, data, [], console)
    verbose = 0 if console.quiet else 1
    history = train(masked, data, [PruneCallback(BUDGET, verbose=verbose)], console)
    small = slim(masked)
    networks = {"dense": dense, "slim": small}
    flatbuffers = {
        name: to_tflite(network, representative_data=x[:200]) for name, network in networks.items()
    }
    stages = [
        stage
        for name, network in networks.items()
        for stage in _stages(name, network, flatbuffers[name], data)
    ]
    console.print(_table(stages))
    boards = _simulated(flatbuffers, data, console)
    report = {
        "budget": BUDGET.asked,
        "stages": [asdict(stage) for stage in stages],
        "board": None if boards is None else [asdict(run) for run in boards],
    }
    array = to_c_array(flatbuffers["slim"], name="digits")
    _check_array(array["digits_model_data.cc"], flatbuffers["slim"])
    files = _binaries({**networks, "masked": masked}, history, (profile(small), before))
    files["digits.tflite"] = flatbuffers["slim"]
    files["report.json"] = (json.dumps(report, indent=2) + "\n").encode()
    write_files(array, folder / "tflm")
    write_files(to_c(flatbuffers["slim"], name="digits"), folder / "c")
    write_files(files, folder)
    console.print(f"Written to {folder}/: {', '.join(files)}, and C in tflm/ and c/")
    return report


def _binaries(
    networks: Mapping[str, keras.Model], history: dict, profiles: tuple[Profile, Profile]
) -> dict[str, str | bytes]:
    """The Keras files and the picture, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            network.save(Path(folder) / f"{name}.keras")
        plot_run(history, *profiles, Path(folder) / "report.png")
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def load_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The digits as `(x, y), (x_test, y_test)`, a fifth of each class for the test.

    Images are float32 of shape `(samples, 8, 8, 1)` in [0, 1], labels integers from 0 to 9.

    Raises:
        ToolNotFoundError: scikit-learn, which ships the data, is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ToolNotFoundError(
            "The digits come with scikit-learn, which is not installed: pip install 'kprune[demo]'."
        ) from error
    digits = load()
    x = (digits.images[..., np.newaxis] / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(
        x, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return (x, y), (x_test, y_test)


def digits_network() -> keras.Model:
    """A small network of what microcontrollers run: a residual block, then depthwise ones."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = _conv(inputs, 24, 3, "stem")
    y = _conv(x, 24, 3, "residual1")
    y = layers.Conv2D(24, 3, padding="same", use_bias=False, name="residual2")(y)
    y = layers.BatchNormalization()(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    for stage, (filters, strides) in enumerate([(48, 2), (64, 1)], start=1):
        x = layers.DepthwiseConv2D(
            3, strides, padding="same", use_bias=False, name=f"depthwise{stage}"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = _conv(x, filters, 1, f"pointwise{stage}")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(x), name="digits")


def _conv(x: Any, filters: int, size: int, name: str) -> Any:
    x = layers.Conv2D(filters, size, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def train(
    network: keras.Model,
    data: tuple,
    callbacks: Sequence[keras.callbacks.Callback],
    console: Console,
) -> dict[str, list[float]]:
    """One ordinary fit; returns the history. The test images steer nothing, they are only shown."""
    (x, y), test = data
    steps = EPOCHS * -(-len(x) // BATCH)
    network.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # On a CPU, XLA makes a small network slower.
    )
    with Progress(console=console) as progress:
        shown = _Shown(progress, "masked" if callbacks else "dense ")
        history = network.fit(
            x,
            y,
            batch_size=BATCH,
            epochs=EPOCHS,
            validation_data=test,
            callbacks=[*callbacks, shown],
            verbose=0,
        )
    return history.history


class _Shown(keras.callbacks.Callback):
    """A bar over the epochs, with the figures of the last one."""

    def __init__(self, progress: Progress, title: str) -> None:
        super().__init__()
        self.progress, self.title = progress, title

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.task = self.progress.add_task(self.title, total=self.params["epochs"])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        figures = logs or {}
        text = f"{self.title}  accuracy {figures['val_accuracy']:.3f}"
        if "macs_rate" in figures:
            text += f"  MACs kept {figures['macs_rate']:.3f}"
        self.progress.update(self.task, advance=1, description=text)


def _stages(name: str, network: keras.Model, flatbuffer: bytes, data: tuple) -> list[Stage]:
    x_test, y_test = data[1]
    cost = profile(network).total
    outputs = {
        "float": network.predict(x_test, verbose=0),
        "int8, LiteRT": run_tflite(flatbuffer, x_test),
        "int8, TFLM": run_tflite(flatbuffer, x_test, interpreter="tflm"),
    }
    return [
        Stage(
            name,
            form,
            float((scores.argmax(-1) == y_test).mean()),
            cost["params"],
            cost["macs"],
            None if form == "float" else len(flatbuffer),
        )
        for form, scores in outputs.items()
    ]


def _simulated(
    flatbuffers: Mapping[str, bytes], data: tuple, console: Console
) -> list[BoardRun] | None:
    """Run the stand-alone C of each network on the simulated board, every test image."""
    try:
        runs = [_board_run(name, flatbuffer, data) for name, flatbuffer in flatbuffers.items()]
    except ToolNotFoundError as error:
        console.print(f"Not run on a simulated board: {error}")
        return None
    console.print(_board_table(runs))
    return runs


def _board_run(name: str, flatbuffer: bytes, data: tuple) -> BoardRun:
    x_test, y_test = data[1]
    network = read(flatbuffer)
    bytes_in = quantize(x_test, network.tensors[network.inputs[0]])
    with tempfile.TemporaryDirectory() as folder:
        write_files(to_c(flatbuffer, name="digits"), folder)
        host = simulate(folder, bytes_in, board="host")
        result = simulate(folder, bytes_in, board=BOARD)
    expected = run_tflite(flatbuffer, bytes_in, interpreter="tflm")
    if not all(np.array_equal(run.outputs, expected) for run in (host, result)):
        raise RuntimeError(f"{BOARD}, the host and TensorFlow Lite Micro give different bytes.")
    return BoardRun(
        name,
        BOARD,
        float((result.outputs.argmax(-1) == y_test).mean()),
        result.instructions or 0,
        result.flash_bytes,
        result.ram_bytes - result.ram["stack"],
        result.stack_bytes or 0,
    )


def _board_table(runs: Sequence[BoardRun]) -> Table:
    table = Table(title=f"the same on a simulated {BOARD}, byte-equal to the host", box=box.SIMPLE)
    table.add_column("network")
    for heading in ("accuracy", "instructions", "flash", "RAM", "stack"):
        table.add_column(heading, justify="right")
    for run in runs:
        figures = (run.instructions, run.flash_bytes, run.ram_bytes, run.stack_bytes)
        table.add_row(run.network, f"{run.accuracy:.1%}", *(f"{figure:,}" for figure in figures))
    return table


def _check_array(source: str, flatbuffer: bytes) -> None:
    """The C text holds the very bytes that were run."""
    written = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})", source))
    if written != flatbuffer:
        raise RuntimeError("The bytes of the C array are not those of the flatbuffer.")


def _table(stages: Sequence[Stage]) -> Table:
    table = Table(title="handwritten digits, 360 test images", box=box.SIMPLE)
    table.add_column("network")
    table.add_column("arithmetic")
    for heading in ("accuracy", "parameters", "MACs", "kept", "bytes"):
        table.add_column(heading, justify="right")
    for stage in stages:
        table.add_row(
            stage.network,
            stage.arithmetic,
            f"{stage.accuracy:.1%}",
            f"{stage.params:,}",
            f"{stage.macs:,}",
            f"{stage.macs / stages[0].macs:.1%}",
            "" if stage.bytes is None else f"{stage.bytes:,}",
        )
    return table
