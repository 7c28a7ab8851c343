"""Program → memory plan: an offset in one RAM buffer for every activation and scratch area.

Two buffers that are in use at the same step lie apart, unless the step allows its output to grow
over an input that nothing reads later: exactly in its place, or trailing behind the reads of a
sliding window. Finding the smallest plan is a packing problem without a fast exact method; many
orders of first-fit placement are tried, always the same ones, and the best is kept.
"""

import dataclasses
import math
import random
from collections.abc import Sequence

import numpy as np

from kprune.c.program import Program
from kprune.c.step import Overlap

# Kernels take any address, but word loads from even words are faster on real memories.
_ALIGNMENT = 4
_TRIES = 400


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Memory needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where everything lies.

    Attributes:
        size: Bytes of the arena.
        peak: Bytes that activations need at the busiest step if none overlaps: what a plan without
            overlaps can at best reach.
        tensors: Offset by owning tensor.
        scratch: Offset by step.
        busiest: The step that reaches the end of the arena.
    """

    size: int
    peak: int
    tensors: dict[int, int]
    scratch: dict[int, int]
    busiest: int


def plan(program: Program) -> Plan:
    """Lay out the activations of a program, its inputs and outputs included.

    The caller may hand in an input at the input's offset and fetch an output at the output's,
    or use buffers of its own; float inputs and outputs are always buffers of its own.
    """
    buffers = _tensor_buffers(program)
    keys: list[tuple[str, int]] = [("tensor", tensor) for tensor in buffers]
    sizes = list(buffers.values())
    for number, layer in enumerate(program.layers):
        if layer.step.scratch_bytes:
            keys.append(("scratch", number))
            sizes.append(Buffer(_aligned(layer.step.scratch_bytes), number, number))
    overlaps = {}
    for layer in program.layers:
        for source, overlap in layer.step.overlaps.items():
            if source in buffers and layer.writes[0] in buffers:
                pair = (keys.index(("tensor", source)), keys.index(("tensor", layer.writes[0])))
                overlaps[pair] = overlap
    offsets = place(sizes, overlaps)
    ends = [offset + buffer.size for offset, buffer in zip(offsets, sizes, strict=True)]
    size = max(ends, default=0)
    placed = dict(zip(keys, offsets, strict=True))
    busiest = sizes[ends.index(size)].first if ends else 0
    return Plan(
        size,
        peak_bytes(list(buffers.values())),
        {index: offset for (kind, index), offset in placed.items() if kind == "tensor"},
        {index: offset for (kind, index), offset in placed.items() if kind == "scratch"},
        max(busiest, 0),
    )


def peak_bytes(buffers: Sequence[Buffer]) -> int:
    """The most bytes in use at once: no plan without overlaps is smaller."""
    steps = range(-1, max((buffer.last for buffer in buffers), default=0) + 1)
    return max(sum(b.size for b in buffers if b.first <= step <= b.last) for step in steps)


def place(
    buffers: Sequence[Buffer], overlaps: dict[tuple[int, int], Overlap] | None = None
) -> list[int]:
    """Offsets for buffers, so that those in use together lie apart or overlap as allowed.

    Args:
        buffers: Sizes are multiples of 4.
        overlaps: By pair of input and output. Only counts where the input's last step is the
            output's first.

    Returns:
        One offset per buffer, the same for the same arguments.

    Example:
        >>> place([Buffer(8, 0, 1), Buffer(4, 1, 2), Buffer(8, 2, 3)])
        [0, 8, 0]
        >>> place([Buffer(8, 0, 1), Buffer(8, 1, 2)], {(0, 1): Overlap(4)})
        [4, 0]
    """
    packing = _Packing(buffers, overlaps or {})
    indices = range(len(buffers))
    orders = [
        sorted(indices, key=lambda i: (-buffers[i].size, i)),
        sorted(indices, key=lambda i: (buffers[i].first, -buffers[i].size)),
        sorted(indices, key=lambda i: (-buffers[i].last, -buffers[i].size)),
        sorted(indices, key=lambda i: (buffers[i].first - buffers[i].last, -buffers[i].size)),
    ]
    order = min(orders, key=lambda order: packing.height(packing.first_fit(order)))
    best = packing.first_fit(order)
    choices = random.Random(0)
    for _ in range(_TRIES if len(buffers) > 2 else 0):
        # Move one buffer to another turn; keep what is no worse, to walk along plateaus.
        changed = list(order)
        changed.insert(choices.randrange(len(changed)), changed.pop(choices.randrange(len(order))))
        offsets = packing.first_fit(changed)
        if packing.height(offsets) <= packing.height(best):
            best, order = offsets, changed
    return best


class _Packing:
    """The constraints between buffers, and placement in a given order."""

    def __init__(self, buffers: Sequence[Buffer], overlaps: dict[tuple[int, int], Overlap]) -> None:
        self.buffers = buffers
        # By buffer: every other in use at the same time, with the allowed distances behind it.
        self.others: list[list[tuple[int, float, float]]] = [[] for _ in buffers]
        for i, a in enumerate(buffers):
            for j, b in enumerate(buffers):
                if i == j or a.first > b.last or b.first > a.last:
                    continue
                low, high = 1.0, 0.0  # of the offset of i less the offset of j: none
                if (i, j) in overlaps and a.last == b.first:
                    low, high = _bounds(overlaps[i, j])
                elif (j, i) in overlaps and b.last == a.first:
                    low, high = _bounds(overlaps[j, i])
                    low, high = -high, -low
                self.others[i].append((j, low, high))

    def height(self, offsets: Sequence[int]) -> int:
        return max(
            (offset + buffer.size for offset, buffer in zip(offsets, self.buffers, strict=True)),
            default=0,
        )

    def first_fit(self, order: Sequence[int]) -> list[int]:
        offsets = [-1] * len(self.buffers)
        for index in order:
            placed = [
                (offsets[j], self.buffers[j].size, low, high)
                for j, low, high in self.others[index]
                if offsets[j] >= 0
            ]
            offsets[index] = _lowest(self.buffers[index].size, placed)
        return offsets


def _bounds(overlap: Overlap) -> tuple[float, float]:
    return math.ceil(overlap.least / _ALIGNMENT) * _ALIGNMENT, overlap.most


def _lowest(size: int, placed: Sequence[tuple[int, int, float, float]]) -> int:
    """The lowest offset that suits all placed buffers: (offset, size, allowed distances)."""
    candidates = {0}
    for offset, length, low, high in placed:
        candidates.add(offset + length)
        if low <= high and low > -math.inf:
            candidates.add(max(0, offset + int(low)))
    for candidate in sorted(candidates):
        if all(
            candidate >= offset + length
            or candidate + size <= offset
            or low <= candidate - offset <= high
            for offset, length, low, high in placed
        ):
            return candidate
    raise AssertionError("the end of the last placed buffer always fits")


def _tensor_buffers(program: Program) -> dict[int, Buffer]:
    """By owning tensor, where it is int8: its size and the steps between its first and last use."""
    first = {program.owners[tensor.index]: -1 for tensor in program.inputs}
    last = dict(first)
    for number, layer in enumerate(program.layers):
        for tensor in (*layer.reads, *layer.writes):
            first.setdefault(tensor, number)
            last[tensor] = number
    for output in program.outputs:
        last[program.owners[output.index]] = len(program.layers)
    return {
        tensor: Buffer(_aligned(program.tensors[tensor].num_bytes), first[tensor], last[tensor])
        for tensor in first
        if program.tensors[tensor].dtype == np.int8
    }


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
