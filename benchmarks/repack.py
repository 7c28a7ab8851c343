"""How many bytes repacking saves, and that it changes no output.

    python benchmarks/repack.py FOLDER [--json FILE]

FOLDER holds `.tflite` files, such as the int8 networks of MLPerf Tiny. Each is repacked and run in
TensorFlow Lite Micro and in LiteRT's reference kernels on 100 pseudo-random inputs, before and
after; a difference in any byte is an error.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import kprune
from kprune import flatbuffer, tflm
from kprune.arena import arena

SAMPLES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    rows = [row(path) for path in sorted(args.folder.glob("*.tflite"))]
    print(f"{'file':34} {'bytes':>8} {'repacked':>8} {'change':>8} {'constants':>9}  outputs")
    for r in rows:
        change = r["repacked"] / r["bytes"] - 1
        print(
            f"{r['file']:34} {r['bytes']:8} {r['repacked']:8} {change:8.1%} {r['constants']:9}"
            f"  {r['differing']} of {r['compared']} values differ"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if any(r["differing"] for r in rows):
        raise SystemExit("repacking changed an output")


def row(path: Path) -> dict:
    content = path.read_bytes()
    small = kprune.repack(content)
    network = flatbuffer.read(content)
    inputs, before = tflm.golden_vectors(content, SAMPLES)
    pairs = [(before, kprune.run_tflite(small, inputs, "tflm"))]
    pairs.append((kprune.run_tflite(content, inputs), kprune.run_tflite(small, inputs)))
    assert arena(network).head == arena(flatbuffer.read(small)).head
    return {
        "file": path.name,
        "bytes": len(content),
        "repacked": len(small),
        "constants": sum(t.data.nbytes for t in network.tensors if t.data is not None),
        "compared": sum(a.size for a, _ in pairs),
        "differing": int(sum(np.count_nonzero(a != b) for a, b in pairs)),
    }


if __name__ == "__main__":
    main()
