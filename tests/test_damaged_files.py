"""Whatever reads a flatbuffer answers a damaged one with a sentence: a sample of the benchmark.

`benchmarks/fuzz_flatbuffers.py` does the same for 100,000 inputs.
"""

import importlib.util
import random
from pathlib import Path

import flatbuffer_zoo
import keras
import numpy as np
import pytest
from conftest import require

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "fuzz_flatbuffers.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_flatbuffers", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_a_result_or_a_message_and_exit_code_2(
    fuzz, seed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "COMMANDS_APART", {})
    files = [build() for build in flatbuffer_zoo.NETWORKS.values()]

    counts, slowest = fuzz.run(files, 100, random.Random(seed))

    assert slowest < fuzz.SECONDS
    for command in fuzz.COMMANDS:
        results, messages = counts[command, "result"], counts[command, "message"]
        assert results > 0 and messages > 0 and results + messages == 100


def test_commands_that_start_others_answer_damaged_files_alike(fuzz, tmp_path, monkeypatch):
    require("tflite_micro", "make", "cc")
    monkeypatch.chdir(tmp_path)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save("model.keras")
    np.save("x.npy", np.zeros((8, 4)))
    Path("net.tflite").write_bytes(flatbuffer_zoo.dense_network()[:400])

    outcomes = {name: fuzz.try_apart(line)[0] for name, line in fuzz.COMMANDS_APART.items()}

    assert set(outcomes.values()) == {"message"}, outcomes


def test_a_fault_would_be_counted(fuzz, monkeypatch, tmp_path, capsys):
    def crash(arguments):
        raise IndexError("out of the file")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "kprune_main", crash)
    monkeypatch.setattr(fuzz, "COMMANDS_APART", {"nonsense": "--nonsense"})

    counts, _ = fuzz.run([flatbuffer_zoo.dense_network()], 5, random.Random(0))

    assert counts["to-c", "FAULT IndexError"] == 5
    assert counts["nonsense", "FAULT exit code 2"] == 1
    assert "out of the file" in capsys.readouterr().err
