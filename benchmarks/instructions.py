"""Instructions, flash and RAM of generated C, by network and simulated board.

    python benchmarks/instructions.py FOLDER [--board mps2-an386 --board mps3-an547] [--layers]
                                      [--json FILE]

FOLDER holds int8 `.tflite` files, such as the networks of MLPerf Tiny. Each is written with
`to_c`, built for the board, run in QEMU on one fixed pseudo-random input, softmax included, and
compared with TensorFlow Lite Micro: a byte that differs stops the benchmark.

Columns: MACs of convolutions and dense layers; instructions of one inference, all and per MAC.
Flash by part: weights, biases, the per-channel multipliers of the quantisation; other constants
(shapes, zero points, tables), the calls of one layer after the other, the kernels; what these
three take above the network's constants, which are the first three; the program around it.
RAM: the arena (activations, input, output and scratch memory), what it is above the busiest step
of the activations, and the deepest stack. Instructions are not cycles: QEMU has no timing model.
"""

import argparse
import json
import math
import re
import tempfile
from pathlib import Path

import numpy as np
from tflite_micro import runtime as tflm

import kprune
from kprune import flatbuffer as flatbuffers
from kprune.c.arena import plan
from kprune.c.program import Program, lower
from kprune.c.step import Array, Record

COLUMNS = {
    "network": "network",
    "board": "board",
    "macs": "MACs",
    "instructions": "instructions",
    "per_mac": "per MAC",
    "weights": "weights",
    "biases": "biases",
    "multipliers": "multipliers",
    "other": "other",
    "calls": "calls",
    "kernels": "kernels",
    "above_constants": "+constants",
    "program": "program",
    "arena": "arena",
    "above_peak": "+peak",
    "stack": "stack",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--board", action="append", help="default: mps2-an386, a Cortex-M4F")
    parser.add_argument("--layers", action="store_true", help="print each layer's instructions")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    rows = []
    for path in sorted(args.folder.glob("*.tflite")):
        for board in args.board or ["mps2-an386"]:
            rows.append(measure(path, board))
            if args.layers:
                for layer, count in rows[-1]["layers"].items():
                    print(f"{count:>12,} {layer}")
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(path: Path, board: str) -> dict:
    """One row: a network on a board."""
    content = path.read_bytes()
    network = flatbuffers.read(content)
    x = pseudo_random(network.tensors[network.inputs[0]].shape)
    with tempfile.TemporaryDirectory() as folder:
        kprune.write_files(kprune.to_c(content, "net"), folder)
        result = kprune.simulate(folder, x, board=board)
    expected = tflite_micro(content, x)
    if not np.array_equal(result.outputs.ravel(), expected.ravel()):
        raise SystemExit(f"{path.name} on {board}: {result.outputs} is not {expected}")
    program = lower(network)
    memory = plan(program)
    constants = constant_bytes(network, program)
    rest = {
        "other": result.flash["weights"] - sum(constants.values()),
        "calls": result.flash["network"],
        "kernels": result.flash["kernels"],
    }
    macs = num_macs(network)
    assert result.instructions is not None
    return {
        "network": path.stem,
        "board": board,
        "macs": macs,
        "instructions": result.instructions,
        "per_mac": round(result.instructions / macs, 2) if macs else None,
        **constants,
        **rest,
        "above_constants": sum(rest.values()),
        "program": result.flash["program"],
        "arena": memory.size,
        "above_peak": memory.size - memory.peak,
        "stack": result.stack_bytes,
        "layers": result.layers,
    }


def pseudo_random(shape: tuple[int, ...]) -> np.ndarray:
    """The upper bytes of a linear congruential generator: the same on every computer."""
    state, values = 12345, []
    for _ in range(math.prod(shape)):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(state >> 24)
    return np.array(values, np.uint8).view(np.int8).reshape(shape)


def tflite_micro(content: bytes, x: np.ndarray) -> np.ndarray:
    interpreter = tflm.Interpreter.from_bytes(content, arena_size=4_000_000)
    interpreter.set_input(x, 0)
    interpreter.invoke()
    return interpreter.get_output(0)


def constant_bytes(network: flatbuffers.Network, program: Program) -> dict[str, int]:
    """What any engine has to keep that computes what the file says, 4 bytes a bias or scale."""
    constants = [c for layer in program.layers for c in layer.step.constants]
    weights = [c for c in constants if isinstance(c, Array) and c.suffix == "weights"]
    biases = [c for c in constants if isinstance(c, Record) and c.type == "kp_channel"]
    scales = [t.scale.size for t in network.tensors if t.data is not None and t.dtype == np.int8]
    return {
        "weights": sum(array.num_bytes for array in weights),
        "biases": 4 * sum(len(record.lines) for record in biases),
        "multipliers": 4 * sum(scales),
    }


def num_macs(network: flatbuffers.Network) -> int:
    """Multiply-accumulates of convolutions and dense layers, padding included."""
    total = 0
    for operator in network.operators:
        if re.fullmatch("(DEPTHWISE_)?CONV_2D|FULLY_CONNECTED", operator.name):
            weights = network.tensors[operator.inputs[1]].shape
            outputs = math.prod(network.tensors[operator.outputs[0]].shape)
            channels = weights[-1] if operator.name.startswith("DEPTHWISE") else weights[0]
            total += outputs * math.prod(weights) // channels
    return total


def print_table(rows: list[dict]) -> None:
    table = [list(COLUMNS.values())]
    for row in rows:
        cells = [row[key] for key in COLUMNS]
        table.append([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        text = [cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(w) for cell, w in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(text + numbers))


if __name__ == "__main__":
    main()
