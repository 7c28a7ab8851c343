"""Commands on Keras models. Keras is loaded when one of them runs, not before."""

import argparse
import contextlib
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import kprune
from kprune.cli.arrays import load_arrays, read_arrays
from kprune.cli.inputs import check_input, read_flatbuffer
from kprune.cli.registry import command, say, write_output


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
    parser.add_argument(
        "--memory", action="store_true", help="also flash and RAM; takes some seconds"
    )


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
        report.summary(model, baseline, args.memory)
    found = report.profile(model, kinds=report.KINDS if args.memory else report.COUNTED)
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
        help="some 100 inputs like those the network will see (not needed for float): .npy of "
        "shape (samples, ...), or .npz with one array per input, in their order",
    )
    parser.add_argument(
        "--format", default="int8", choices=("int8", "int16x8", "float"), help="(int8)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .tflite to write")


@command(
    "to-tflite",
    "quantise a network, to int8 or with 16-bit activations, or leave it in float",
    "kprune to-tflite slim.keras --data calibration.npy -o gesture.tflite",
    _to_tflite_arguments,
)
def _to_tflite(args: argparse.Namespace) -> dict:
    data = load_arrays(args.data) if args.data else None
    model = _load(args.model)  # First: the name kprune.to_tflite loads Keras, and not quietly.
    flatbuffer = kprune.to_tflite(model, data, args.format)
    write_output(args.output, flatbuffer)
    say(args, f"{args.output}: {len(flatbuffer):,} bytes")
    return {"output": str(args.output), "bytes": len(flatbuffer)}


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="the .keras file, in float")
    parser.add_argument("flatbuffer", type=Path, help="the .tflite made of it")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="inputs that training has not seen: .npy of shape (samples, ...), or .npz with the "
        "arrays x and y, y being labels",
    )
    parser.add_argument("--plot", type=Path, help="draw the error of every layer (.png, .svg)")


@command(
    "validate",
    "compare int8 with float: accuracy, both interpreters, error by layer",
    "kprune validate slim.keras gesture.tflite --data test.npz",
    _validate_arguments,
)
def _validate(args: argparse.Namespace) -> dict:
    x, y = _load_labelled(args.data)
    flatbuffer = read_flatbuffer(args.flatbuffer)
    model = _load(args.model)  # First, as above.
    found = kprune.validate(model, flatbuffer, x, y)
    if args.plot:
        found.plot(args.plot)
    if not args.json:
        import rich

        rich.print(found)
    return found.to_dict()


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "train",
        type=Path,
        help='a Python file with a function train(prune) -> (masked model, {"accuracy": ...}), '
        "called with a PruneCallback for each budget",
    )
    for field, help in _BUDGETS.items():
        flag = f"--{field.replace('_', '-')}"
        parser.add_argument(flag, type=_amount, nargs="+", default=[], metavar="N", help=help)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the points")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time (1)")


_BUDGETS = {
    "macs": "a budget each: shares to keep (0.25), or absolute numbers",
    "params": "the same for parameters",
    "flash_bytes": 'the same for flash; also as text, "60 KiB"',
    "ram_bytes": "the same for RAM",
    "board": "a budget each: names of boards, whose flash and RAM are to suffice",
}


def _amount(text: str) -> float | int | str:
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


@command(
    "sweep",
    "train under several budgets, and draw accuracy over MACs, flash and RAM",
    "kprune sweep train.py --macs 0.5 0.25 0.1 --board uno_r4 --jobs 2 -o sweep",
    _sweep_arguments,
)
def _sweep(args: argparse.Namespace) -> dict:
    _keras()  # First: the name kprune.Budget loads Keras, and not quietly.
    budgets = [
        kprune.Budget(**{field: value}) for field in _BUDGETS for value in getattr(args, field)
    ]
    points = kprune.sweep(args.train, budgets, args.output, args.jobs)
    for point in points:
        say(args, f"{point['name']}: {point.get('error') or _figures(point)}")
    failed = [point["name"] for point in points if "error" in point]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(points)} points failed: {', '.join(failed)}. Each folder has "
            "an error.txt; the same command tries them again and leaves the others as they are."
        )
    return {"output": str(args.output), "points": points}


def _figures(point: dict) -> str:
    metrics = [f"{name} {value:.4g}" for name, value in point["metrics"].items()]
    costs = [f"{key} {point[key]:,}" for key in ("macs", "params", "file_bytes") if key in point]
    return ", ".join(metrics + costs)


def _load(path: Path) -> Any:
    # Before Keras is loaded, for the answer to come at once.
    check_input(path, "a model saved by Keras (.keras)")
    if path.suffix not in (".h5", ".hdf5"):
        _check_archive(path)
    return _keras().models.load_model(path, compile=False)


def _check_archive(path: Path) -> None:
    """Raises ValueError unless it is a whole `.keras` file: Keras calls a damaged one missing."""
    if path.suffix != ".keras":
        raise ValueError(
            f"{path} is no .keras file. Expected a model saved by Keras, which ends in .keras: "
            'model.save("model.keras").'
        )
    damage = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
    with path.open("rb") as file, contextlib.suppress(*damage), zipfile.ZipFile(file) as archive:
        if "config.json" in archive.namelist() and archive.testzip() is None:
            return
    raise ValueError(
        f"{path} is damaged, cut short or no .keras file. Expected a model saved by Keras: copy it "
        "or save it again."
    )


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
        write_output(path, (Path(folder) / path.name).read_bytes())


def _load_labelled(path: Path) -> tuple[Any, Any]:
    """Inputs and, from an `.npz`, labels; None without."""
    data = read_arrays(path)
    if not isinstance(data, dict):
        return data, None
    if "x" not in data:
        raise ValueError(f"{path} holds the arrays {', '.join(data)}; expected x, and y if known.")
    return data["x"], data.get("y")
