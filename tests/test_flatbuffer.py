"""Reading: what is in the file, and one clear error for whatever is no such file."""

import subprocess
import sys

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from kprune import flatbuffer
from kprune.errors import FlatbufferError

FILES = [build() for build in flatbuffer_zoo.NETWORKS.values()]


def changed(change) -> bytes:
    """The plain network after `change` to its schema object."""
    model = schema.ModelT.InitFromPackedBuf(flatbuffer_zoo.plain_network(), 0)
    change(model)
    return flatbuffer.pack(model)


def test_read_gives_tensors_operators_and_options():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 6, 8, 3), scale=0.5, zero_point=-7)
    y = net.conv2d(x, 4, kernel=3, strides=(2, 1), activation="relu")

    network = flatbuffer.read(net.build(y))

    assert network.inputs == (x,) and network.outputs == (y,)
    assert network.description == "flatbuffer_zoo"
    [conv] = network.operators
    assert (conv.name, conv.version, conv.outputs) == ("CONV_2D", 3, (y,))
    assert conv.options["stride_h"] == 2 and conv.options["stride_w"] == 1
    assert conv.options["fused_activation_function"] == schema.ActivationFunctionType.RELU
    source, weights, biases = (network.tensors[i] for i in conv.inputs)
    assert (source.shape, source.scale, source.zero_point) == ((1, 6, 8, 3), [0.5], [-7])
    assert source.name == "input_0" and source.data is None and source.num_bytes == 144
    assert weights.data.shape == (4, 3, 3, 3) and weights.data.dtype == np.int8
    assert weights.scale.shape == (4,) and weights.quantized_axis == 0
    assert biases.dtype == np.int32
    np.testing.assert_allclose(biases.scale, weights.scale * source.scale)


def test_constants_cannot_be_written_to():
    network = flatbuffer.read(flatbuffer_zoo.single_convolution())

    with pytest.raises(ValueError, match="read-only"):
        network.tensors[1].data[:] = 0


def test_vector_options_are_tuples_and_absent_inputs_minus_one():
    net = flatbuffer_zoo.Builder()
    x = net.reshape(net.input((1, 2, 3, 1)), (1, 6))
    network = flatbuffer.read(net.build(net.dense(x, 2, bias=False)))

    assert network.operators[0].options["new_shape"] == (1, 6)
    assert network.operators[1].inputs[2] == -1


def test_further_subgraphs_are_read_too():
    def add_subgraph(model):
        model.subgraphs.append(schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[]))

    network = flatbuffer.read(changed(add_subgraph))

    assert len(network.subgraphs) == 1 and network.subgraphs[0].tensors == ()


def test_custom_operators_keep_their_name():
    def rename(model):
        model.operatorCodes[0] = schema.OperatorCodeT(
            deprecatedBuiltinCode=32, builtinCode=32, customCode="MyOperator"
        )

    operator = flatbuffer.read(changed(rename)).operators[0]

    assert operator.name == "CUSTOM" and operator.options["custom_code"] == "MyOperator"


def set_field(path, value):
    """A change that assigns `value` to the field at `path`, such as "subgraphs.0.inputs"."""

    def change(model):
        *parents, field = path.split(".")
        place = model
        for name in parents:
            place = place[int(name)] if name.isdigit() else getattr(place, name)
        if field.isdigit():
            place[int(field)] = value
        else:
            setattr(place, field, value)

    return change


TENSOR = "subgraphs.0.tensors.1"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, "schema version 2, expected 3"),
        ("subgraphs", [], "no subgraph"),
        ("operatorCodes.0.builtinCode", 9999, "code 0 is 9999, which the schema lacks"),
        ("buffers.1.offset", 4096, "buffer 1 lies outside the flatbuffer"),
        ("subgraphs.0.inputs", [99], "the network's inputs name tensor 99"),
        ("subgraphs.0.operators.0.opcodeIndex", 77, "code 77 of 5"),
        (f"{TENSOR}.type", schema.TensorType.STRING, "elements of type STRING"),
        (f"{TENSOR}.type", 101, "elements of type 101"),
        (f"{TENSOR}.type", schema.TensorType.FLOAT32, "float32 has 36 bytes of data"),
        (f"{TENSOR}.sparsity", schema.SparsityParametersT(), "stored sparse"),
        (f"{TENSOR}.shape", [4, -3, 3, 1], r"impossible shape \(4, -3, 3, 1\)"),
        (f"{TENSOR}.shape", [2**30, 4], "impossible shape"),
        (f"{TENSOR}.buffer", 99, "in buffer 99 of"),
        (f"{TENSOR}.quantization.scale", [1, 1, float("nan"), 1], "negative or not finite"),
        (f"{TENSOR}.quantization.scale", [1, 1, -1, 1], "negative or not finite"),
        ("subgraphs.0.tensors.0.quantization.scale", [0], "tensor 0 has a scale of zero"),
        (f"{TENSOR}.quantization.scale", [1, 1, 1], "3 scales and 4 zero points"),
        (f"{TENSOR}.quantization.quantizedDimension", 1, "4 scales along axis 1"),
        (f"{TENSOR}.quantization.quantizedDimension", 4, "4 scales along axis 4"),
        (f"{TENSOR}.quantization.zeroPoint", [0, 0, 0, 128], "zero point that int8 cannot hold"),
    ],
)
def test_read_says_what_is_wrong_with_the_file(path, value, message):
    with pytest.raises(FlatbufferError, match=message):
        flatbuffer.read(changed(set_field(path, value)))


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\x03\x04" * 9])
def test_read_refuses_what_is_no_flatbuffer_at_all(content):
    with pytest.raises(FlatbufferError, match=r"^not a .*TensorFlow Lite flatbuffer: "):
        flatbuffer.read(content)


def read_or_refuse(content: bytes) -> None:
    try:
        network = flatbuffer.read(content)
    except FlatbufferError as error:
        assert str(error).startswith("not a ")
        return
    used = [i for op in network.operators for i in (*op.inputs, *op.outputs) if i != -1]
    assert all(0 <= i < len(network.tensors) for i in used)
    assert all(t.data is None or t.data.shape == t.shape for t in network.tensors)


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=400)
def test_bit_flips_give_a_network_or_a_flatbuffer_error(content, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    read_or_refuse(bytes(damaged))


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=200)
def test_a_word_of_garbage_gives_a_network_or_a_flatbuffer_error(content, data):
    # Offsets and lengths are words: one that is huge, or points backwards, must not hang.
    place = 4 * data.draw(st.integers(2, len(content) // 4 - 1))
    word = data.draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1]))

    read_or_refuse(content[:place] + word.to_bytes(4, "little") + content[place + 4 :])


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=200)
def test_truncation_gives_a_network_or_a_flatbuffer_error(content, data):
    read_or_refuse(content[: data.draw(st.integers(0, len(content) - 1))])


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_random_bytes_behind_the_identifier_give_a_flatbuffer_error(content):
    with pytest.raises(FlatbufferError):
        flatbuffer.read(b"\x10\0\0\0TFL3" + content)


def test_parts_that_claim_more_than_the_file_holds_are_refused_at_once():
    # One tensor table, named 20,000 times, whose shape has 20,000 dimensions.
    class SharedTensor:
        offset = 0

        def Pack(self, builder):
            tensor = schema.TensorT(shape=np.ones(20_000, np.int32))
            self.offset = self.offset or tensor.Pack(builder)
            return self.offset

    content = changed(set_field("subgraphs.0.tensors", [SharedTensor()] * 20_000))

    with pytest.raises(FlatbufferError, match="claim more elements than the file can hold"):
        flatbuffer.read(content)


def test_reading_loads_neither_tensorflow_nor_keras():
    program = "import kprune.flatbuffer, sys; print({'tensorflow', 'keras'} & set(sys.modules))"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert result.stdout.strip() == b"set()"
