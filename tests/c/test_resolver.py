"""The resolver: every operator of the file, none besides, and it compiles."""

import subprocess
from pathlib import Path

import flatbuffer_zoo
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require

from kprune import flatbuffer
from kprune.c import resolver
from kprune.c.resolver import op_resolver
from kprune.errors import UnsupportedOpError

# Stands in for TensorFlow Lite Micro's header: each method prints its name.
STUB = """
#include <cstdio>
namespace tflite {{ {open}
template <unsigned int count> struct MicroMutableOpResolver {{
{methods}
}};
}} {close}
"""
PROGRAM = """
#include "net_gen_micro_mutable_op_resolver.h"
int main()
{
    auto resolver = net::get_resolver();
    (void)resolver;
    std::printf("%d\\n", net::kNumberOperators);
}
"""


def network(*outputs_of) -> flatbuffer.Network:
    net = flatbuffer_zoo.Builder()
    return flatbuffer.read(net.build(*[build(net) for build in outputs_of]))


def compile_and_run(folder: Path, text: str, namespace: tuple[str, str]) -> list[str]:
    known = [resolver._method(kind) for kind in resolver._BUILTIN.split()]
    methods = "\n".join(f'  void {name}() {{ std::puts("{name}"); }}' for name in known)
    header = folder / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    header.write_text(STUB.format(open=namespace[0], close=namespace[1], methods=methods))
    (folder / "net_gen_micro_mutable_op_resolver.h").write_text(text)
    (folder / "main.cc").write_text(PROGRAM)
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    subprocess.run(
        ["g++", "-std=c++11", *warnings, "-I", folder, folder / "main.cc", "-o", folder / "main"],
        check=True,
        timeout=60,
    )
    return subprocess.run([folder / "main"], capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    "namespace",
    [
        ("", ""),
        ("namespace micro {", "}"),
        ("namespace micro {", "using micro::MicroMutableOpResolver; }"),
    ],
    ids=["tflite", "tflite::micro", "both"],
)
@pytest.mark.parametrize("build", flatbuffer_zoo.NETWORKS.values(), ids=flatbuffer_zoo.NETWORKS)
def test_the_resolver_registers_exactly_the_operators_of_the_file(tmp_path, build, namespace):
    require("g++")
    content = build()
    model = schema.ModelT.InitFromPackedBuf(content, 0)

    *methods, count = compile_and_run(
        tmp_path, op_resolver(flatbuffer.read(content), "net"), namespace
    )

    names = {v: k for k, v in vars(schema.BuiltinOperator).items()}
    expected = {names[code.builtinCode].replace("_", "").lower() for code in model.operatorCodes}
    assert {name.removeprefix("Add").lower() for name in methods} == expected
    assert int(count) == len(methods) == len(expected)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("MAX_POOL_2D", "AddMaxPool2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
        ("RELU6", "AddRelu6"),
        ("PADV2", "AddPadV2"),
        ("SPLIT_V", "AddSplitV"),
        ("ADD_N", "AddAddN"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("CUMSUM", "AddCumSum"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
        ("TFLite_Detection_PostProcess", "AddDetectionPostprocess"),
        ("GELU", ""),
    ],
)
def test_methods_are_called_as_tflite_micro_calls_them(kind, method):
    assert resolver._method(kind) == method


def test_the_table_lists_what_tflite_micro_has_kernels_for():
    require("tflite_micro")
    import tflite_micro

    library = Path(tflite_micro.__file__).parent / "python/tflite_micro/_runtime.so"
    content = library.read_bytes()

    assert all(f"Register_{kind}Ev".encode() in content for kind in resolver._BUILTIN.split())
    assert all(hasattr(schema.BuiltinOperator, kind) for kind in resolver._BUILTIN.split())


def test_operators_of_further_subgraphs_count_too():
    main, other = (
        network(lambda net: net.relu(net.input((1, 4)))),
        network(lambda net: net.tanh(net.input((1, 4)))),
    )

    text = op_resolver(flatbuffer.Network(*vars(main).values()), "net")
    both = flatbuffer.Network(**{**vars(main), "subgraphs": (other,)})

    assert "AddTanh" not in text
    assert "AddRelu" in op_resolver(both, "net") and "AddTanh" in op_resolver(both, "net")


def test_all_operators_that_tflite_micro_lacks_are_named_at_once():
    def lacking(net):
        x = net.input((1, 4))
        y, z = net.like(x), net.like(x)
        net.operator("GELU", [x], [y], schema.GeluOptionsT())
        net.operator("RELU_N1_TO_1", [y], [z])
        return z

    with pytest.raises(UnsupportedOpError, match="has no operator GELU, RELU_N1_TO_1"):
        op_resolver(network(lacking), "net")
