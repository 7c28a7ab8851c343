"""Repacking: fewer bytes, the same network, the same outputs."""

import dataclasses

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from conftest import require
from flatbuffer_zoo import inputs_for, run_tflm
from hypothesis import given, settings
from hypothesis import strategies as st

from kprune import flatbuffer
from kprune.arena import plan_bytes
from kprune.errors import FlatbufferError
from kprune.repacking import repack

NETWORKS = flatbuffer_zoo.NETWORKS


def run_litert(content: bytes, inputs: list[np.ndarray], **options) -> list[np.ndarray]:
    interpreter = Interpreter(model_content=content, num_threads=1, **options)
    interpreter.allocate_tensors()
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def assert_same_outputs(content: bytes) -> None:
    network = flatbuffer.read(content)
    inputs, small, count = inputs_for(network), repack(content), len(network.outputs)
    reference = {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF}
    pairs = [
        (run_tflm(content, inputs, count), run_tflm(small, inputs, count)),
        (run_litert(content, inputs, **reference), run_litert(small, inputs, **reference)),
    ]

    for before, after in pairs:
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_repacked_file_is_smaller_and_gives_the_same_outputs(build):
    require("tflite_micro")
    content = build()

    assert len(repack(content)) < 0.9 * len(content)
    assert_same_outputs(content)


@given(st.integers(0, 2**31), st.integers(1, 12))
@settings(max_examples=40)
def test_repacked_random_networks_give_the_same_outputs(seed, depth):
    require("tflite_micro")

    assert_same_outputs(flatbuffer_zoo.random_network(seed, depth))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("layer", ["conv2d", "depthwise", "dense"])
def test_biases_lose_their_scales_only_where_no_kernel_reads_them(layer, per_channel):
    require("tflite_micro")
    net = flatbuffer_zoo.Builder()
    size = {"dense": 5, "conv2d": 5, "depthwise": 1}[layer]
    y = getattr(net, layer)(net.input((1, 4, 4, 3)), size, per_channel=per_channel)
    content = net.build(y)

    small = flatbuffer.read(repack(content))

    biases = small.tensors[small.operators[0].inputs[2]]
    assert len(biases.scale) == {"dense": 5 if per_channel else 1}.get(layer, 0)
    assert_same_outputs(content)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_litert_still_runs_a_repacked_file_by_default(build):
    content = build()
    inputs = inputs_for(flatbuffer.read(content))

    for before, after in zip(
        run_litert(content, inputs), run_litert(repack(content), inputs), strict=True
    ):
        # Other kernels than XNNPACK's round otherwise; a few layers add up to a few steps.
        assert abs(before.astype(int) - after).max() <= 3


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_repacked_network_differs_in_names_and_scales_of_biases_only(build):
    content = build()
    before, after = flatbuffer.read(content), flatbuffer.read(repack(content))

    assert before.inputs == after.inputs and before.outputs == after.outputs
    for a, b in zip(before.operators, after.operators, strict=True):
        assert vars(a) == vars(b)
    ends = {*before.inputs, *before.outputs}
    for a, b in zip(before.tensors, after.tensors, strict=True):
        assert (a.shape, a.dtype, a.quantized_axis) == (b.shape, b.dtype, b.quantized_axis)
        assert b.name == (a.name if a.index in ends else "")
        np.testing.assert_array_equal(a.data, b.data)
        if a.dtype != np.int32:
            np.testing.assert_array_equal(a.scale, b.scale)
            np.testing.assert_array_equal(a.zero_point, b.zero_point)


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_constants_lie_at_multiples_of_16_bytes(seed):
    content = repack(flatbuffer_zoo.random_network(seed))
    start = np.frombuffer(content, np.uint8).ctypes.data

    constants = [t.data for t in flatbuffer.read(content).tensors if t.data is not None]

    assert constants and all((data.ctypes.data - start) % 16 == 0 for data in constants)


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_repacking_twice_changes_nothing(seed):
    content = repack(flatbuffer_zoo.random_network(seed))

    assert repack(content) == content


def decorated(change=lambda model: None) -> bytes:
    """A network with everything in it that a converter leaves behind."""
    model = schema.ModelT.InitFromPackedBuf(flatbuffer_zoo.plain_network(), 0)
    graph = model.subgraphs[0]
    graph.name = "main"
    for tensor in graph.tensors:
        if tensor.quantization:
            tensor.quantization.min = np.full(8, -1, np.float32)
            tensor.quantization.max = np.full(8, 1, np.float32)
        if not tensor.buffer:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
        tensor.shapeSignature = tensor.shape
    model.signatureDefs = [
        schema.SignatureDefT(
            inputs=[schema.TensorMapT(name="x", tensorIndex=0)],
            outputs=[schema.TensorMapT(name="y", tensorIndex=graph.outputs[0])],
            signatureKey="serving_default",
        )
    ]
    model.metadata = [schema.MetadataT(name="min_runtime_version", buffer=len(model.buffers))]
    model.buffers.append(schema.BufferT(data=np.frombuffer(b"1.14.0", np.uint8)))
    change(model)
    return flatbuffer.pack(model)


def test_what_a_converter_leaves_behind_is_gone():
    model = schema.ModelT.InitFromPackedBuf(repack(decorated()), 0)

    assert model.signatureDefs is None and model.metadata is None and model.description is None
    assert model.subgraphs[0].name is None
    constants = sum(t.buffer != 0 for t in model.subgraphs[0].tensors)
    assert len(model.buffers) == 1 + constants
    assert len(repack(decorated())) == len(repack(flatbuffer_zoo.plain_network()))


def test_equal_constants_are_stored_once():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4, 4, 2))
    for _ in range(3):
        x = net.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    content = net.build(x)

    small = schema.ModelT.InitFromPackedBuf(repack(content), 0)

    assert len(schema.ModelT.InitFromPackedBuf(content, 0).buffers) == 4
    assert len(small.buffers) == 2


def test_a_plan_of_the_arena_in_the_file_is_kept():
    plan = with_header(16 * np.arange(14))

    def add_plan(model):
        entry = schema.MetadataT(name="OfflineMemoryAllocation", buffer=len(model.buffers))
        model.metadata.append(entry)
        model.buffers.append(schema.BufferT(data=plan.view(np.uint8)))

    model = schema.ModelT.InitFromPackedBuf(repack(decorated(add_plan)), 0)

    [entry] = model.metadata
    assert entry.name == b"OfflineMemoryAllocation"
    np.testing.assert_array_equal(model.buffers[entry.buffer].data.view("<i4"), plan)


def test_a_plan_of_the_arena_is_written_and_taken_out():
    content = repack(flatbuffer_zoo.dense_network())
    count = len(flatbuffer.read(content).tensors)
    offsets = (*range(0, 16 * count - 16, 16), -1)

    planned = repack(content, offsets=offsets)

    assert flatbuffer.read(planned).offsets == offsets
    assert len(content) < len(planned) <= len(content) + plan_bytes(flatbuffer.read(content))
    assert repack(planned, offsets=()) == content


@pytest.mark.parametrize("offsets", [(0,), (0,) * 15, (-2,) * 14])
def test_a_plan_for_another_network_is_damage(offsets):
    def add_plan(model):
        entry = schema.MetadataT(name="OfflineMemoryAllocation", buffer=len(model.buffers))
        model.metadata.append(entry)
        model.buffers.append(schema.BufferT(data=with_header(offsets).view(np.uint8)))

    with pytest.raises(FlatbufferError, match="each of 14 tensors"):
        repack(decorated(add_plan))


def with_header(offsets) -> np.ndarray:
    return np.array([1, 0, len(offsets), *offsets], "<i4")


def test_further_subgraphs_variables_and_custom_operators_survive():
    def change(model):
        model.subgraphs.append(model.subgraphs[0])
        model.subgraphs[1].tensors[1].isVariable = True
        model.operatorCodes[0] = schema.OperatorCodeT(
            deprecatedBuiltinCode=32, builtinCode=32, customCode="Mine"
        )
        operator = model.subgraphs[0].operators[0]
        operator.customOptions = np.arange(5, dtype=np.uint8)
        operator.builtinOptionsType, operator.builtinOptions = 0, None

    content = repack(decorated(change))

    network = flatbuffer.read(content)
    assert len(network.subgraphs) == 1 and network.subgraphs[0].tensors[1].is_variable
    assert network.operators[0].options["custom_code"] == "Mine"
    operator = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].operators[0]
    np.testing.assert_array_equal(operator.customOptions, range(5))


def test_what_is_no_flatbuffer_is_refused():
    with pytest.raises(FlatbufferError, match="not a TensorFlow Lite flatbuffer"):
        repack(b"\x7fELF" * 10)


@given(st.sampled_from([*NETWORKS.values(), decorated]), st.data())
@settings(max_examples=200)
def test_damaged_files_give_a_flatbuffer_or_a_flatbuffer_error(build, data):
    damaged = bytearray(build())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        content = repack(bytes(damaged))
    except FlatbufferError:
        return
    assert dataclasses.is_dataclass(flatbuffer.read(content))
