"""The memory plan: nothing in use is overwritten, and little is wasted."""

import flatbuffer_zoo
import numpy as np
import pytest

from kprune import flatbuffer as flatbuffers
from kprune.c.arena import plan
from kprune.c.program import lower

NETWORKS = flatbuffer_zoo.NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_need_no_more_than_their_busiest_step_and_a_kilobyte(name):
    memory = plan(lower(flatbuffers.read(NETWORKS[name]())))

    assert memory.size <= memory.peak + 1024


def test_an_input_that_is_read_later_is_not_overwritten():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 8, 8, 4))
    program = lower(flatbuffers.read(net.build(net.add(x, net.conv2d(x, 4)))))

    memory = plan(program)
    read, written = (program.layers[0].reads[0], program.layers[0].writes[0])

    assert abs(memory.tensors[read] - memory.tensors[written]) >= 8 * 8 * 4


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
