"""Damaged flatbuffers into everything that reads one: an error message, never a crash or a hang.

    python benchmarks/fuzz_flatbuffers.py [--inputs 100000] [--seed 0] [--json FILE] [FOLDER]

Small networks, and the `.tflite` files of FOLDER if given, are cut short, have bits flipped, bytes
and words replaced, parts moved about and copied over others; some inputs are random from the start.
Each goes through read, repack, to_c_array, to_c and inspect. Allowed are a result and the errors
that a command answers with exit code 2; anything else is counted and shown, as is whatever takes
longer than ten seconds or more than 2 GiB. What was repacked must be readable.
"""

import argparse
import json
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import flatbuffer_zoo

import kprune
from kprune import flatbuffer
from kprune.errors import FlatbufferError, UnsupportedOpError

SECONDS = 10
MEMORY_BYTES = 2 * 2**30
WORDS = [0, 1, 4, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1]
TARGETS: dict[str, Callable[[bytes], object]] = {
    "read": flatbuffer.read,
    "repack": lambda content: flatbuffer.read(kprune.repack(content)),
    "to_c_array": lambda content: kprune.to_c_array(content, "net"),
    "to_c": lambda content: kprune.to_c(content, "net"),
    "inspect": lambda content: (str(kprune.inspect(content)), kprune.inspect(content).to_dict()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    files = [build() for build in flatbuffer_zoo.NETWORKS.values()]
    files += [flatbuffer_zoo.random_network(seed) for seed in range(5)]
    if args.folder:
        files += [path.read_bytes() for path in sorted(args.folder.glob("*.tflite"))]
    counts, slowest, faults = run(files, args.inputs, random.Random(args.seed))
    report = {
        "inputs": args.inputs,
        "outcomes": {" ".join(key): counts[key] for key in sorted(counts)},
        "slowest_s": round(slowest, 3),
        "faults": faults,
    }
    for outcome, count in report["outcomes"].items():
        print(f"{outcome:36} {count:8}")
    print(f"{args.inputs} inputs, slowest {slowest:.2f} s, {faults} faults")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(bool(faults))


def run(files: list[bytes], count: int, rng: random.Random) -> tuple[Counter, float, int]:
    signal.signal(signal.SIGALRM, _too_long)
    counts: Counter = Counter()
    slowest, faults = 0.0, 0
    for i in range(count):
        content = damage(rng, rng.choice(files))
        for name, target in TARGETS.items():
            start = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                target(content)
                outcome = "result"
            except (FlatbufferError, UnsupportedOpError) as error:
                outcome = type(error).__name__
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome, faults = f"FAULT {type(error).__name__}", faults + 1
                print(f"input {i}, {name}:", file=sys.stderr)
                traceback.print_exc(limit=-4)
            finally:
                signal.alarm(0)
            counts[name, outcome] += 1
            slowest = max(slowest, time.perf_counter() - start)
    return counts, slowest, faults


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


def _too_long(*_: object) -> None:
    raise TimeoutError(f"no answer within {SECONDS} seconds")


if __name__ == "__main__":
    main()
