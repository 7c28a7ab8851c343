"""What the networks of `benchmarks.selection` weigh: real int8 files, and the RAM they run in.

    python -m benchmarks.peers [--kept 0.1] [--json FILE]

Each training left the widths of its network. Networks of these widths are built, given weights that
have nothing special about them (a converter drops biases of zero; else neither file nor RAM depend
on them), converted and repacked; TensorFlow Lite Micro's recording allocator measures the RAM, and
the stand-alone C must give its bytes. Means over the seeds of each method.
"""

import argparse
import json
import os
import tempfile
from functools import cache
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kprune
from benchmarks.board import checked
from benchmarks.footprint import scramble
from benchmarks.selection import rows
from benchmarks.selection_report import METHODS, TITLES
from benchmarks.training import TASKS
from kprune.channels import trace
from kprune.masking import write_gates
from kprune.tflm import measure_arena

COMPARED = 4
# They list the layers that have a kernel; kprune lists groups of channels, the input among them.
RIVALS = ("torch", "tfmot")
COLUMNS = {"accuracy": "{:.1%}", "macs": "{:,.0f}", "file": "{:,.0f}", "arena": "{:,.0f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=float, default=0.1, help="share of the MACs (0.1)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    trained = [row for row in rows() if row["kept"] in (1.0, args.kept)]
    found = [line(task, method, trained) for task in TITLES for method in METHODS]
    found = [one for one in found if one]
    print(table(found, args.kept))
    if args.json:
        args.json.write_text(json.dumps({"kept": args.kept, "rows": found}, indent=1) + "\n")


def line(task: str, method: str, trained: list[dict]) -> dict:
    """Means over the seeds of one method; nothing where it was not run."""
    mine = [row for row in trained if (row["task"], row["method"]) == (task, method)]
    if not mine:
        return {}
    bytes_ = [weigh(task, method.startswith(RIVALS), tuple(row["widths"])) for row in mine]
    return {
        "task": task,
        "method": method,
        "seeds": len(mine),
        "accuracy": round(float(np.mean([row["accuracy"] for row in mine])), 4),
        "macs": round(float(np.mean([row["macs"] for row in mine]))),
        "file": round(float(np.mean([file for file, _ in bytes_]))),
        "arena": round(float(np.mean([arena for _, arena in bytes_]))),
    }


@cache
def weigh(task: str, is_rival: bool, widths: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of the int8 file, and of TensorFlow Lite Micro's arena."""
    keras.utils.set_random_seed(0)  # Weights decide about some bytes of a file.
    model = narrowed(TASKS[task].network(), is_rival, widths)
    scramble(model)
    x = np.random.default_rng(0).normal(size=(50, *model.input_shape[1:])).astype("float32")
    flatbuffer = kprune.to_tflite(model, representative_data=x)
    with tempfile.TemporaryDirectory() as folder:
        kprune.write_files(kprune.to_c(flatbuffer, "net"), folder)
        checked(flatbuffer, folder, x[:COMPARED], "host")
    return len(flatbuffer), measure_arena(flatbuffer).total


def narrowed(model: keras.Model, is_rival: bool, widths: tuple[int, ...]) -> keras.Model:
    masked = kprune.add_masks(model)
    found = trace(masked)
    layers = [layer.name for layer in found.graph.layers if hasattr(layer, "kernel")]
    names = layers if is_rival else [group.name for group in found.groups]
    by_maker = dict(zip(names, widths, strict=True))
    gates = np.ones(found.num_channels, bool)
    for group in found.groups:
        width = next((by_maker[m] for m in group.makers if m in by_maker), len(group.channels))
        gates[group.channels[width:]] = False
    write_gates(found, gates)
    return kprune.slim(masked)


def table(found: list[dict], kept: float) -> str:
    """Markdown: a line per network and method."""
    lines = [
        f"| {kept:.0%} of the multiply-accumulates | {' | '.join(COLUMNS)} |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for one in found:
        shown = " | ".join(form.format(one[key]) for key, form in COLUMNS.items())
        lines.append(f"| {TITLES[one['task']]}: {METHODS[one['method']]} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
