"""How fast the commands that only read a file answer, beside `xxd -i` and an idle Python.

    python benchmarks/startup.py FILE.tflite [--repeat 15] [--json FILE]

Each line is the median of fresh processes, run in turn so that a busy moment hits all alike, and
its ratio to `python -c pass` in the same run. "import" loads the function, "run" also calls it.
TensorFlow must not be loaded: the last lines name what heavy modules were.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HEAVY = ("tensorflow", "keras", "matplotlib", "rich", "scipy", "sklearn")
FUNCTIONS = {
    "to_c_array": "kprune.to_c_array(content, 'net')",
    "inspect": "str(kprune.inspect(content))",
    "repack": "kprune.repack(content)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    commands = {
        "python -c pass": python("pass"),
        "python -c 'import numpy'": python("import numpy"),
    }
    if shutil.which("xxd"):
        commands["xxd -i"] = ["xxd", "-i", str(args.file)]
    load = f"import pathlib, kprune; content = pathlib.Path({str(args.file)!r}).read_bytes(); "
    for name, call in FUNCTIONS.items():
        commands[f"{name}, import"] = python(f"import kprune; kprune.{name}")
        commands[f"{name}, run"] = python(load + call)
    times = measure(commands, args.repeat)
    base = times["python -c pass"]
    for name, seconds in times.items():
        print(f"{name:28} {1000 * seconds:8.1f} ms {seconds / base:6.1f} x")
    heavy = {name: loaded(load + call) for name, call in FUNCTIONS.items()}
    for name, modules in heavy.items():
        print(f"{name:28} loads {', '.join(modules) or 'none'} of {', '.join(HEAVY)}")
    if args.json:
        ratios = {name: round(seconds / base, 2) for name, seconds in times.items()}
        result = {"file_bytes": args.file.stat().st_size, "times_of_idle_python": ratios}
        args.json.write_text(json.dumps({**result, "heavy_modules": heavy}, indent=1) + "\n")
    if any("tensorflow" in modules for modules in heavy.values()):
        raise SystemExit("TensorFlow was loaded")


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def measure(commands: dict[str, list[str]], repeat: int) -> dict[str, float]:
    """Median seconds of each command; the first round only warms the file cache."""
    rounds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeat + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rounds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in rounds.items()}


def loaded(program: str) -> list[str]:
    report = f"; import sys; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    result = subprocess.run(python(program + report), check=True, capture_output=True, text=True)
    return result.stdout.split()


if __name__ == "__main__":
    main()
