"""Program → memory plan: an offset in one RAM buffer for every activation and scratch area.

Two buffers that are in use at the same step lie apart, unless the step allows its output to grow
over an input that nothing reads later: exactly in its place, or trailing behind the reads of a
sliding window.
"""

import dataclasses
import math

import numpy as np

from kprune.c.program import Program
from kprune.c.step import Overlap
from kprune.packing import Buffer, Distances, height, pack, peak_bytes

# Kernels take any address, but word loads from even words are faster on real memories.
_ALIGNMENT = 4


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
    shared = {}
    for layer in program.layers:
        for source, overlap in layer.step.overlaps.items():
            if source in buffers and layer.writes[0] in buffers:
                read, written = (
                    keys.index(("tensor", tensor)) for tensor in (source, layer.writes[0])
                )
                # What is read later still must stay.
                if sizes[read].last == sizes[written].first:
                    shared[read, written] = _distances(overlap)
    offsets = pack(sizes, shared)
    size = height(sizes, offsets)
    placed = dict(zip(keys, offsets, strict=True))
    ends = [offset + buffer.size for offset, buffer in zip(offsets, sizes, strict=True)]
    busiest = sizes[ends.index(size)].first if ends else 0
    return Plan(
        size,
        peak_bytes(list(buffers.values())),
        {index: offset for (kind, index), offset in placed.items() if kind == "tensor"},
        {index: offset for (kind, index), offset in placed.items() if kind == "scratch"},
        max(busiest, 0),
    )


def _distances(overlap: Overlap) -> Distances:
    """How far the input may lie behind the output."""
    return math.ceil(overlap.least / _ALIGNMENT) * _ALIGNMENT, overlap.most


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
