"""The memory plan: nothing in use is overwritten, and little is wasted."""

import flatbuffer_zoo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kprune import flatbuffer as flatbuffers
from kprune.c.arena import Buffer, peak_bytes, place, plan
from kprune.c.program import lower
from kprune.c.step import Overlap

NETWORKS = flatbuffer_zoo.NETWORKS


@st.composite
def buffer_lists(draw):
    buffers = []
    for _ in range(draw(st.integers(1, 8))):
        first = draw(st.integers(0, 6))
        last = first + draw(st.integers(0, 3))
        buffers.append(Buffer(4 * draw(st.integers(1, 12)), first, last))
    return buffers


def together(a: Buffer, b: Buffer) -> bool:
    return a.first <= b.last and b.first <= a.last


@settings(max_examples=60)
@given(buffer_lists())
def test_buffers_in_use_together_lie_apart(buffers):
    offsets = place(buffers)

    for i, a in enumerate(buffers):
        for j in range(i):
            b = buffers[j]
            apart = offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
            assert apart or not together(a, b)


@settings(max_examples=60)
@given(buffer_lists())
def test_a_plan_is_as_large_as_the_busiest_step_at_least(buffers):
    offsets = place(buffers)
    height = max(o + b.size for o, b in zip(offsets, buffers, strict=True))

    assert peak_bytes(buffers) <= height <= sum(b.size for b in buffers)


def test_the_search_beats_placing_the_largest_first():
    # Largest first puts 12 at 0 and 8 behind it; then neither 4 finds a gap below 20.
    buffers = [Buffer(8, 0, 1), Buffer(12, 1, 2), Buffer(8, 2, 3), Buffer(12, 3, 4)]

    offsets = place(buffers)

    assert max(o + b.size for o, b in zip(offsets, buffers, strict=True)) == peak_bytes(buffers)


def test_an_output_may_trail_behind_its_input():
    buffers = [Buffer(100, 0, 1), Buffer(100, 1, 2)]

    assert place(buffers, {(0, 1): Overlap(12)}) == [12, 0]


def test_an_output_may_be_exactly_in_place():
    buffers = [Buffer(100, 0, 1), Buffer(100, 1, 2)]

    assert place(buffers, {(0, 1): Overlap(0, 0)}) == [0, 0]


def test_an_input_that_is_read_later_is_not_overwritten():
    buffers = [Buffer(100, 0, 2), Buffer(100, 1, 2)]

    offsets = place(buffers, {(0, 1): Overlap(0)})

    assert abs(offsets[0] - offsets[1]) >= 100


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_need_no_more_than_their_busiest_step_and_a_kilobyte(name):
    memory = plan(lower(flatbuffers.read(NETWORKS[name]())))

    assert memory.size <= memory.peak + 1024


def test_a_plan_is_the_same_every_time():
    program = lower(flatbuffers.read(NETWORKS["residual_network"]()))

    assert plan(program) == plan(program)


def test_a_convolution_needs_two_rows_more_than_its_input():
    """3 x 3, same size in and out: its outputs trail two rows and a pixel behind."""
    net = flatbuffer_zoo.Builder()
    flatbuffer = net.build(net.conv2d(net.input((1, 16, 16, 8)), 8))

    memory = plan(lower(flatbuffers.read(flatbuffer)))
    scratch = 8 * 3 * 3 * 8 + 3

    assert memory.size <= 16 * 16 * 8 + 2 * 16 * 8 + 2 * 8 + scratch + 8


def test_overlap_of_a_window_is_the_least_that_keeps_what_it_reads():
    """By brute force: replay the reads and writes of small convolutions at every distance."""
    random = np.random.default_rng(0)
    for _ in range(30):
        net = flatbuffer_zoo.Builder(int(random.integers(1000)))
        height, width, channels = (int(n) for n in random.integers(1, 7, 3))
        strides, kernel = (int(n) for n in random.integers(1, 4, 2))
        x = net.input((1, height, width, channels))
        filters = int(random.integers(1, 9))
        flatbuffer = net.build(net.conv2d(x, filters, kernel, strides))
        (layer,) = lower(flatbuffers.read(flatbuffer)).layers
        (overlap,) = layer.step.overlaps.values()

        distances = range(-height * width * channels, 300)
        safe = [d for d in distances if not _clobbers(d, net, x, filters, kernel, strides)]

        assert overlap.least == safe[0]
        assert set(range(safe[0], 300)) == set(safe)


def _clobbers(distance: int, net, x: int, filters: int, kernel: int, strides: int) -> bool:
    """Whether an output `distance` bytes in front of its input overwrites what is still read."""
    _, height, width, channels = net.shape(x)
    rows, columns = -(-height // strides), -(-width // strides)
    top = max((rows - 1) * strides + kernel - height, 0) // 2
    left = max((columns - 1) * strides + kernel - width, 0) // 2
    written = -distance  # relative to the input; everything below is overwritten
    for y in range(rows):
        for x_ in range(columns):
            written += filters
            first_row, first_column = max(y * strides - top, 0), max(x_ * strides - left, 0)
            if written > (first_row * width + first_column) * channels:
                return True
    return False
