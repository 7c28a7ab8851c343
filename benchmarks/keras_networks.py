"""The MLPerf Tiny networks and the tests' zoo, from Keras to what is linked on a device.

    python -m benchmarks.keras_networks [--json FILE]

Each network, untrained, is converted to int8 and repacked. LiteRT's reference kernels and
TensorFlow Lite Micro run it on 20 pseudo-random inputs before and after repacking: no byte may
change. The planned arena must equal the head of TensorFlow Lite Micro's recording allocator, and
the bound on its records must hold. The resolver must add the operators that LiteRT finds in the
file, and no others. What int8 has no form for must be refused by the name of the layer.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import kprune
from benchmarks.networks import MLPERF_TINY
from kprune import arena, tflm
from kprune.c.resolver import op_resolver
from kprune.flatbuffer import read
from kprune.graph import read_graph
from kprune.network import listed
from kprune.tflite import convert
from tests import zoo

SAMPLES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    heads = ("bytes", "repacked", "changed", "apart", "head", "tail", "operators")
    print(f"{'network':34}" + "".join(f"{head:>10}" for head in heads))
    rows = []
    for name, build in networks().items():
        rows.append({"network": name, **row(build())})
        print(line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = [r["network"] for r in rows if not is_right(r)]
    print(f"{len(rows)} networks, {len(wrong)} wrong")
    if wrong:
        raise SystemExit(f"wrong: {wrong}")


def networks() -> dict[str, Callable[[], keras.Model]]:
    return MLPERF_TINY | {f"zoo: {build.__name__}": build for build in zoo.NETWORKS}


def row(model: keras.Model) -> dict:
    zoo.perturb(model)
    data = keras.tree.flatten(zoo.random_inputs(model, batch=32))
    try:
        kprune.to_tflite(model, data)
    except ValueError as error:
        return {"refused": str(error)}
    content = convert(read_graph(model), data, "int8")
    small = kprune.repack(content)
    network, recorded = read(small), tflm.record_allocations(small)
    return {
        "bytes": len(content),
        "repacked": len(small),
        **compare(content, small),
        "head": recorded["head"],
        "planned_head": arena.plan(network).peak,
        "tail": recorded["tail"],
        "tail_bound": arena.tail_bytes(network, pointer_bytes=8),
        "operators": operators(small),
        "resolved": re.findall(r"resolver\.Add(\w+)\(\);", op_resolver(network, "net")),
    }


def compare(content: bytes, small: bytes) -> dict:
    """Values that repacking changed, and the most steps that the interpreters are apart."""
    rng = np.random.default_rng(0)
    network = read(content)
    shapes = [(SAMPLES, *network.tensors[i].shape[1:]) for i in network.inputs]
    inputs = [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]
    runs = {
        name: [values(c, inputs, name) for c in (content, small)] for name in ("litert", "tflm")
    }
    return {
        "values": sum(before.size for before, _ in runs.values()),
        "changed": sum(int(np.count_nonzero(a != b)) for a, b in runs.values()),
        "most_steps_apart": int(np.abs(runs["litert"][0] - runs["tflm"][0]).max()),
    }


def values(content: bytes, inputs: list[np.ndarray], interpreter: str) -> np.ndarray:
    """All outputs, end to end."""
    found = kprune.run_tflite(content, inputs, interpreter)
    return np.concatenate([output.ravel().astype(int) for output in listed(found)])


def operators(content: bytes) -> list[str]:
    """The kinds of operators, as LiteRT reads them."""
    reference = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=reference)
    interpreter.allocate_tensors()
    return sorted({o["op_name"] for o in interpreter._get_ops_details()})


def is_right(r: dict) -> bool:
    if "refused" in r:
        return re.search(r"layer.* '\w+'|'\w+' \(\w+\)", r["refused"]) is not None
    kinds = [kind.replace("_", "").lower() for kind in r["operators"]]
    return (
        not r["changed"]
        and r["head"] == r["planned_head"]
        and r["tail"] <= r["tail_bound"]
        and sorted(kinds) == sorted(name.lower() for name in r["resolved"])
    )


def line(r: dict) -> str:
    if "refused" in r:
        return f"{r['network']:34}    refused: {shorten(r['refused'], 100)}"
    numbers = [
        f"{r['bytes']:,}",
        f"{r['repacked'] / r['bytes'] - 1:.1%}",
        f"{r['changed']}",
        f"{r['most_steps_apart']}",
        f"{r['head']:,}",
        f"{r['tail_bound'] / r['tail'] - 1:+.1%}",
        f"{len(r['operators'])}",
    ]
    return f"{r['network']:34}" + "".join(f"{n:>10}" for n in numbers)


if __name__ == "__main__":
    main()
