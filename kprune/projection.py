"""Scores and limits → the 0/1 gates with the best scores that keep within all limits."""

from collections.abc import Mapping

import numpy as np

from kprune.channels import Trace
from kprune.cost import KINDS, Cost
from kprune.errors import BudgetError

# A channel is ranked by score / (what it costs) ** EXPONENT.
EXPONENT = 0.5


def project(
    trace: Trace, cost: Cost, limits: Mapping[str, float], scores: np.ndarray
) -> np.ndarray:
    """Open the channels that are worth most, as far as every limit allows.

    Each layer keeps its best channel. Then all channels are walked from the best to the worst,
    and each one that still fits is opened. So no limit is ever exceeded, and what remains below
    the limits is less than any closed channel would add.

    Args:
        trace: The network.
        cost: Its cost.
        limits: Kind of cost -> greatest value allowed.
        scores: One number per channel, larger is better, shape `(trace.num_channels,)`.

    Returns:
        The gates, boolean, shape `(trace.num_channels,)`.

    Raises:
        BudgetError: Not even one channel per layer fits; says the least that can be reached.
    """
    expense = _expense(trace, cost, limits)
    gates = _least(trace, scores / expense**EXPONENT)
    if not _fits(cost, limits, gates):
        gates = cheapest(trace, cost, limits)
    candidates = np.flatnonzero(trace.free & ~gates)
    ranking = candidates[np.argsort(-(scores / expense**EXPONENT)[candidates], kind="stable")]
    while len(ranking):
        ranking = ranking[_fits_alone(cost, limits, gates, ranking)]
        fitting = _longest_fitting(cost, limits, gates, ranking)
        gates[ranking[:fitting]] = True
        # What does not fit now never will: opening channels only makes the others dearer.
        ranking = ranking[fitting + 1 :]
    return gates


def cheapest(trace: Trace, cost: Cost, limits: Mapping[str, float]) -> np.ndarray:
    """The gates of the least network: one channel per layer, the least expensive.

    Raises:
        BudgetError: Even this exceeds a limit.
    """
    gates = _least(trace, -_expense(trace, cost, limits))
    total = cost.total(gates)
    beyond = [kind for kind, limit in limits.items() if total[kind] > limit]
    if beyond:
        raise BudgetError(
            "Budget out of reach: "
            + "; ".join(
                f"{KINDS[k]} asked {int(limits[k]):,}, least possible {total[k]:,}" for k in beyond
            )
            + ". One channel per layer is the least that can be kept (kprune.summary tells what is "
            "held back and why). Ask for more, or start from a smaller network."
        )
    return gates


def _least(trace: Trace, worth: np.ndarray) -> np.ndarray:
    """Only what must stay, and the worthiest channel of each layer that would have none."""
    gates = ~trace.free
    for _, channels in trace.makers:
        if not gates[channels].any():
            gates[channels[np.argmax(worth[channels])]] = True
    return gates


def _expense(trace: Trace, cost: Cost, limits: Mapping[str, float]) -> np.ndarray:
    """What a channel costs in the whole network, in shares of the limits, never zero."""
    added = cost.increase(np.ones(trace.num_channels, bool))
    share = sum(added[kind] / limit for kind, limit in limits.items())
    return np.maximum(share, np.finfo(float).tiny)


def _fits(cost: Cost, limits: Mapping[str, float], gates: np.ndarray) -> bool:
    total = cost.total(gates)
    return all(total[kind] <= limit for kind, limit in limits.items())


def _fits_alone(
    cost: Cost, limits: Mapping[str, float], gates: np.ndarray, channels: np.ndarray
) -> np.ndarray:
    """For each of these closed channels: could it be opened, if no other were?"""
    total, added = cost.total(gates), cost.increase(gates)
    rooms = [total[kind] + added[kind][channels] <= limit for kind, limit in limits.items()]
    return np.all(rooms, axis=0)


def _longest_fitting(
    cost: Cost, limits: Mapping[str, float], gates: np.ndarray, ranking: np.ndarray
) -> int:
    """How many channels, from the start of the ranking, can be opened together (by bisection)."""
    fits, too_many = 0, len(ranking) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        trial = gates.copy()
        trial[ranking[:middle]] = True
        if _fits(cost, limits, trial):
            fits = middle
        else:
            too_many = middle
    return fits
