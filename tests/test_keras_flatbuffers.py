"""Flatbuffers as TensorFlow's converter writes them, through everything that reads one."""

import keras
import numpy as np
import pytest
import zoo
from conftest import require

import kprune
from benchmarks import networks
from kprune import arena, flatbuffer, tflm
from kprune.c.resolver import op_resolver, operator_names
from kprune.graph import read_graph
from kprune.network import listed
from kprune.report import profile
from kprune.tflite import convert

NETWORKS = [
    zoo.plain,
    zoo.concat,
    zoo.squeeze_excite,
    zoo.autoencoder,
    zoo.two_inputs_outputs,
    networks.streaming_wake_word,
]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda build: build.__name__)
def model(request) -> keras.Model:
    model = request.param()
    zoo.perturb(model)
    return model


@pytest.fixture(scope="module")
def content(model) -> bytes:
    data = keras.tree.flatten(zoo.random_inputs(model, batch=16))
    return convert(read_graph(model), data, "int8")


def test_repacking_saves_a_quarter_and_changes_no_output(content):
    require("tflite_micro")
    small = kprune.repack(content)
    inputs, outputs = tflm.golden_vectors(content, 20)

    assert len(small) < 0.75 * len(content)
    assert_equal(kprune.run_tflite(small, inputs, "tflm"), outputs)
    assert_equal(kprune.run_tflite(small, inputs), kprune.run_tflite(content, inputs))


def test_the_arena_is_predicted(content):
    require("tflite_micro")
    network = flatbuffer.read(content)
    recorded = tflm.record_allocations(content)

    assert arena.plan(network).peak == recorded["head"]
    bound = arena.tail_bytes(network, pointer_bytes=8)
    assert recorded["tail"] <= bound <= 1.25 * recorded["tail"]


def test_the_resolver_has_every_operator(content):
    network = flatbuffer.read(content)

    text = op_resolver(network, "net")

    assert text.count("micro_op_resolver.Add") == len(operator_names(network))
    assert f"kNumberOperators = {len({o.name for o in network.operators})};" in text


def test_the_flatbuffer_computes_as_much_as_the_model(model, content):
    report = kprune.inspect(content)

    assert report.macs == profile(model).total["macs"]
    assert sum(report.flash.values()) == len(content)


@pytest.mark.parametrize("board", ["host", "mps2-an386", "mps3-an547"])
def test_the_c_code_gives_the_bytes_of_tensorflow_lite_micro(board, content, tmp_path):
    require("tflite_micro", "make", "cc", "arm-none-eabi-gcc", "qemu-system-arm")
    inputs, expected = tflm.golden_vectors(content, 3)
    kprune.write_files(kprune.to_c(content, "net"), tmp_path)

    outputs = kprune.simulate(tmp_path, inputs, board).outputs

    assert_equal(outputs, [y.reshape(3, -1) for y in listed(expected)])


def assert_equal(given, expected) -> None:
    for one, other in zip(listed(given), listed(expected), strict=True):
        np.testing.assert_array_equal(one, other)
