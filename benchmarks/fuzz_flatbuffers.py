"""Damaged flatbuffers into every command that reads one: an error message, no crash and no hang.

    python benchmarks/fuzz_flatbuffers.py [--inputs 100000] [--seed 0] [--json FILE] [FOLDER]

Small networks, and the `.tflite` files of FOLDER if given, are cut short, have bits flipped, bytes
and words replaced, parts moved about and copied over others; some inputs are random from the start.
Each goes into `inspect`, `repack`, `to-c-array` and `to-c`: through `main`, in this process. One in
2000 goes into those that start others (a compiler, an interpreter, Keras), in a process of its own.

Allowed are exit code 0 with nothing on stderr, and exit code 2 with one message that begins with
"kprune: ". Anything else is counted and shown, as is whatever takes longer than ten seconds or more
than 2 GiB (a process of its own: a minute of processor time). What was repacked must be readable.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import flatbuffer_zoo

from kprune import flatbuffer
from kprune.cli import main as kprune_main

SECONDS, SECONDS_APART = 10, 60
MEMORY_BYTES = 2 * 2**30
EVERY = 2000
WORDS = [0, 1, 4, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1]

# They run in a folder with the damaged file, net.tflite.
COMMANDS = {
    "inspect": "inspect net.tflite",
    "repack": "repack net.tflite -o repacked.tflite",
    "to-c-array": "to-c-array net.tflite -o array",
    "to-c": "to-c net.tflite -o code",
}
COMMANDS_APART = {
    "inspect --plot": "inspect net.tflite --plot arena.svg",
    "to-c-array --measure-arena": "to-c-array net.tflite --measure-arena -o array",
    "to-c-array --with-test-data": "to-c-array net.tflite --with-test-data 2 -o array",
    "firmware": "firmware net.tflite --board nucleo_f446re -o project",
    "validate": "validate model.keras net.tflite --data x.npy",
}

# What `validate` compares a file with; its flatbuffer is among those that are damaged.
PAIR = """
import keras, kprune, numpy as np
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
layers = [keras.layers.Conv2D(3, 3), keras.layers.Flatten(), keras.layers.Dense(4)]
model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
model.save("model.keras")
np.save("x.npy", x)
open("pair.tflite", "wb").write(kprune.to_tflite(model, x))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    args = parser.parse_args()
    files = [build() for build in flatbuffer_zoo.NETWORKS.values()]
    files += [flatbuffer_zoo.random_network(seed) for seed in range(5)]
    if args.folder:
        files += [path.read_bytes() for path in sorted(args.folder.glob("*.tflite"))]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        subprocess.run([sys.executable, "-c", PAIR], check=True, capture_output=True)
        files.append(Path("pair.tflite").read_bytes())
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, -1))
        counts, slowest = run(files, args.inputs, random.Random(args.seed))
    report = {
        "inputs": args.inputs,
        "outcomes": {" ".join(key): counts[key] for key in sorted(counts)},
        "slowest_s": round(slowest, 3),
        "faults": sum(n for (_, outcome), n in counts.items() if outcome.startswith("FAULT")),
    }
    for outcome, count in report["outcomes"].items():
        print(f"{outcome:46} {count:8}")
    print(f"{args.inputs} inputs, slowest {slowest:.2f} s, {report['faults']} faults")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(bool(report["faults"]))


def run(files: list[bytes], count: int, rng: random.Random) -> tuple[Counter, float]:
    """Damage files and try the commands on them, in the current folder.

    Returns:
        How often each command came to each outcome, and the seconds of the slowest in this process.
    """
    signal.signal(signal.SIGALRM, _too_long)
    counts: Counter = Counter()
    slowest = 0.0
    for i in range(count):
        Path("net.tflite").write_bytes(damage(rng, rng.choice(files)))
        tried = [(name, try_here(line)) for name, line in COMMANDS.items()]
        slowest = max(slowest, *(seconds for _, (_, seconds) in tried))
        if i % EVERY == 0:
            tried += [(name, try_apart(line)) for name, line in COMMANDS_APART.items()]
        for name, (outcome, _) in tried:
            counts[name, outcome.splitlines()[0]] += 1
            if outcome.startswith("FAULT"):
                print(f"input {i}, {name}: {outcome}", file=sys.stderr)
    return counts, slowest


def try_here(line: str) -> tuple[str, float]:
    """What a command comes to in this process, and the seconds it takes."""
    said = io.StringIO()
    start = time.perf_counter()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = kprune_main(line.split())
            if line.startswith("repack") and code == 0:
                flatbuffer.read(Path("repacked.tflite").read_bytes())
        outcome = _outcome(code, said.getvalue())
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        outcome = f"FAULT {type(error).__name__}\n{traceback.format_exc(limit=-4)}"
    finally:
        signal.alarm(0)
    return outcome, time.perf_counter() - start


def try_apart(line: str) -> tuple[str, float]:
    """The same in a process of its own, as from a shell."""
    start = time.perf_counter()
    # Importing JAX sets it for this process and its children, and TensorFlow then says more.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    try:
        result = subprocess.run(
            [sys.executable, "-m", "kprune", *line.split()],
            capture_output=True,
            text=True,
            env=environment,
            timeout=30 * SECONDS_APART,  # On a busy machine most of the time goes to others.
            preexec_fn=_set_limits_apart,
        )
    except subprocess.TimeoutExpired as error:
        return f"FAULT {type(error).__name__}", time.perf_counter() - start
    return _outcome(result.returncode, result.stderr), time.perf_counter() - start


def _set_limits_apart() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_APART, SECONDS_APART))


def _outcome(code: int, said: str) -> str:
    if code == 0 and not said:
        return "result"
    if code == 2 and said.startswith("kprune: ") and "Traceback" not in said:
        return "message"
    return f"FAULT exit code {code}\n{said}"


def damage(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(DAMAGES)(rng, bytearray(content))


def _flip_bits(rng: random.Random, content: bytearray) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4, 16, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _replace_bytes(rng: random.Random, content: bytearray) -> bytes:
    for _ in range(rng.choice([1, 2, 8])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _replace_words(rng: random.Random, content: bytearray) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = 4 * rng.randrange(2, len(content) // 4)
        word = rng.choice([*WORDS, rng.randrange(len(content)), len(content) - place])
        content[place : place + 4] = word.to_bytes(4, "little")
    return bytes(content)


def _truncate(rng: random.Random, content: bytearray) -> bytes:
    return bytes(content[: rng.randrange(len(content))])


def _copy_part(rng: random.Random, content: bytearray) -> bytes:
    size = rng.randrange(1, min(len(content), 256))
    source, target = (rng.randrange(len(content) - size) for _ in range(2))
    content[target : target + size] = content[source : source + size]
    return bytes(content)


def _drop_part(rng: random.Random, content: bytearray) -> bytes:
    place = rng.randrange(len(content))
    del content[place : place + rng.randrange(1, 64)]
    return bytes(content)


def _random_bytes(rng: random.Random, content: bytearray) -> bytes:
    head = rng.choice([b"", content[:8], content[:64]])
    return bytes(head) + rng.randbytes(rng.randrange(512))


DAMAGES = [
    _flip_bits,
    _replace_bytes,
    _replace_words,
    _truncate,
    _copy_part,
    _drop_part,
    _random_bytes,
]


class TooLong(BaseException):
    """Not an error that a command might answer."""


def _too_long(*_: object) -> None:
    raise TooLong(f"no answer within {SECONDS} seconds")


if __name__ == "__main__":
    main()
