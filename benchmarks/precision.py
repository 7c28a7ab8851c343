"""How exactly a budget is met: reached against asked, over networks, kinds of cost and budgets.

    python -m benchmarks.precision [--json FILE]

No training: channels get random scores, which spread the open gates as no training would, and are
projected as `PruneCallback` does. What is reached must not exceed what is asked, and what is left
over must be less than the cheapest closed channel would cost. Budgets below the least network are
refused.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import kprune
from benchmarks.networks import OTHERS, build
from kprune.channels import Trace, trace
from kprune.cost import COUNTED, KINDS, Cost
from kprune.projection import project

# Flash and RAM take a conversion to int8: they are asked of the networks of microcontrollers.
LARGE = ("MobileNetV2", "ResNet50")
NETWORKS = [*OTHERS, *LARGE]
SHARES = (0.5, 0.25, 0.1, 0.05)
SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    rows = [row for name in NETWORKS for row in measure(name)]
    for row in rows:
        print(line(row))
    print(conclusion(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(name: str) -> list[dict]:
    """Every kind of cost alone, then all of them at once, under each share."""
    found = trace(kprune.add_masks(build(name)))
    known = COUNTED if name in LARGE else tuple(KINDS)
    cost = Cost(found, known)
    return [
        {"network": name, "kinds": list(kinds), "share": share, **asked(found, cost, kinds, share)}
        for kinds in [*((kind,) for kind in known), known]
        for share in SHARES
    ]


def asked(found: Trace, cost: Cost, kinds: tuple[str, ...], share: float) -> dict:
    original = cost.total(np.ones(found.num_channels, bool))
    limits = kprune.Budget(**dict.fromkeys(kinds, share)).limits(original)
    trials = []
    for seed in range(SEEDS):
        scores = np.random.default_rng(seed).random(found.num_channels)
        try:
            gates = project(found, cost, limits, scores)
        except kprune.BudgetError:
            return {"refused": True}
        trials.append(judged(found, cost, limits, gates))
    return {
        "refused": False,
        "exceeded": sum(trial["exceeded"] for trial in trials),
        "could_reopen": sum(trial["could_reopen"] for trial in trials),
        "largest_gap": max(trial["gap"] for trial in trials),
    }


def judged(found: Trace, cost: Cost, limits: dict[str, int], gates: np.ndarray) -> dict:
    """`gap`: what is left of the limit that is nearest, as a share of it."""
    total = cost.total(gates)
    closed = np.flatnonzero(found.free & ~gates)
    # Channels of one class cost the same: one of each class stands for all.
    ones = closed[np.unique(cost.classes[closed], return_index=True)[1]]
    return {
        "exceeded": any(total[kind] > limit for kind, limit in limits.items()),
        "could_reopen": any(cost.fits(opened(gates, one), limits) for one in ones),
        "gap": min((limit - total[kind]) / limit for kind, limit in limits.items()),
    }


def opened(gates: np.ndarray, channel: int) -> np.ndarray:
    wider = gates.copy()
    wider[channel] = True
    return wider


def line(row: dict) -> str:
    head = f"{row['network']:32} {', '.join(row['kinds']):38} {row['share']:5.0%}  "
    if row["refused"]:
        return head + "below the least network: refused"
    return head + f"at most {row['largest_gap']:.3%} of the budget left over"


def conclusion(rows: list[dict]) -> str:
    met = [row for row in rows if not row["refused"]]
    gaps = [row["largest_gap"] for row in met]
    return (
        f"{len(met) * SEEDS} projections: {sum(r['exceeded'] for r in met)} above the budget, "
        f"{sum(r['could_reopen'] for r in met)} in which a closed channel would still fit; left "
        f"over: median {np.median(gaps):.3%}, at most {max(gaps):.2%} of the budget. "
        f"{len(rows) - len(met)} budgets refused."
    )


if __name__ == "__main__":
    main()
