"""Scores and limits → the 0/1 gates with the best scores that keep within all limits."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from kprune.channels import Trace
from kprune.cost import KINDS, Cost
from kprune.errors import BudgetError

# Layers are compared by (score per cost) ** EXPONENT.
EXPONENT = 0.5
# How often, at most, the channels are walked, each time with other prices of the limits; how fast
# the price of a limit falls that is not reached; and from which share on it counts as reached.
ROUNDS = 6
FALL = 4.0
REACHED = 0.99
# A channel that takes nothing of any limit counts as one that takes this share, not zero.
NOTHING = 1e-12


def project(
    trace: Trace,
    cost: Cost,
    limits: Mapping[str, float],
    scores: np.ndarray,
    round_to: int = 1,
) -> np.ndarray:
    """Open the channels that are worth most, as far as every limit allows.

    Each layer keeps its best channel. Then all channels are walked from the best to the worst,
    and each one that still fits is opened. So no limit is ever exceeded, and what remains below
    the limits is less than any closed channel would add.

    What several limits make of a channel is the sum of what it takes of each. If one of them is
    not reached it was too dear, as the others stop the walk: it is made cheaper, and the walk
    repeated. Where RAM is limited there is one more walk, that begins with the same share of every
    layer: what one is wider than its neighbours is lost to them.
    Of all walks the one counts that keeps most: MACs times every cost that is limited.

    Args:
        trace: The network.
        cost: Its cost.
        limits: Kind of cost -> greatest value allowed.
        scores: One number per channel, larger is better, shape `(trace.num_channels,)`.
        round_to: Channels of one class are opened this many at a time, so that layers keep
            multiples of it, or all that they have.

    Returns:
        The gates, boolean, shape `(trace.num_channels,)`.

    Raises:
        BudgetError: Not even one channel (or `round_to`) per layer fits; says the least that can
            be reached.

    Source:
        Everett, Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation
        of Resources, Operations Research 1963 (a price per limit, zero where it is not reached).
    """
    walks = _priced_walks(trace, cost, limits, scores, round_to)
    if "ram_bytes" in limits:
        walks.append(_walk_in_step(trace, cost, limits, scores, round_to))

    def kept(gates: np.ndarray) -> int:
        total = cost.total(gates)
        return math.prod(total[kind] for kind in {"macs", *limits})

    return max(walks, key=kept)


def cheapest(
    trace: Trace, cost: Cost, limits: Mapping[str, float], round_to: int = 1
) -> np.ndarray:
    """The gates of the least network: one channel (or `round_to`) per layer, the least expensive.

    Raises:
        BudgetError: Even this exceeds a limit.
    """
    shares = cost.shares(limits)
    expense = _expense(trace, shares, dict.fromkeys(shares, 1.0))
    gates = _Blocks(trace, cost, -expense, round_to).least()
    total = cost.total(gates)
    beyond = [kind for kind, limit in limits.items() if total[kind] > limit]
    if beyond:
        unit = "One channel" if round_to == 1 else f"A block of round_to={round_to} channels"
        raise BudgetError(
            "Budget out of reach: "
            + "; ".join(
                f"{KINDS[k]} asked {int(limits[k]):,}, least possible {total[k]:,}" for k in beyond
            )
            + f". {unit} per layer is the least that can be kept (kprune.summary tells what is "
            "held back and why). Ask for more, or start from a smaller network."
        )
    return gates


def _priced_walks(
    trace: Trace, cost: Cost, limits: Mapping[str, float], scores: np.ndarray, round_to: int
) -> list[np.ndarray]:
    """The gates of each walk: the first at equal prices, the others cheapen what is left over."""
    shares = cost.shares(limits)
    prices = dict.fromkeys(shares, 1.0)
    walks: list[np.ndarray] = []
    for _ in range(ROUNDS):
        worth = _worth(cost, _expense(trace, shares, prices), scores)
        walks.append(_walk(trace, cost, limits, worth, round_to))
        if len(shares) < 2:
            break
        total = cost.total(walks[-1])
        used = {kind: total[kind] / limits[kind] for kind in shares}
        is_same = len(walks) > 1 and np.array_equal(walks[-2], walks[-1])
        if is_same or min(used.values()) > REACHED:
            break
        prices = {k: p * (used[k] / max(used.values())) ** FALL for k, p in prices.items()}
    return walks


def _expense(
    trace: Trace, shares: Mapping[str, np.ndarray], prices: Mapping[str, float]
) -> np.ndarray:
    """What each channel takes of the limits, every limit at its price; never zero."""
    paid = (price * shares[kind] for kind, price in prices.items())
    return np.maximum(sum(paid, start=np.zeros(trace.num_channels)), NOTHING)


def _worth(cost: Cost, expense: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What ranks the channels: by score within a class, by the root of score per cost between them.

    The scores of a layer add up to much the same in every layer, so that a channel of a wide layer
    has a small one. Compared as they are, they would close the wide layers almost wholly.

    Source:
        Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic
        Flow, NeurIPS 2020 (conservation, layer collapse); the root is chosen by measurement.
    """
    level = (np.bincount(cost.classes, scores) / np.bincount(cost.classes))[cost.classes]
    level = np.maximum(level, np.finfo(float).tiny)
    return scores / level * (level / expense) ** EXPONENT


def _standing(cost: Cost, scores: np.ndarray) -> np.ndarray:
    """The place of each channel in its class, from 1 for the best to almost 0."""
    order, rank = _ranked(cost.classes, scores)
    sizes = np.bincount(cost.classes)[cost.classes]
    standing = np.empty(len(scores))
    standing[order] = (sizes[order] - rank) / sizes[order]
    return standing


def _ranked(classes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions by class and then the best first, and the place of each in its class, from 0."""
    order = np.lexsort((-values, classes))
    sizes = np.bincount(classes)
    return order, np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


class _Blocks:
    """Channels that are opened together: `round_to` of one class, the best first.

    A block is worth the mean of its channels, so within a class the ranking opens them in order.
    """

    def __init__(self, trace: Trace, cost: Cost, worth: np.ndarray, round_to: int) -> None:
        self.trace, self.cost, self.round_to = trace, cost, round_to
        free = np.flatnonzero(trace.free)
        order, rank = _ranked(cost.classes[free], worth[free])
        order = free[order]
        first = np.flatnonzero(rank % round_to == 0)
        length = np.diff(np.r_[first, len(order)])
        mean = np.add.reduceat(worth[order], first) / length if len(first) else np.empty(0)
        ranking = np.argsort(-mean, kind="stable")
        self.worth = mean[ranking]
        self._first = order[first[ranking]]
        self.classes = cost.classes[self._first]
        # For each channel the number of its block, or else of one that never opens.
        self._of = np.full(trace.num_channels, len(ranking))
        self._of[order] = np.repeat(np.argsort(ranking), length)

    def open(self, gates: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
        """A gate vector with these blocks open, too."""
        opened = np.zeros(len(self._first) + 1, bool)
        opened[numbers] = True
        return gates | opened[self._of]

    def closed(self, gates: np.ndarray) -> np.ndarray:
        """The numbers of the blocks that are not open, the best first."""
        return np.flatnonzero(~gates[self._first])

    def least(self) -> np.ndarray:
        """Only what must stay, and the worthiest block of each layer that would have none."""
        gates = ~self.trace.free
        for _, channels in self.trace.makers:
            if not gates[channels].any():
                gates = self.open(gates, self._of[channels].min())
        return gates


def _walk(
    trace: Trace, cost: Cost, limits: Mapping[str, float], worth: np.ndarray, round_to: int
) -> np.ndarray:
    """The gates when every block that fits is opened, the worthiest first."""
    blocks = _Blocks(trace, cost, worth, round_to)
    return _filled(blocks.least(), blocks, limits)


def _walk_in_step(
    trace: Trace, cost: Cost, limits: Mapping[str, float], scores: np.ndarray, round_to: int
) -> np.ndarray:
    """The gates with the greatest share of every layer that fits, and then whatever else does."""
    blocks = _Blocks(trace, cost, _standing(cost, scores), round_to)
    least = blocks.least()
    widest = int(np.bincount(cost.classes).max())
    # How many blocks stand high enough for one part in `widest` of each layer, for two, ...
    counts = np.searchsorted(-blocks.worth, (np.arange(widest) + 0.5) / widest - 1, side="right")

    def opened(parts: int) -> np.ndarray:
        return blocks.open(least, np.arange(counts[parts - 1])) if parts else least

    most = _greatest(lambda parts: cost.fits(opened(parts), limits), widest)
    return _filled(opened(most), blocks, limits)


def _filled(gates: np.ndarray, blocks: _Blocks, limits: Mapping[str, float]) -> np.ndarray:
    """The gates with every block opened that still fits, in the order of the ranking.

    Gates that do not fit themselves are given up for those of the cheapest network.
    """
    if not blocks.cost.fits(gates, limits):
        gates = cheapest(blocks.trace, blocks.cost, limits, blocks.round_to)
    waiting = blocks.closed(gates)
    opened = 0
    while len(waiting):
        fitting = _longest_fitting(gates, blocks, limits, waiting)
        gates = blocks.open(gates, waiting[:fitting])
        opened += fitting
        # What does not fit, nor do its like: opening channels makes the others dearer.
        refused = blocks.classes[waiting[fitting : fitting + 1]]
        waiting = waiting[fitting + 1 :]
        waiting = waiting[~np.isin(blocks.classes[waiting], refused)]
        if not len(waiting) and opened:
            # Hardly ever is that not so: a planner may find a better layout for a larger buffer.
            waiting, opened = blocks.closed(gates), 0
    return gates


def _longest_fitting(
    gates: np.ndarray, blocks: _Blocks, limits: Mapping[str, float], waiting: np.ndarray
) -> int:
    """How many blocks, from the start of `waiting`, can be opened together."""
    return _greatest(
        lambda count: blocks.cost.fits(blocks.open(gates, waiting[:count]), limits), len(waiting)
    )


def _greatest(fits: Callable[[int], bool], most: int) -> int:
    """The greatest number that fits, of those up to `most`; 0 if 1 does not.

    Doubling first, then bisection: near the limit it is mostly none.
    """
    good, bad = 0, 1
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
