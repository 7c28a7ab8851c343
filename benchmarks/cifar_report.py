"""What `benchmarks.cifar` has found, as Markdown: a table for each network and budget."""

from collections.abc import Iterable

import numpy as np

NAMES = {
    "dense": "dense",
    "kprune": "kprune",
    "kprune, later": "kprune, `Schedule(start=0.2, end=0.6)`",
    "magnitude": "kprune, magnitude",
    "uniform": "uniform width",
    "torch-pruning": "Torch-Pruning, all layers at once",
    "torch-pruning by layer": "Torch-Pruning, layer by layer",
}
SETTING = ("network", "width", "data", "train", "test", "epochs", "batch", "rate")


def report(rows: list[dict]) -> None:
    """Print the tables."""
    for budget in _once(row["budget"] for row in rows if row["budget"]):
        for setting in _once(_setting(row) for row in rows if row["budget"] == budget):
            same = [row for row in rows if _setting(row) == setting]
            print(table([row for row in same if row["budget"] in ({}, budget)], budget))


def table(rows: list[dict], budget: dict) -> str:
    """A line per method: mean ± deviation over the seeds, how far below dense, what is kept."""
    asked = ", ".join(f"{kind}={share}" for kind, share in budget.items())
    lines = [
        f"| {_title(rows[0])}: `{asked}` | accuracy | below dense | MACs | parameters |",
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
        spread = np.std([row["accuracy"] for row in found], ddof=1) if len(found) > 1 else None
        accuracy = f"{mean['accuracy']:.1%}" + ("" if spread is None else f" ± {100 * spread:.1f}")
        lines.append(
            f"| {name} | {accuracy} ({len(found)}) "
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


def _setting(row: dict) -> tuple:
    return tuple(row[part] for part in SETTING)


def _once(values: Iterable) -> list:
    """Each value once, in the order of its first appearance."""
    found: list = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
