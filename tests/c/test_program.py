"""Which operators become which steps, and which are refused by name."""

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from single_operators import OPERATORS, Seeded

import kprune
from kprune import flatbuffer as flatbuffers
from kprune.c.program import lower
from kprune.errors import FlatbufferError, UnsupportedOpError


def calls(flatbuffer: bytes) -> list[str]:
    program = lower(flatbuffers.read(flatbuffer))
    return [call.function for layer in program.layers for call in layer.step.calls]


def layers(flatbuffer: bytes) -> list[str]:
    return [layer.name for layer in lower(flatbuffers.read(flatbuffer)).layers]


def test_each_operator_becomes_a_call():
    assert calls(flatbuffer_zoo.NETWORKS["plain_network"]()) == [
        "kp_conv2d",
        "kp_max_pool",
        "kp_conv2d",
        "kp_fully_connected",
        "kp_softmax",
    ]


def test_reshaping_costs_nothing():
    net = flatbuffer_zoo.Builder()
    x = net.reshape(net.input((1, 4, 4, 2)), (1, 32))

    assert calls(net.build(net.dense(x, 3))) == ["kp_fully_connected"]


def test_functions_of_one_value_become_tables():
    for name in ("LOGISTIC", "TANH", "HARD_SWISH", "RELU", "RELU6", "LEAKY_RELU", "QUANTIZE"):
        assert calls(OPERATORS[name](Seeded(0))) == ["kp_lookup"]


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("model/re_lu/Relu;model/conv2d_1/BiasAdd;model/conv2d_1/Conv2D", "conv2d"),
        ("functional_1/stem_1/convolution", "stem"),
        ("functional_1/Conv1_relu_1/Relu6;functional_1/Conv1_1/convolution", "Conv1"),
        ("model/dense/MatMul;model/dense/BiasAdd/ReadVariableOp", "dense"),
        ("model/activation_3/Relu;model/bn_3/FusedBatchNormV3", "activation_3"),
        ("Identity_int8", "relu_0"),
        ("model/7x7 conv!/BiasAdd", "model_7x7_conv"),
    ],
)
def test_layers_are_named_as_in_keras(tensor, layer):
    net = flatbuffer_zoo.Builder()
    y = net.relu(net.input((1, 4)))
    net.graph.tensors[y].name = tensor

    assert layers(net.build(y)) == [layer]


def test_layers_of_one_name_are_told_apart():
    net = flatbuffer_zoo.Builder()
    x = net.relu(net.input((1, 4)))
    y = net.relu(x)
    for tensor in (x, y):
        net.graph.tensors[tensor].name = "model/shared/Relu"

    assert layers(net.build(y)) == ["shared", "shared_2"]


# Refusals


def refused(flatbuffer: bytes, match: str) -> None:
    with pytest.raises(UnsupportedOpError, match=match):
        kprune.to_c(flatbuffer, "net")


def test_all_operators_without_code_are_named_at_once():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4))
    y = net.like(x)
    net.operator("ELU", [x], [y])
    z = net.like(x)
    net.operator("GELU", [y], [z])

    refused(net.build(z), r"ELU \(tensor 'tensor_1'\).*GELU \(tensor 'tensor_2'\)")


def test_a_float_network_is_refused():
    net = flatbuffer_zoo.Builder()
    x = net.tensor((1, 4), None, dtype=schema.TensorType.FLOAT32)
    net.graph.inputs.append(x)
    y = net.tensor((1, 4), None, dtype=schema.TensorType.FLOAT32)
    net.operator("RELU", [x], [y])

    refused(net.build(y), "RELU .*float32, expected int8")


def test_float_values_between_operators_are_refused_by_name():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 8))
    y = net.tensor((1, 8), None, dtype=schema.TensorType.FLOAT32, name="island")
    net.operator("DEQUANTIZE", [x], [y], schema.DequantizeOptionsT(), version=2)

    refused(
        net.build(net.quantize(y, 0.1, 3)),
        r"DEQUANTIZE \(tensor 'island'\): .*'island' is float32.*between operators .* needs int8",
    )


@pytest.mark.parametrize(("begin", "step"), [(4, 1), (9, 1), (2, -1)])
def test_a_slice_of_nothing_is_refused(begin, step):
    """TensorFlow Lite Micro leaves its output as it was."""
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4, 5))
    y = net.like(x, (1, 5))
    bounds = [net.int32(0, begin, 0), net.int32(1, 3, 5), net.int32(1, step, 1)]
    options = schema.StridedSliceOptionsT(shrinkAxisMask=2)
    net.operator("STRIDED_SLICE", [x, *bounds], [y], options, version=2)

    refused(net.build(y), f"STRIDED_SLICE .*index {begin}, stride {step} along axis 1 of 4")


def test_a_scale_that_overflows_in_hard_swish_is_refused():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4), 2.0**26)
    y = net.tensor((1, 4), 2.0**26)
    net.operator("HARD_SWISH", [x], [y], schema.HardSwishOptionsT())

    refused(net.build(y), "HARD_SWISH .*scale 67108864.* overflows")


def test_scales_whose_ratio_is_no_number_are_refused():
    net = flatbuffer_zoo.Builder()
    x = net.tensor((1, 4), 3e38)
    net.graph.inputs.append(x)
    y = net.tensor((1, 4), 1e-30)
    net.operator("RELU", [x], [y], version=2)

    refused(net.build(y), "RELU .* do not fit together .*overflow")


def test_an_output_that_nothing_computes_is_refused():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4))

    refused(net.build(net.relu(x), x), "outputs that an operator computes.*'input_0'")


def test_an_output_that_is_given_twice_is_refused():
    net = flatbuffer_zoo.Builder()
    x = net.relu(net.input((1, 4)))

    refused(net.build(x, x), "each once; tensor 'tensor_1' is")


def test_a_network_without_outputs_is_refused():
    net = flatbuffer_zoo.Builder()
    net.relu(net.input((1, 4)))

    refused(net.build(), "needs a network with an output")


def test_a_batch_is_refused():
    net = flatbuffer_zoo.Builder()
    x = net.conv2d(net.input((2, 4, 4, 1)), 2)

    refused(net.build(x), "CONV_2D .* batch size 2, expected 1")


def test_weights_that_are_not_constant_are_refused():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4))
    weights = net.relu(net.reshape(x, (1, 4)))
    y = net.fresh((1, 1))
    net.operator("FULLY_CONNECTED", [x, weights, -1], [y], schema.FullyConnectedOptionsT())

    refused(net.build(y), "FULLY_CONNECTED .*must be constant")


def test_inputs_of_a_concatenation_with_other_scales_are_refused():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4))
    y = net.relu(x)
    z = net.like(x, (1, 8))
    net.operator("CONCATENATION", [x, y], [z], schema.ConcatenationOptionsT(axis=1))

    refused(net.build(z), "CONCATENATION .*another scale")


def test_a_custom_operator_is_refused_by_its_own_name():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4))
    y = net.like(x)
    net.operator("CUSTOM", [x], [y])
    flatbuffer = net.build(y)
    model = schema.ModelT.InitFromPackedBuf(flatbuffer)
    model.operatorCodes[0].customCode = b"MyFancyOp"

    refused(flatbuffers.pack(model), r"MyFancyOp \(tensor 'tensor_1'\): there is no kernel")


def test_a_name_that_is_no_identifier_is_refused():
    with pytest.raises(ValueError, match="cannot be used as a name in C"):
        kprune.to_c(flatbuffer_zoo.single_convolution(), "2fast")


@pytest.mark.parametrize("name", ["kp_nn", "kp_nn_arithmetic", "KP_NN"])
def test_a_name_whose_files_would_be_those_of_the_runtime_is_refused(name):
    with pytest.raises(ValueError, match="as the symbols and files of the runtime kp_nn do"):
        kprune.to_c(flatbuffer_zoo.single_convolution(), name)


def test_damaged_flatbuffers_are_refused_by_the_reader():
    with pytest.raises(FlatbufferError):
        kprune.to_c(flatbuffer_zoo.single_convolution()[:100], "net")


def test_constants_are_int8_as_the_flatbuffer_has_them():
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 2, 2, 3))
    data = np.arange(3, dtype=np.int8)
    b = net.tensor((3,), 0.02, 1, data=data)
    (layer,) = lower(flatbuffers.read(net.build(net.add(x, b)))).layers

    assert layer.step.constants[0].values.tolist() == [0, 1, 2]
