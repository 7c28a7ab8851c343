"""What is kept, layer by layer: as data, as a table, as a picture."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from kprune.channels import Group, Trace, trace
from kprune.cost import COUNTED, KINDS, MEMORY, Cost, elements
from kprune.ids import core
from kprune.masking import read_gates


@dataclass(frozen=True)
class LayerProfile:
    """One layer that has weights: its name, output channels, parameters and MACs."""

    name: str
    channels: int
    params: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Profile:
    """A network as it would be with its closed channels removed.

    Attributes:
        layers: Every layer that has weights, in order.
        groups: Every group of channels: kept, made, and why nothing can be removed ("" if it can).
        total: Kind of cost -> value.
        uncounted: Layers whose MACs are not known, and count as 0.
    """

    layers: list[LayerProfile]
    groups: list[tuple[Group, int]]
    total: dict[str, int]
    uncounted: Sequence[str] = ()


def profile(
    model: keras.Model, gates: np.ndarray | None = None, kinds: Iterable[str] = COUNTED
) -> Profile:
    """Count what each layer keeps.

    Args:
        model: A Sequential or functional model, masked or not.
        gates: A gate vector; by default that of the model.
        kinds: As for `Cost`.
    """
    found = trace(model)
    live = read_gates(found) if gates is None else gates
    groups = [(group, int(live[group.channels].sum())) for group in found.groups]
    total = Cost(found, kinds).total(live)
    return Profile(_layers(found, live), groups, total, found.uncounted)


def summary(model: keras.Model, baseline: keras.Model | None = None, memory: bool = False) -> None:
    """Print what each layer has, next to what it had, and what is held back and why.

    Args:
        model: A slim, masked or plain model. Closed channels of a masked one count as removed.
        baseline: The model that it came from. Without it, a masked model is compared with itself
            when all its gates are open.
        memory: Also tell flash (the int8 file) and RAM (TensorFlow Lite Micro's arena), as a budget
            counts them. Takes a conversion of each network, some seconds.

    Raises:
        TypeError, ValueError, UnsupportedLayerError: As `add_masks`.
        UnsupportedOpError: With `memory`, as `to_tflite`.

    Example:
        >>> inputs = keras.Input((4,))
        >>> summary(keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs), name="small"))
        small
        ...
    """
    kinds = KINDS if memory else COUNTED
    now = profile(model, kinds=kinds)
    before = _before(model, kinds) if baseline is None else profile(baseline, kinds=kinds)
    console = Console()
    console.print(_layer_table(model.name, now, before))
    if now.uncounted:
        console.print(f"MACs unknown, counted as 0: {', '.join(now.uncounted)}\n")
    console.print(_group_table(now, before))


def _before(model: keras.Model, kinds: Iterable[str]) -> Profile:
    found = trace(model)
    return profile(model, np.ones(found.num_channels, bool), kinds)


def _layers(found: Trace, live: np.ndarray) -> list[LayerProfile]:
    names = found.graph.names
    made = {names[id(call.operation)]: _first(flow.output) for call, flow in found.steps}
    rows: dict[str, LayerProfile] = {}
    for element in elements(found):
        name = element.layer
        pairs = int(np.prod([live[side].sum() for side in element.sides], dtype=int))
        row = rows.get(name, LayerProfile(name, int(live[core(made[name])].sum())))
        rows[name] = replace(
            row, params=row.params + element.params * pairs, macs=row.macs + element.macs * pairs
        )
    return list(rows.values())


def _first(output: np.ndarray | list[np.ndarray]) -> np.ndarray:
    return output[0] if isinstance(output, list) else output


def _layer_table(name: str, now: Profile, before: Profile) -> Table:
    """Layers that compute, a line each; what only scales (BatchNorm) in one line together."""
    table = Table(title=name, box=box.SIMPLE)
    table.add_column("layer")
    for heading in ("channels", "parameters", "MACs"):
        table.add_column(heading, justify="right")
    old = {row.name: row for row in before.layers}
    rest, old_rest = 0, 0
    for row in now.layers:
        was = old.get(row.name, row)
        if row.macs:
            table.add_row(
                row.name,
                _kept(row.channels, was.channels),
                _kept(row.params, was.params),
                _kept(row.macs, was.macs),
            )
        else:
            rest, old_rest = rest + row.params, old_rest + was.params
    table.add_row("others", "", _kept(rest, old_rest), "", end_section=True)
    total, was_total = now.total, before.total
    table.add_row("total", "", *(_kept(total[k], was_total[k]) for k in ("params", "macs")))
    rates = (f"{total[k] / was_total[k]:.1%}" if was_total[k] else "" for k in ("params", "macs"))
    table.add_row("kept", "", *rates)
    for kind in MEMORY:
        if kind in total:
            table.add_row(KINDS[kind], "", "", _kept(total[kind], was_total[kind]))
    return table


def _group_table(now: Profile, before: Profile) -> Table:
    table = Table(title="channels that stand and fall together", box=box.SIMPLE)
    table.add_column("made by", overflow="fold")
    table.add_column("kept", justify="right")
    table.add_column("why all are kept", overflow="fold")
    made = {group.makers: kept for group, kept in before.groups}
    for group, kept in now.groups:
        was = made.get(group.makers, len(group.channels))
        table.add_row(", ".join(group.makers), _kept(kept, was), group.reason)
    return table


def _kept(now: int, before: int) -> str:
    return f"{now:,}" if now == before else f"{now:,} of {before:,}"


def plot_run(
    history: Mapping[str, Sequence[float]], now: Profile, before: Profile, path: str | os.PathLike
) -> None:
    """Draw a training run: rates and accuracy over the epochs, channels kept per group.

    Args:
        history: `History.history` of the fit: name -> one value per epoch.
        now: The network after training.
        before: The network with all channels open.
        path: Image file to write; the suffix says the format.
    """
    import matplotlib.figure

    # A figure of its own, not pyplot's: no window, no global state, works without a display.
    figure = matplotlib.figure.Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_epochs(left, history)
    _draw_groups(right, now, before)
    figure.savefig(path, dpi=120)


def _draw_epochs(axes: Any, history: Mapping[str, Sequence[float]]) -> None:
    lines = {f"{kind}_rate": f"{words} kept" for kind, words in KINDS.items()}
    lines["val_accuracy"] = "accuracy on held-out data"
    for key, label in lines.items():
        if key in history:
            axes.plot(range(1, len(history[key]) + 1), history[key], label=label)
    axes.set(title="One training run", xlabel="epoch", ylabel="share", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_groups(axes: Any, now: Profile, before: Profile) -> None:
    made = {group.makers: kept for group, kept in before.groups}
    rows = [(g, kept, made.get(g.makers, kept)) for g, kept in now.groups]
    labels = [g.name if len(g.makers) == 1 else f"{g.name} … {g.makers[-1]}" for g, _, _ in rows]
    axes.barh(labels, [was for _, _, was in rows], color="0.88", label="before")
    axes.barh(
        labels,
        [kept for _, kept, _ in rows],
        color=["0.55" if not g.prunable else "tab:blue" for g, _, _ in rows],
        label="kept",
    )
    for row, (_, kept, was) in enumerate(rows):
        axes.text(was, row, f" {_kept(kept, was)}", va="center")
    axes.set(title="Channels kept per group (grey: must stay)", xlabel="channels")
    axes.margins(x=0.2)
    axes.invert_yaxis()
