"""The planned arena against TensorFlow Lite Micro's recording allocator.

    python benchmarks/arena.py FOLDER [--random 500] [--json FILE]

FOLDER holds `.tflite` files, such as the int8 networks of MLPerf Tiny; beside them random
networks are built. The plan of the activations must equal the allocator's head, and the bound on
the interpreter's records must hold; by how much it is too high is printed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import flatbuffer_zoo

from kprune import arena, flatbuffer, tflm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", type=int, default=500, metavar="N")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    files = [row(path.name, path.read_bytes()) for path in sorted(args.folder.glob("*.tflite"))]
    print(
        f"{'network':32} {'head':>7} {'planned':>7} {'tail':>7} {'bound':>7} {'32-bit total':>12}"
    )
    for r in files:
        print(
            f"{r['network']:32} {r['head']:7} {r['planned_head']:7} {r['tail']:7}"
            f" {r['tail_bound']:7} {r['total']:7}"
        )
    randoms = [
        row(f"random {seed}", flatbuffer_zoo.random_network(seed, 1 + seed % 30))
        for seed in range(args.random)
    ]
    rows = files + randoms
    wrong = [r for r in rows if r["head"] != r["planned_head"] or r["tail"] > r["tail_bound"]]
    excess = [r["tail_bound"] / r["tail"] - 1 for r in rows]
    print(
        f"{len(rows)} networks, {len(wrong)} wrong; records over by {min(excess):.1%} to", end=" "
    )
    print(f"{max(excess):.1%}, mean {sum(excess) / len(excess):.1%}")
    if args.json:
        args.json.write_text(
            json.dumps({"files": files, "random": summary(randoms)}, indent=1) + "\n"
        )
    if wrong:
        raise SystemExit(f"wrong: {wrong}")


def row(name: str, content: bytes) -> dict:
    network = flatbuffer.read(content)
    recorded = tflm.record_allocations(content)
    return {
        "network": name,
        "head": recorded["head"],
        "planned_head": arena.plan(network).peak,
        "tail": recorded["tail"],
        "tail_bound": arena.tail_bytes(network, pointer_bytes=8),
        "total": arena.arena(network).total,
    }


def summary(rows: list[dict]) -> dict:
    return {
        "networks": len(rows),
        "heads_equal": sum(r["head"] == r["planned_head"] for r in rows),
        "tails_within_bound": sum(r["tail"] <= r["tail_bound"] for r in rows),
    }


if __name__ == "__main__":
    main()
