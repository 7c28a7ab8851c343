"""What `benchmarks.selection` has found: a table, a plot, and the figures behind both."""

import json
from pathlib import Path

import numpy as np

RESULTS = Path("benchmarks/results/selection.json")
PLOT = Path("docs/selection.png")

PLOTTED = {
    "keywords": "keywords, DS-CNN",
    "fashion": "Fashion-MNIST, small VGG",
    "cifar": "CIFAR-10 (JPEG), ResNet-8",
}
TITLES = PLOTTED | {
    f"{task}, longer": f"{title}, three times the epochs" for task, title in PLOTTED.items()
}
METHODS = {
    "dense": "dense",
    "taylor": "kprune, taylor",
    "learned": "kprune, learned",
    "magnitude": "kprune, magnitude",
    "uniform": "uniform width",
    "torch-pruning magnitude": "Torch-Pruning, magnitude",
    "torch-pruning magnitude by layer": "Torch-Pruning, magnitude, layer by layer",
    "torch-pruning taylor": "Torch-Pruning, taylor",
    "tfmot": "tfmot, single weights",
    "taylor, distilled": "kprune, taylor, distilled",
}


def report(rows: list[dict]) -> None:
    """Write figures and plot, and print the tables."""
    cells = [
        summarize(task, method, kept, found)
        for task in TITLES
        for method in METHODS
        for kept in sorted({row["kept"] for row in rows}, reverse=True)
        if (found := [row for row in rows if cell_of(row) == (task, method, kept)])
    ]
    RESULTS.write_text(json.dumps(cells, indent=1) + "\n")
    for task in TITLES:
        print(table(task, cells))
    plot(cells)


def cell_of(row: dict) -> tuple[str, str, float]:
    return row["task"], row["method"], row["kept"]


def summarize(task: str, method: str, kept: float, rows: list[dict]) -> dict:
    accuracy = [row["accuracy"] for row in sorted(rows, key=lambda row: row["seed"])]
    # Rows that were measured beside others, or on another day, tell no time.
    seconds = [row["cpu_seconds"] for row in rows if "cpu_seconds" in row]
    return {
        "task": task,
        "method": method,
        "kept": kept,
        "accuracy": accuracy,
        "mean": round(float(np.mean(accuracy)), 4),
        "deviation": round(float(np.std(accuracy, ddof=1)), 4) if len(accuracy) > 1 else None,
        "macs_kept": [min(r["macs_kept"] for r in rows), max(r["macs_kept"] for r in rows)],
        "params": round(float(np.mean([row["params"] for row in rows]))),
        "cpu_seconds": round(float(np.median(seconds)), 1) if seconds else None,
    }


def table(task: str, cells: list[dict]) -> str:
    """Markdown: a line per method, a column per budget; mean ± deviation (seeds), in percent.

    The last column is the time of a training, over that of the whole network.
    """
    mine = [cell for cell in cells if cell["task"] == task]
    budgets = sorted({cell["kept"] for cell in mine if cell["kept"] < 1}, reverse=True)
    whole = next((show(cell["accuracy"]) for cell in mine if cell["method"] == "dense"), "")
    lines = [
        f"| {TITLES[task]}: dense {whole} | "
        + " | ".join(f"{b:.0%}" for b in budgets)
        + " | time |",
        "| --- |" + " ---: |" * (len(budgets) + 1),
    ]
    for method, name in METHODS.items():
        found = {cell["kept"]: show(cell["accuracy"]) for cell in mine if cell["method"] == method}
        if found and method != "dense":
            shown = " | ".join(found.get(b, "") for b in budgets)
            lines.append(f"| {name} | {shown} | {time_of(method, mine)} |")
    return "\n".join(lines) + "\n"


def time_of(method: str, cells: list[dict]) -> str:
    """Processor seconds of a training, over those of the whole network's; empty if not known."""
    [dense] = (cell["cpu_seconds"] for cell in cells if cell["method"] == "dense")
    mine = [c["cpu_seconds"] for c in cells if c["method"] == method and c["cpu_seconds"]]
    return f"{np.median(mine) / dense:.2f}" if mine else ""


def show(accuracy: list[float]) -> str:
    """Mean ± deviation in percent, and of how many; one alone has no deviation."""
    spread = f" ± {100 * np.std(accuracy, ddof=1):.1f}" if len(accuracy) > 1 else ""
    return f"{100 * np.mean(accuracy):.1f}{spread} ({len(accuracy)})"


def plot(cells: list[dict]) -> None:
    """Accuracy over the share of the multiply-accumulates that is kept, one panel per task."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ticks = sorted({cell["kept"] for cell in cells if cell["kept"] < 1})
    figure, panels = pyplot.subplots(1, len(PLOTTED), figsize=(14, 4), layout="constrained")
    for (task, title), panel in zip(PLOTTED.items(), panels, strict=True):
        for number, (method, name) in enumerate(METHODS.items()):
            mine = [c for c in cells if (c["task"], c["method"]) == (task, method)]
            if not mine:
                continue
            mean = [100 * c["mean"] for c in mine]
            if method == "dense":
                panel.axhline(mean[0], color="black", linestyle=":", label=name)
                continue
            spread = [100 * (c["deviation"] or 0) for c in mine]
            panel.errorbar(
                [c["kept"] for c in mine],
                mean,
                spread,
                color=f"C{number}",
                marker="o",
                markersize=3,
                capsize=2,
                label=name,
            )
        panel.set(title=title, xscale="log", xlabel="multiply-accumulates kept")
        panel.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
        panel.set_xlim(0.8 * ticks[0], 1.25 * ticks[-1])
        panel.minorticks_off()
    panels[0].set_ylabel("test accuracy, %")
    lines = {line.get_label(): line for p in panels for line in p.get_legend_handles_labels()[0]}
    figure.legend(lines.values(), lines.keys(), loc="outside right center")
    figure.savefig(PLOT, dpi=110)
