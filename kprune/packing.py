"""Buffers, each with its size and lifetime → offsets in as little memory as can be found.

Packing has no fast exact method. Many orders of first-fit placement are tried, always the same
ones, and the best is kept; the search ends where the busiest step leaves no room for a better one.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence

_TRIES = 400

# Offsets of two buffers in use together that may share bytes: the first less the second is to lie
# between these two numbers, both included.
Distances = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Bytes that must be kept from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: "Buffer") -> bool:
        return self.first <= other.last and other.first <= self.last


def peak_bytes(buffers: Sequence[Buffer]) -> int:
    """The most bytes in use at once: no plan in which buffers lie apart is smaller.

    Example:
        >>> peak_bytes([Buffer(8, 0, 1), Buffer(4, 1, 2), Buffer(8, 2, 3)])
        12
    """
    change: dict[int, int] = {}
    for buffer in buffers:
        change[buffer.first] = change.get(buffer.first, 0) + buffer.size
        change[buffer.last + 1] = change.get(buffer.last + 1, 0) - buffer.size
    held = peak = 0
    for step in sorted(change):
        held += change[step]
        peak = max(peak, held)
    return peak


def height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """Bytes up to the end of the last buffer."""
    return max((o + b.size for o, b in zip(offsets, buffers, strict=True)), default=0)


def pack(
    buffers: Sequence[Buffer], shared: Mapping[tuple[int, int], Distances] | None = None
) -> list[int]:
    """Offsets for buffers, so that those in use together lie apart or share bytes as allowed.

    Args:
        buffers: Offsets are sums of their sizes, and so aligned as these are.
        shared: By pair of positions in `buffers`, the distances at which the two may lie.

    Returns:
        One offset per buffer, the same for the same arguments.

    Example:
        >>> pack([Buffer(8, 0, 1), Buffer(4, 1, 2), Buffer(8, 2, 3)])
        [0, 8, 0]
        >>> pack([Buffer(8, 0, 1), Buffer(8, 1, 2)], {(0, 1): (4, math.inf)})
        [4, 0]
    """
    shared = shared or {}
    packing = _Packing(buffers, shared)
    indices = range(len(buffers))
    orders = [
        sorted(indices, key=lambda i: (-buffers[i].size, i)),
        sorted(indices, key=lambda i: (buffers[i].first, -buffers[i].size)),
        sorted(indices, key=lambda i: (-buffers[i].last, -buffers[i].size)),
        sorted(indices, key=lambda i: (buffers[i].first - buffers[i].last, -buffers[i].size)),
    ]
    order = min(orders, key=lambda order: height(buffers, packing.first_fit(order)))
    best = packing.first_fit(order)
    # Buffers that share bytes can do with less than the busiest step holds.
    least = 0 if shared else peak_bytes(buffers)
    choices = random.Random(0)
    for _ in range(_TRIES if len(buffers) > 2 else 0):
        if height(buffers, best) <= least:
            break
        # Move one buffer to another turn; keep what is no worse, to walk along plateaus.
        changed = list(order)
        changed.insert(choices.randrange(len(changed)), changed.pop(choices.randrange(len(order))))
        offsets = packing.first_fit(changed)
        if height(buffers, offsets) <= height(buffers, best):
            best, order = offsets, changed
    return best


class _Packing:
    """The constraints between buffers, and placement in a given order."""

    def __init__(
        self, buffers: Sequence[Buffer], shared: Mapping[tuple[int, int], Distances]
    ) -> None:
        self.sizes = [buffer.size for buffer in buffers]
        # By buffer: the others in use at the same time that must lie apart, ...
        self.apart: list[list[int]] = [[] for _ in buffers]
        # ... and those that need not, with the allowed distances behind them.
        self.close: list[list[tuple[int, float, float]]] = [[] for _ in buffers]
        for i, j in itertools.permutations(range(len(buffers)), 2):
            if (i, j) in shared:
                self.close[i].append((j, *shared[i, j]))
            elif (j, i) in shared:
                low, high = shared[j, i]
                self.close[i].append((j, -high, -low))
            elif buffers[i].meets(buffers[j]):
                self.apart[i].append(j)

    def first_fit(self, order: Sequence[int]) -> list[int]:
        offsets = [-1] * len(self.sizes)
        for i in order:
            size = self.sizes[i]
            taken = sorted(
                (offsets[j], offsets[j] + self.sizes[j]) for j in self.apart[i] if offsets[j] >= 0
            )
            close = [
                (offsets[j], self.sizes[j], low, high)
                for j, low, high in self.close[i]
                if offsets[j] >= 0
            ]
            offsets[i] = _lowest_close(size, taken, close) if close else lowest(size, taken)
        return offsets


def lowest(size: int, taken: Iterable[tuple[int, int]]) -> int:
    """The start of the lowest gap between pairs of start and end, given in order.

    Example:
        >>> lowest(8, [(0, 4), (8, 12), (24, 28)])
        12
    """
    offset = 0
    for start, end in taken:
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset


def _lowest_close(
    size: int,
    taken: Sequence[tuple[int, int]],
    close: Sequence[tuple[int, int, float, float]],
) -> int:
    """The same beside buffers that may be met: (offset, size, allowed distances)."""
    candidates = {0, *(end for _, end in taken)}
    for offset, length, low, _ in close:
        candidates.add(offset + length)
        if low > -math.inf:
            candidates.add(max(0, offset + int(low)))
    for candidate in sorted(candidates):
        end = candidate + size
        is_apart = all(candidate >= last or end <= first for first, last in taken)
        if is_apart and all(
            candidate >= offset + length or end <= offset or low <= candidate - offset <= high
            for offset, length, low, high in close
        ):
            return candidate
    raise AssertionError("the end of the last placed buffer always fits")
