"""Whatever reads a flatbuffer answers a damaged one with a sentence: a sample of the benchmark.

`benchmarks/fuzz_flatbuffers.py` does the same for 100,000 inputs.
"""

import importlib.util
import random
from pathlib import Path

import flatbuffer_zoo
import pytest

from kprune.cli import main

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "fuzz_flatbuffers.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_flatbuffers", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_a_result_or_an_error_that_says_so(fuzz, seed):
    files = [build() for build in flatbuffer_zoo.NETWORKS.values()]

    counts, slowest, faults = fuzz.run(files, 150, random.Random(seed))

    assert faults == 0 and slowest < fuzz.SECONDS
    for target in fuzz.TARGETS:
        assert counts[target, "result"] > 0 and counts[target, "FlatbufferError"] > 0


def test_a_fault_would_be_counted(fuzz, monkeypatch, capsys):
    def crash(content):
        raise IndexError("out of the file")

    monkeypatch.setattr(fuzz, "TARGETS", {"crash": crash})

    counts, _, faults = fuzz.run([flatbuffer_zoo.dense_network()], 5, random.Random(0))

    assert faults == 5 and counts["crash", "FAULT IndexError"] == 5
    assert "out of the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "inspect net.tflite",
        "repack net.tflite -o out.tflite",
        "to-c-array net.tflite -o array",
        "to-c net.tflite -o c",
    ],
)
def test_commands_end_with_a_result_or_one_line_and_exit_code_2(
    fuzz, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(command)
    ends = []
    for _ in range(60):
        content = fuzz.damage(rng, flatbuffer_zoo.residual_network())
        (tmp_path / "net.tflite").write_bytes(content)

        ends.append(main(command.split()))

        said = capsys.readouterr().err
        assert said.startswith("kprune: ") if ends[-1] else not said
    assert set(ends) <= {0, 2} and ends.count(2) > 10
