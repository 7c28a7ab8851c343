"""Commands on Keras models. Keras is loaded when one of them runs, not before."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import kprune
from kprune.cli.registry import command, say


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("kprune-demo"), help="the folder to write to"
    )


@command(
    "demo",
    "handwritten digits, from training to a verified C array, in a few minutes",
    "kprune demo -o kprune-demo",
    _demo_arguments,
)
def _demo(args: argparse.Namespace) -> dict:
    from rich.console import Console

    _keras()
    from kprune.demo import run_demo

    return run_demo(args.output, None if args.json else Console())


def _summary_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .keras file: slim, masked or plain")
    parser.add_argument("--baseline", type=Path, help="the .keras file that it came from")


@command(
    "summary",
    "what each layer of a network keeps, and what is held back and why",
    "kprune summary slim.keras --baseline model.keras",
    _summary_arguments,
)
def _summary(args: argparse.Namespace) -> dict:
    model = _load(args.model)
    baseline = _load(args.baseline) if args.baseline else None
    from kprune import report

    if not args.json:
        report.summary(model, baseline)
    found = report.profile(model)
    return {
        "total": found.total,
        "layers": [vars(layer) for layer in found.layers],
        "groups": [
            {"makers": g.makers, "channels": len(g.channels), "kept": kept, "reason": g.reason}
            for g, kept in found.groups
        ],
    }


def _slim_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a masked .keras file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .keras file to write")


@command(
    "slim",
    "remove the closed channels of a masked network for good",
    "kprune slim masked.keras -o slim.keras",
    _slim_arguments,
)
def _slim(args: argparse.Namespace) -> dict:
    masked = _load(args.model)
    small = kprune.slim(masked)
    _save(small, args.output)
    counts = {"params_before": masked.count_params(), "params_after": small.count_params()}
    say(args, f"{args.output}: {small.count_params():,} weights")
    return {"output": str(args.output), **counts}


def _to_tflite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .keras file of plain layers")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="some 100 inputs like those the network will see: .npy of shape (samples, ...), or "
        ".npz with one array per input, in their order",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .tflite to write")


@command(
    "to-tflite",
    "quantise a network to int8",
    "kprune to-tflite slim.keras --data calibration.npy -o gesture.tflite",
    _to_tflite_arguments,
)
def _to_tflite(args: argparse.Namespace) -> dict:
    data = _load_arrays(args.data)
    flatbuffer = kprune.to_tflite(_load(args.model), data)
    kprune.write_files({args.output.name: flatbuffer}, args.output.parent)
    say(args, f"{args.output}: {len(flatbuffer):,} bytes")
    return {"output": str(args.output), "bytes": len(flatbuffer)}


def _load(path: Path) -> Any:
    # Before Keras is loaded, for the answer to come at once.
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}. Expected a model saved by Keras (.keras).")
    return _keras().models.load_model(path, compile=False)


def _keras() -> Any:
    from kprune.quiet import quiet

    # TensorFlow introduces itself and the graphics cards that it did not find.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import keras
    return keras


def _save(model: Any, path: Path) -> None:
    if path.suffix != ".keras":
        raise ValueError(f"The output must be a .keras file, got {path}.")
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / path.name)
        kprune.write_files({path.name: (Path(folder) / path.name).read_bytes()}, path.parent)


def _load_arrays(path: Path) -> Any:
    import numpy as np

    try:
        data = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy or .npz file of numbers: {error}") from error
    return data if isinstance(data, np.ndarray) else [data[name] for name in data.files]
