"""Commands on flatbuffers: none of them loads Keras or TensorFlow."""

import argparse
from pathlib import Path

import kprune
from kprune.cli.inputs import read_flatbuffer
from kprune.cli.registry import code_arguments, command, say, write_output


def _to_c_array_arguments(parser: argparse.ArgumentParser) -> None:
    code_arguments(parser)
    parser.add_argument("--style", default="tflm", choices=("tflm", "arduino", "xxd"))
    parser.add_argument("--labels", help="names of the classes, separated by commas")
    parser.add_argument(
        "--with-test-data",
        type=int,
        default=0,
        metavar="N",
        help="add N inputs with the outputs a device must give (needs kprune[tflm])",
    )
    parser.add_argument(
        "--measure-arena",
        action="store_true",
        help="measure the arena with TensorFlow Lite Micro instead of predicting it",
    )


@command(
    "to-c-array",
    "write a flatbuffer as a C array, for TensorFlow Lite Micro",
    "kprune to-c-array gesture.tflite --name gesture -o firmware/",
    _to_c_array_arguments,
)
def _to_c_array(args: argparse.Namespace) -> dict:
    labels = args.labels.split(",") if args.labels else ()
    flatbuffer = read_flatbuffer(args.flatbuffer)
    arena, test_data = None, None
    if args.measure_arena or args.with_test_data:
        from kprune import tflm

        arena = tflm.measure_arena(flatbuffer) if args.measure_arena else None
        if args.with_test_data:
            test_data = tflm.golden_vectors(flatbuffer, args.with_test_data)
    files = kprune.to_c_array(
        flatbuffer,
        args.name or args.flatbuffer.stem,
        args.style,
        labels,
        arena=arena,
        test_data=test_data,
    )
    paths = [str(path) for path in kprune.write_files(files, args.output)]
    say(args, "\n".join(paths))
    return {"files": paths, "bytes": len(flatbuffer)}


@command(
    "to-c",
    "write a flatbuffer as stand-alone C, no interpreter needed",
    "kprune to-c gesture.tflite --name gesture -o firmware/",
    code_arguments,
)
def _to_c(args: argparse.Namespace) -> dict:
    files = kprune.to_c(read_flatbuffer(args.flatbuffer), args.name or args.flatbuffer.stem)
    paths = [str(path) for path in kprune.write_files(files, args.output)]
    say(args, "\n".join(paths))
    return {"files": paths}


def _repack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("flatbuffer", type=Path, help="a .tflite file, of any origin")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .tflite to write")


@command(
    "repack",
    "drop from a flatbuffer what no runtime reads",
    "kprune repack model.tflite -o smaller.tflite",
    _repack_arguments,
)
def _repack(args: argparse.Namespace) -> dict:
    before = read_flatbuffer(args.flatbuffer)
    after = kprune.repack(before)
    write_output(args.output, after)
    say(args, f"{args.output}: {len(before):,} → {len(after):,} bytes")
    return {"output": str(args.output), "bytes_before": len(before), "bytes_after": len(after)}


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("flatbuffer", type=Path, help="a .tflite file")
    parser.add_argument("--plot", type=Path, help="draw who holds the arena when (.png, .svg)")


@command(
    "inspect",
    "what a flatbuffer needs: MACs, RAM over time, flash by part, which boards have it",
    "kprune inspect gesture.tflite --plot arena.png",
    _inspect_arguments,
)
def _inspect(args: argparse.Namespace) -> dict:
    found = kprune.inspect(read_flatbuffer(args.flatbuffer))
    if args.plot:
        from kprune.inspection import plot_arena

        plot_arena(found, args.plot)
    say(args, found)
    return found.to_dict()
