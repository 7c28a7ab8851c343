"""What `benchmarks.cifar` has found, as Markdown: a table for each network and budget."""

from collections.abc import Sequence

import numpy as np

from benchmarks.selection_report import show

NAMES = {
    "dense": "dense",
    "kprune": "kprune",
    "kprune, later": "kprune, `Schedule(start=0.2, end=0.6)`",
    "kprune, nothing handed on": "kprune, nothing handed on",
    "kprune, later, nothing handed on": "kprune, `Schedule(start=0.2, end=0.6)`, nothing handed on",
    "magnitude": "kprune, magnitude",
    "uniform": "uniform width",
    "torch-pruning": "Torch-Pruning, all layers at once",
    "torch-pruning by layer": "Torch-Pruning, layer by layer",
}


def report(rows: list[dict], setting: Sequence[str]) -> None:
    """Print the tables; `setting` names what all rows of a table have in common."""

    def key(row: dict) -> tuple:
        return tuple(row[part] for part in setting)

    for asked in dict.fromkeys(tuple(row["budget"].items()) for row in rows if row["budget"]):
        budget = dict(asked)
        for shared in dict.fromkeys(key(row) for row in rows if row["budget"] == budget):
            same = [row for row in rows if key(row) == shared]
            print(table([row for row in same if row["budget"] in ({}, budget)], budget))


def table(rows: list[dict], budget: dict) -> str:
    """A line per method: mean ± deviation over the seeds, how far below dense, what is kept."""
    asked = ", ".join(f"{kind}={share}" for kind, share in budget.items())
    lines = [
        f"| {_title(rows[0])}: `{asked}` | accuracy, % | below dense | MACs | parameters |",
        "| --- |" + " ---: |" * 4,
    ]
    for method, name in NAMES.items():
        found = [row for row in rows if row["method"] == method]
        if not found:
            continue
        mean = _means(found)
        # Of the same seeds: a method may have been run with fewer.
        seeds = {row["seed"] for row in found}
        dense = [r for r in rows if r["method"] == "dense" and r["seed"] in seeds]
        below = 100 * (_means(dense)["accuracy"] - mean["accuracy"]) if dense else None
        lines.append(
            f"| {name} | {show([row['accuracy'] for row in found])} "
            f"| {'' if below is None else f'{below:.1f}'} "
            f"| {mean['macs_kept']:.1%} | {mean['params_kept']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def _title(row: dict) -> str:
    width = "" if row["width"] == 1 else f" at {row['width']:g} of its width"
    images = f"{row['train']:,} images" if row["train"] else "all images"
    return f"{row['network']}{width}, {images}, {row['epochs']} epochs, batches of {row['batch']}"


def _means(rows: list[dict]) -> dict[str, float]:
    kinds = ("accuracy", "macs_kept", "params_kept")
    return {kind: float(np.mean([row[kind] for row in rows])) for kind in kinds}
