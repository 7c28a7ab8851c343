"""How long tracing, masking and slimming take, in units of building the model.

    python -m benchmarks.tracing [NETWORK ...]

By default the network with the most layers and that with the most weights. One run each, after a
small network has warmed up the libraries. Written to `benchmarks/results/tracing.json`.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import kprune
from benchmarks.networks import build, keyword_spotting
from kprune.channels import trace
from tests.zoo import close_at_random

JSON = Path(__file__).resolve().parent / "results/tracing.json"
LARGEST = ["NASNetMobile", "VGG16"]


def main() -> None:
    measure(keyword_spotting)
    rows = []
    print(f"{'network':14} {'layers':>6} {'build':>7} {'trace':>6} {'add_masks':>9} {'slim':>5}")
    for name in sys.argv[1:] or LARGEST:
        row = {"network": name, **measure(lambda name=name: build(name))}
        ratios = {k: row[k] / row["build"] for k in ("trace", "add_masks", "slim")}
        print(
            f"{name:14} {row['layers']:6} {row['build']:6.2f}s {ratios['trace']:6.2f} "
            f"{ratios['add_masks']:9.2f} {ratios['slim']:5.2f}",
            flush=True,
        )
        rows.append(row)
    if not sys.argv[1:]:
        JSON.write_text(json.dumps(rows, indent=1) + "\n")


def measure(make: object) -> dict[str, float]:
    """Seconds of each step."""
    times = {}

    def timed(step: str, run: object) -> object:
        start = perf_counter()
        result = run()
        times[step] = round(perf_counter() - start, 3)
        return result

    model = timed("build", make)
    timed("trace", lambda: trace(model))
    masked = timed("add_masks", lambda: kprune.add_masks(model))
    close_at_random(masked)
    timed("slim", lambda: kprune.slim(masked))
    return {"layers": len(model.layers), **times}


if __name__ == "__main__":
    main()
