"""Before the first step: what a network costs, what is asked, and what can be reached at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np
from rich import box
from rich.console import Group as Rows
from rich.table import Table

from kprune.boards import BOARDS, Board
from kprune.budget import Budget, room_on
from kprune.channels import Trace
from kprune.cost import KINDS, MEMORY, Cost
from kprune.errors import BudgetError
from kprune.projection import cheapest


@dataclass(frozen=True)
class Feasibility:
    """What a budget asks of a network, and what is possible.

    Attributes:
        full: Cost of the network with all channels, by kind.
        limits: The greatest cost that the budget allows, for the kinds that it states.
        least: Cost of the least network that can be reached, by kind.
        fixed: What must stay -> why. Groups of channels by the layer that makes them.
        boards: Name of a board -> whether it has room for the network "now", within a "budget"
            that limits flash or RAM, and at its "least possible". Only boards that have no room
            now and may have some later.
        unknown: Why flash and RAM are not known; empty if they are.
        uncounted: Layers whose MACs are not known, and count as 0.
    """

    full: Mapping[str, int]
    limits: Mapping[str, int]
    least: Mapping[str, int]
    fixed: Mapping[str, str]
    boards: Mapping[str, Mapping[str, bool]]
    unknown: str = ""
    uncounted: Sequence[str] = ()

    def __rich__(self) -> Rows:
        parts: list[Table | str] = [_cost_table(self)]
        if self.unknown:
            parts.append(f"flash and RAM are unknown: {self.unknown}")
        if self.uncounted:
            parts.append(f"MACs unknown, counted as 0: {', '.join(self.uncounted)}")
        if self.fixed:
            parts.append("stays whole:")
            parts += [f"  {name}: {why}" for name, why in self.fixed.items()]
        if self.boards:
            parts.append(_board_table(self.boards))
        return Rows(*parts)


def assess(trace: Trace, cost: Cost, budget: Budget, round_to: int = 1) -> Feasibility:
    """Find out whether a budget can be met, and what it opens.

    Args:
        trace: The network.
        cost: Its cost, at least of the kinds that the budget states.
        budget: What may be kept.
        round_to: As for `project`.

    Raises:
        BudgetError: The least network exceeds a limit.
    """
    full = cost.total(np.ones(trace.num_channels, bool))
    limits = budget.limits(full)
    least = cost.total(cheapest(trace, cost, limits, round_to))
    # The ends of a network have to stay, and everybody knows.
    ends = ("input of the model", "output of the model")
    fixed = {g.name: g.reason for g in trace.groups if g.reason and g.reason not in ends}
    boards = _boards(full, limits, least)
    return Feasibility(full, limits, least, fixed, boards, uncounted=trace.uncounted)


def assess_memory(trace: Trace, budget: Budget, round_to: int = 1) -> Feasibility:
    """As `assess`, with flash and RAM as far as the network runs in int8."""
    try:
        return assess(trace, Cost(trace, MEMORY), budget, round_to)
    except BudgetError:
        raise
    except Exception as error:  # Whatever conversion says; a table must not end the fit.
        return replace(assess(trace, Cost(trace), budget, round_to), unknown=_brief(error))


def _brief(error: Exception) -> str:
    """What went wrong, in one line; Keras hands a reason on at the end."""
    reason = str(error).split("Exception encountered: ")[-1]
    return shorten(reason, 300, placeholder=" ...") or type(error).__name__


def _boards(
    full: Mapping[str, int], limits: Mapping[str, int], least: Mapping[str, int]
) -> dict[str, dict[str, bool]]:
    if not set(MEMORY) <= set(full):
        return {}
    stages = {"now": full, "budget": {**full, **limits}, "least possible": least}
    if not set(MEMORY) & set(limits):
        del stages["budget"]
    fits = {
        row.name: {stage: _has_room(row, size) for stage, size in stages.items()}
        for row in BOARDS.values()
        if row.ram_bytes
    }
    return {name: each for name, each in fits.items() if any(each.values()) and not each["now"]}


def _has_room(row: Board, size: Mapping[str, int]) -> bool:
    return all(size[kind] <= room for kind, room in room_on(row).items())


def _cost_table(found: Feasibility) -> Table:
    table = Table(box=box.SIMPLE, title="kprune: what is asked, and what is possible")
    table.add_column("")
    for heading in ("now", "budget", "least possible"):
        table.add_column(heading, justify="right")
    for kind, full in found.full.items():
        limit = found.limits.get(kind)
        asked = "" if limit is None else f"{limit:,} ({limit / full:.1%})"
        least = f"{found.least[kind]:,} ({found.least[kind] / full:.1%})"
        table.add_row(KINDS[kind], f"{full:,}", asked, least)
    return table


def _board_table(boards: Mapping[str, Mapping[str, bool]]) -> Table:
    table = Table(box=box.SIMPLE, title="boards that a smaller network opens")
    table.add_column("board")
    for stage in next(iter(boards.values())):
        table.add_column(stage, justify="right")
    for name, each in boards.items():
        table.add_row(name, *("fits" if fits else "too small" for fits in each.values()))
    return table
