"""Stand-alone C of all kinds of networks, on this computer and on every board that QEMU has.

    python -m benchmarks.every_board [--json FILE]

The MLPerf Tiny networks and the tests' zoo, untrained, each on pseudo-random inputs: a byte that is
not TensorFlow Lite Micro's stops the benchmark. What does not fit a board, or to_c has no code for,
is listed as such.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kprune
from benchmarks.keras_networks import networks
from kprune import tflm
from kprune.boards import BOARDS
from kprune.network import listed
from tests import zoo

SAMPLES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    boards = ["host", *(board.name for board in BOARDS.values() if board.qemu)]
    rows = []
    for name, build in networks().items():
        found = on_boards(zoo.perturb(build()), boards)
        rows.append({"network": name, "boards": found})
        print(
            f"{name:34}", ", ".join(f"{board} {what}" for board, what in found.items()), flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    results = [what for row in rows for what in row["boards"].values()]
    print(f"{len(rows)} networks, {results.count('equal')} times equal, {count_others(results)}")


def count_others(results: list[str]) -> str:
    others = dict.fromkeys(what for what in results if what != "equal")
    return ", ".join(f"{results.count(what)} times {what}" for what in others)


def on_boards(model: keras.Model, boards: list[str]) -> dict[str, str]:
    """What became of it on each board: "equal", or why it was not run."""
    data = keras.tree.flatten(zoo.random_inputs(model, batch=32))
    try:
        flatbuffer = kprune.to_tflite(model, data)
        code = kprune.to_c(flatbuffer, "net")
    except ValueError:
        return dict.fromkeys(boards, "refused")
    inputs, expected = tflm.golden_vectors(flatbuffer, SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        kprune.write_files(code, folder)
        return {board: on_board(folder, inputs, expected, board) for board in boards}


def on_board(folder: str, inputs: Any, expected: Any, board: str) -> str:
    try:
        outputs = kprune.simulate(folder, inputs, board).outputs
    except kprune.DoesNotFitError:
        return "too large"
    for given, right in zip(listed(outputs), listed(expected), strict=True):
        if not np.array_equal(given, right.reshape(SAMPLES, -1)):
            raise SystemExit(f"{board} differs from TensorFlow Lite Micro.")
    return "equal"


if __name__ == "__main__":
    main()
