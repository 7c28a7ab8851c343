"""Real values and integer steps, and the networks that `check` lets through."""

import dataclasses

import flatbuffer_zoo
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kprune import flatbuffer
from kprune.errors import FlatbufferError
from kprune.network import (
    Network,
    Operator,
    Tensor,
    check,
    check_counts,
    listed,
    to_real,
    to_steps,
    unlisted,
)

PLAIN = flatbuffer.read(flatbuffer_zoo.plain_network())
DEPTHWISE = flatbuffer.read(flatbuffer_zoo.depthwise_network())
SEVERAL = flatbuffer.read(flatbuffer_zoo.several_network())


def with_operator(network, place, **changes):
    operators = list(network.operators)
    operators[place] = dataclasses.replace(operators[place], **changes)
    return dataclasses.replace(network, operators=tuple(operators))


def with_option(network, place, **options):
    options = {**network.operators[place].options, **options}
    return with_operator(network, place, options=options)


def with_tensor(network, index, **changes):
    tensors = list(network.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **changes)
    return dataclasses.replace(network, tensors=tuple(tensors))


def with_shapes(network, *shapes):
    for index, shape in shapes:
        network = with_tensor(network, index, shape=shape)
    return network


def activation(index, shape=(1, 4), dtype=np.int8):
    none = np.zeros(0)
    return Tensor(index, "", shape, np.dtype(dtype), none, none, 0, None)


def network_of(name, read, written, options=None):
    """One operator that reads and writes tensors of these shapes."""
    tensors = tuple(activation(i, shape) for i, shape in enumerate((*read, *written)))
    inputs, outputs = tuple(range(len(read))), tuple(range(len(read), len(tensors)))
    operator = Operator(name, 1, inputs, outputs, options or {})
    return Network(tensors, (operator,), inputs, outputs, "")


@given(st.lists(st.integers()))
def test_a_list_of_arrays_stays_one_and_a_single_array_becomes_one(arrays):
    assert listed(arrays) == listed(tuple(arrays)) == arrays
    assert listed(len(arrays)) == [len(arrays)]


def test_an_array_is_one_input_however_many_samples_it_has():
    x = np.zeros((3, 2))

    assert len(listed(x)) == 1 and listed(x)[0] is x


@given(st.lists(st.integers(), min_size=1))
def test_unlisted_is_the_opposite_of_listed(arrays):
    assert listed(unlisted(arrays)) == arrays


def test_equally_many_samples_pass():
    check_counts([])
    check_counts([np.zeros((3, 2))])
    check_counts([np.zeros((3, 2)), np.zeros(3)])


def test_unequally_many_samples_are_counted():
    with pytest.raises(ValueError, match="equally many samples for each input, got 3, 3, 4"):
        check_counts([np.zeros((3, 2)), np.zeros(3), np.zeros((4, 3))])


DTYPES = st.sampled_from([np.int8, np.uint8, np.int16])
SCALES = st.floats(2**-20, 2**10, width=32)


@given(st.data(), DTYPES, SCALES)
def test_there_and_back_is_within_half_a_step(data, dtype, scale):
    limits = np.iinfo(dtype)
    zero_point = data.draw(st.integers(int(limits.min), int(limits.max)))
    least, most = (scale * (int(end) - zero_point) for end in (limits.min, limits.max))
    x = np.array(data.draw(st.lists(st.floats(least, most), min_size=1)))

    steps = to_steps(x, scale, zero_point, dtype)
    back = to_real(steps, scale, zero_point)

    assert steps.dtype == dtype and back.dtype == np.float32
    rounding = np.abs(x).max() * 2**-22
    assert np.abs(back - x).max() <= scale / 2 + rounding


@given(DTYPES, SCALES, st.integers(-128, 127))
def test_every_step_comes_back_the_same(dtype, scale, offset):
    limits = np.iinfo(dtype)
    steps = np.arange(limits.min, limits.max + 1, dtype=dtype)
    zero_point = (int(limits.min) + int(limits.max)) // 2 + offset

    back = to_real(steps, np.float32(scale), zero_point)

    np.testing.assert_array_equal(to_steps(back, np.float32(scale), zero_point, dtype), steps)


@given(st.floats(allow_nan=False), DTYPES, SCALES)
@example(np.inf, np.int8, 0.5)
@example(-np.inf, np.uint8, 0.5)
def test_values_beyond_the_type_become_its_ends(value, dtype, scale):
    limits = np.iinfo(dtype)
    with np.errstate(over="ignore"):
        [step] = to_steps(np.array([value]), scale, 0, dtype)

    if value > scale * limits.max:
        assert step == limits.max
    if value < scale * limits.min:
        assert step == limits.min


def test_steps_grow_with_the_values():
    x = np.sort(np.random.default_rng(0).normal(0, 60, 1000))

    assert (np.diff(to_steps(x, 0.5, 3).astype(int)) >= 0).all()


def test_zero_is_the_zero_point():
    assert to_steps(np.zeros(1), 0.3, -7) == -7
    assert to_real(np.int8([-7]), 0.3, -7) == 0


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_nan_has_no_step(dtype):
    with pytest.raises(ValueError, match=f"x has NaN values, which {np.dtype(dtype)} cannot hold"):
        to_steps(np.array([1.0, np.nan]), 0.5, 0, dtype)


def test_sizes_are_those_of_the_shape_and_the_type():
    tensor = activation(0, (2, 3, 5), np.int16)

    assert (tensor.size, tensor.num_bytes) == (30, 60)
    assert (activation(0, ()).size, activation(0, (4, 0)).num_bytes) == (1, 0)


@pytest.mark.parametrize("part", [PLAIN, PLAIN.tensors[0], PLAIN.operators[0]])
def test_networks_are_immutable(part):
    field = dataclasses.fields(part)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part, field, None)


@pytest.mark.parametrize("build", flatbuffer_zoo.NETWORKS.values())
def test_sound_networks_pass(build):
    check(flatbuffer.read(build()))


@given(st.integers(0, 50))
def test_random_networks_pass(seed):
    check(flatbuffer.read(flatbuffer_zoo.random_network(seed)))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (dataclasses.replace(PLAIN, inputs=(99,)), "^the network's inputs name tensor 99 of 14$"),
        (dataclasses.replace(PLAIN, inputs=(0, 14)), "the network's inputs name tensor 14 of 14"),
        (dataclasses.replace(PLAIN, outputs=(-1,)), "the network's outputs name tensor -1 of 14"),
        (
            with_operator(PLAIN, 0, inputs=(0, -2)),
            r"the inputs of operator 0 \(CONV_2D\) name tensor -2 of 14",
        ),
        (
            with_operator(PLAIN, 3, outputs=(8, 99)),
            r"the outputs of operator 3 \(RESHAPE\) name tensor 99 of 14",
        ),
        (
            with_operator(PLAIN, 0, outputs=(-1,)),
            r"the outputs of operator 0 \(CONV_2D\) name tensor -1 of 14",
        ),
    ],
)
def test_every_index_must_exist(network, message):
    with pytest.raises(FlatbufferError, match=message):
        check(network)


def swapped(network, a, b):
    operators = list(network.operators)
    operators[a], operators[b] = operators[b], operators[a]
    return dataclasses.replace(network, operators=tuple(operators))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (dataclasses.replace(PLAIN, inputs=()), r"^operator 0 \(CONV_2D\) reads tensor 0 before"),
        (swapped(PLAIN, 0, 1), r"0 \(MAX_POOL_2D\) reads tensor 3 before it is computed"),
        (with_operator(PLAIN, 1, inputs=(4,)), r"1 \(MAX_POOL_2D\) reads tensor 4 before"),
        (with_tensor(PLAIN, 1, data=None), r"0 \(CONV_2D\) reads tensor 1 before it is computed"),
    ],
    ids=["no input", "order", "itself", "no data"],
)
def test_every_tensor_is_computed_before_it_is_read(network, message):
    with pytest.raises(FlatbufferError, match=message):
        check(network)


@pytest.mark.parametrize(
    ("place", "outputs", "message"),
    [
        (0, (0,), r"^operator 0 \(CONV_2D\) writes tensor 0, which has its value already$"),
        (1, (3,), r"1 \(MAX_POOL_2D\) writes tensor 3, which has its value already"),
        (0, (3, 1), "writes tensor 1, which has its value already"),
    ],
    ids=["an input", "an earlier one", "a constant"],
)
def test_every_tensor_is_computed_once(place, outputs, message):
    with pytest.raises(FlatbufferError, match=message):
        check(with_operator(PLAIN, place, outputs=outputs))


def test_variables_and_empty_tensors_may_be_read_before_they_are_written():
    network = network_of("ADD", [(1, 4), (1, 4)], [(1, 4)])
    unwritten = dataclasses.replace(network, inputs=(0,))

    with pytest.raises(FlatbufferError, match="reads tensor 1 before"):
        check(unwritten)
    check(with_tensor(unwritten, 1, is_variable=True))
    check(with_tensor(unwritten, 1, shape=(1, 0)))


def test_a_variable_may_be_written_once():
    network = with_tensor(network_of("ADD", [(1, 4), (1, 4)], [(1, 4)]), 2, is_variable=True)
    check(network)

    [operator] = network.operators
    with pytest.raises(FlatbufferError, match=r"1 \(ADD\) writes tensor 2, which has its value"):
        check(dataclasses.replace(network, operators=(operator, operator)))


def test_an_absent_input_that_is_optional_is_no_tensor():
    check(with_operator(PLAIN, 0, inputs=(0, 1, -1)))
    check(with_operator(PLAIN, 0, inputs=(0, 1)))


def test_operators_without_a_signature_may_have_anything():
    check(network_of("CUSTOM", [(1, 2), (7,)], [(3, 3, 3)]))
    check(network_of("CUSTOM", [], []))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((0,), (3,), r"operator 0 \(CONV_2D\) lacks one of its 2 inputs"),
        ((0, -1), (3,), "lacks one of its 2 inputs"),
        ((-1, 1), (3,), "lacks one of its 2 inputs"),
        ((0, 1, 2), (), "lacks one of its 1 outputs"),
    ],
)
def test_no_operator_lacks_what_it_needs(inputs, outputs, message):
    with pytest.raises(FlatbufferError, match=message):
        check(with_operator(PLAIN, 0, inputs=inputs, outputs=outputs))


FOUR = (1, 4, 4, 2)
RANKS = {
    "AVERAGE_POOL_2D": ([FOUR], [FOUR]),
    "CONV_2D": ([FOUR, FOUR], [FOUR]),
    "DEPTHWISE_CONV_2D": ([FOUR, FOUR], [FOUR]),
    "FULLY_CONNECTED": ([None, (2, 4)], [None]),
    "MAX_POOL_2D": ([FOUR], [FOUR]),
    "MEAN": ([None, None], [None]),
    "MIRROR_PAD": ([None, (4, 2)], [None]),
    "PAD": ([None, (4, 2)], [None]),
    "REDUCE_ALL": ([None, None], [None]),
    "REDUCE_MAX": ([None, None], [None]),
    "REDUCE_MIN": ([None, None], [None]),
    "SOFTMAX": ([None], [None]),
    "SUM": ([None, None], [None]),
    "TRANSPOSE_CONV": ([(4,), FOUR, FOUR], [FOUR]),
}


@pytest.mark.parametrize("name", RANKS)
def test_the_operators_that_others_rely_on_have_all_inputs_and_outputs(name):
    read, written = ([shape or (1, 4) for shape in end] for end in RANKS[name])

    with pytest.raises(FlatbufferError, match=rf"lacks one of its {len(read)} inputs"):
        check(network_of(name, read[:-1], written))
    with pytest.raises(FlatbufferError, match=rf"lacks one of its {len(written)} outputs"):
        check(network_of(name, read, written[:-1]))


@pytest.mark.parametrize("name", RANKS)
def test_they_have_as_many_axes_as_is_taken_for_granted(name):
    shapes = [[shape or (1, 4) for shape in end] for end in RANKS[name]]
    for end, label in enumerate(("input", "output")):
        for place, shape in enumerate(RANKS[name][end]):
            if shape is None:
                continue
            wrong = [list(part) for part in shapes]
            wrong[end][place] = (*shape, 1)
            found = rf"has an {label} of shape .*, 1\), expected {len(shape)} axes"
            with pytest.raises(FlatbufferError, match=found):
                check(network_of(name, *wrong))


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (with_shapes(PLAIN, (0, (1, 12, 12, 0))), "CONV_2D"),
        (with_shapes(PLAIN, (0, (1, 12, 12, 3))), "CONV_2D"),
        (with_shapes(PLAIN, (0, (2, 12, 12, 1))), "CONV_2D"),
        (with_shapes(PLAIN, (1, (4, 3, 3, 0))), "CONV_2D"),
        (with_shapes(PLAIN, (1, (4, 3, 3, 2))), "CONV_2D"),
        (with_shapes(PLAIN, (1, (5, 3, 3, 1))), "CONV_2D"),
        (with_shapes(PLAIN, (2, (3,))), "CONV_2D"),
        (with_shapes(PLAIN, (3, (1, 10, 11, 4))), "CONV_2D"),
        (with_option(PLAIN, 0, stride_h=0), "CONV_2D"),
        (with_option(PLAIN, 0, stride_w=2), "CONV_2D"),
        (with_option(PLAIN, 0, dilation_w_factor=-1), "CONV_2D"),
        (with_option(PLAIN, 0, dilation_h_factor=2), "CONV_2D"),
        (with_option(PLAIN, 0, padding=0), "CONV_2D"),
        (with_option(PLAIN, 1, filter_width=0), "MAX_POOL_2D"),
        (with_option(PLAIN, 1, filter_height=11), "MAX_POOL_2D"),
        (with_option(PLAIN, 1, stride_w=3), "MAX_POOL_2D"),
        (with_shapes(PLAIN, (4, (1, 5, 5, 3))), "MAX_POOL_2D"),
        (with_shapes(PLAIN, (8, (1, 55))), "FULLY_CONNECTED"),
        (with_shapes(PLAIN, (10, (5, 0))), "FULLY_CONNECTED"),
        (with_shapes(PLAIN, (11, (4,))), "FULLY_CONNECTED"),
        (with_shapes(PLAIN, (12, (1, 6))), "FULLY_CONNECTED"),
        (with_shapes(PLAIN, (13, (5, 1))), "SOFTMAX"),
        (with_option(PLAIN, 5, beta=0.0), "SOFTMAX"),
        (with_option(PLAIN, 5, beta=-1.0), "SOFTMAX"),
        (with_option(PLAIN, 5, beta=float("inf")), "SOFTMAX"),
        (with_option(PLAIN, 5, beta=float("nan")), "SOFTMAX"),
        (with_shapes(DEPTHWISE, (6, (1, 5, 3, 12))), "DEPTHWISE_CONV_2D"),
        (with_shapes(DEPTHWISE, (4, (2, 3, 3, 8))), "DEPTHWISE_CONV_2D"),
        (with_shapes(DEPTHWISE, (5, (9,))), "DEPTHWISE_CONV_2D"),
        (with_option(DEPTHWISE, 1, stride_h=2), "DEPTHWISE_CONV_2D"),
        (
            with_shapes(DEPTHWISE, (4, (1, 3, 3, 12)), (5, (12,)), (6, (1, 5, 3, 12))),
            "DEPTHWISE_CONV_2D",
        ),
    ],
)
def test_shapes_that_the_kernels_take_for_granted_are_checked(network, kind):
    with pytest.raises(FlatbufferError, match=rf"\({kind}\) makes .* options do not allow"):
        check(network)


def test_the_message_names_the_shapes_that_do_not_fit():
    message = r"1 \(DEPTHWISE_CONV_2D\) makes \(1, 5, 3, 12\) of \(1, 5, 3, 8\), \(1, 3, 3, 8\)"

    with pytest.raises(FlatbufferError, match=message):
        check(with_shapes(DEPTHWISE, (6, (1, 5, 3, 12))))


WINDOW = {"stride_h": 1, "stride_w": 1, "padding": 1}


@pytest.mark.parametrize(
    ("filters", "read", "is_sound"),
    [(6, 3, True), (6, 1, True), (6, 2, True), (4, 1, False), (6, 4, False), (5, 6, True)],
)
def test_a_convolution_may_have_groups(filters, read, is_sound):
    """Of 6 channels: each filter reads as many as its weights have, and no group is cut."""
    shapes = [(1, 4, 4, 6), (filters, 3, 3, read)]
    network = network_of("CONV_2D", shapes, [(1, 2, 2, filters)], WINDOW)

    if is_sound:
        check(network)
    else:
        with pytest.raises(FlatbufferError, match="options do not allow"):
            check(network)


@given(
    length=st.integers(1, 12),
    size=st.integers(1, 5),
    stride=st.integers(1, 4),
    step=st.integers(1, 3),
    is_padded=st.booleans(),
    more=st.sampled_from([-1, 1]),
)
def test_a_window_stops_as_often_as_the_output_has_values(
    length, size, stride, step, is_padded, more
):
    reach = (size - 1) * step + 1
    starts = range(0, length if is_padded else length - reach + 1, stride)
    options = {"stride_h": stride, "stride_w": 1, "padding": int(not is_padded)}
    options |= {"dilation_h_factor": step, "dilation_w_factor": 1}
    shapes = [(1, length, 1, 1), (1, size, 1, 1)]

    if starts:
        check(network_of("CONV_2D", shapes, [(1, len(starts), 1, 1)], options))
    wrong = len(starts) + (more if starts else 1)
    with pytest.raises(FlatbufferError, match="options do not allow"):
        check(network_of("CONV_2D", shapes, [(1, wrong, 1, 1)], options))


@pytest.mark.parametrize(
    ("place", "option"),
    [(0, "stride_h"), (0, "padding"), (1, "filter_height"), (1, "stride_w"), (5, "beta")],
)
def test_an_operator_without_its_options_is_refused(place, option):
    options = {k: v for k, v in PLAIN.operators[place].options.items() if k != option}
    kind = PLAIN.operators[place].name

    with pytest.raises(FlatbufferError, match=rf"{place} \({kind}\) lacks its option '{option}'"):
        check(with_operator(PLAIN, place, options=options))


def test_a_dense_layer_may_read_and_write_any_number_of_rows():
    check(network_of("FULLY_CONNECTED", [(1, 6, 4), (5, 4), (5,)], [(6, 5)]))
    check(network_of("FULLY_CONNECTED", [(2, 2, 4), (5, 8)], [(2, 5)]))


def test_a_network_of_several_inputs_and_outputs_is_sound():
    assert (len(SEVERAL.inputs), len(SEVERAL.outputs)) == (2, 2)
    check(SEVERAL)
