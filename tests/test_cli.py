"""The commands, through `main`: results on stdout, one line on stderr for what can be mended."""

import json
import subprocess
import sys
from pathlib import Path

import flatbuffer_zoo as zoo
import keras
import numpy as np
import pytest
from conftest import require

from kprune import add_masks, close_channels, repack, run_tflite
from kprune.boards import BOARDS
from kprune.cli import COMMANDS, main
from kprune.demo import digits_network
from kprune.flatbuffer import read
from kprune.interpreters import dequantize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked network with closed channels, calibration data and a flatbuffer."""
    folder = tmp_path_factory.mktemp("models")
    masked = add_masks(digits_network())
    close_channels(masked, {"stem": [0, 1]})
    masked.save(folder / "masked.keras")
    np.save(folder / "x.npy", np.random.default_rng(0).random((10, 8, 8, 1)))
    np.savez(folder / "empty.npz", z=np.zeros(3))
    np.save(folder / "scalar.npy", np.float32(1))
    (folder / "net.tflite").write_bytes(zoo.plain_network())
    damage(folder)
    return folder


def damage(folder: Path) -> None:
    """Files that are not what their names say."""
    whole = (folder / "masked.keras").read_bytes()
    half = len(whole) // 2
    (folder / "cut.keras").write_bytes(whole[:half])
    (folder / "flipped.keras").write_bytes(
        whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]
    )
    (folder / "cut.tflite").write_bytes(zoo.plain_network()[:1000])
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:1000])
    (folder / "arrays.keras").write_bytes((folder / "empty.npz").read_bytes())


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> dict:
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_road_in_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("tflite_micro")
    slim, flatbuffer, c = folder / "slim.keras", folder / "digits.tflite", folder / "firmware"

    run(capsys, "slim", folder / "masked.keras", "-o", slim)
    found = run(capsys, "summary", slim)
    run(capsys, "to-tflite", slim, "--data", folder / "x.npy", "-o", flatbuffer)
    written = run(capsys, "to-c-array", flatbuffer, "-o", c)
    x = np.random.default_rng(1).random((20, 8, 8, 1))
    np.savez(folder / "test.npz", x=x, y=np.arange(20) % 10)
    compared = run(
        capsys,
        "validate",
        slim,
        flatbuffer,
        "--data",
        folder / "test.npz",
        "--plot",
        folder / "v.png",
    )

    assert found["layers"][0] == {"name": "stem", "channels": 22, "params": 198, "macs": 12672}
    assert found["groups"][0]["reason"] == "input of the model"
    assert written["bytes"] == flatbuffer.stat().st_size
    assert sorted(written["files"]) == sorted(str(path) for path in c.iterdir())
    assert keras.models.load_model(slim).get_layer("stem").filters == 22
    assert set(compared["accuracy"]) == {"float", "LiteRT", "TFLite Micro"}
    assert (folder / "v.png").read_bytes().startswith(b"\x89PNG")


def test_a_flatbuffer_to_a_simulated_board_in_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("gcc", "make")
    net, small, c = folder / "net.tflite", folder / "small.tflite", folder / "c"
    size = read(net.read_bytes()).tensors[0].size
    x = np.random.default_rng(0).integers(-128, 128, (3, size)).astype(np.int8)
    np.save(folder / "bytes.npy", x)

    found = run(capsys, "inspect", net, "--plot", folder / "arena.png")
    packed = run(capsys, "repack", net, "-o", small)
    run(capsys, "to-c", small, "--name", "net", "-o", c)
    run(capsys, "simulate", c, "--data", folder / "bytes.npy", "-o", folder / "scores.npy")

    assert found["file_bytes"] == packed["bytes_before"] > packed["bytes_after"]
    assert (folder / "arena.png").read_bytes().startswith(b"\x89PNG")
    expected = run_tflite(small.read_bytes(), dequantised(x, net), interpreter="tflm")
    np.testing.assert_allclose(np.load(folder / "scores.npy"), expected.reshape(3, -1), rtol=1e-6)


def test_a_network_goes_by_the_name_of_its_file_whatever_that_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("gcc", "make")
    net, c = tmp_path / "network.tflite", tmp_path / "c"
    net.write_bytes(zoo.dense_network())
    np.save(tmp_path / "x.npy", np.zeros((2, 20), np.float32))

    run(capsys, "to-c", net, "-o", c)
    found = run(capsys, "simulate", c, "--data", tmp_path / "x.npy")

    assert sorted(path.name for path in c.glob("network.*")) == ["network.c", "network.h"]
    assert len(found["scores"]) == 2


def test_what_is_written_to_stdout_is_the_output_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(zoo.plain_network())
    # As /dev/stdout: a link to /proc/self/fd/1.
    (tmp_path / "out").symlink_to("/proc/self/fd/1")
    command = [sys.executable, "-m", "kprune", "repack", "net.tflite", "-o", "out"]

    piped = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout

    assert piped == repack(zoo.plain_network())
    assert (tmp_path / "out").is_symlink()


def test_several_inputs_and_outputs_are_simulated_from_and_into_an_npz(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("gcc", "make", "tflite_micro")
    net, c = tmp_path / "net.tflite", tmp_path / "c"
    net.write_bytes(zoo.several_network())
    x = [np.full((1, 4, 4, 1), 0.5, np.float32), np.full((1, 4, 4, 2), -0.5, np.float32)]
    np.savez(tmp_path / "x.npz", *x)
    run(capsys, "to-c", net, "--name", "net", "-o", c)

    found = run(capsys, "simulate", c, "--data", tmp_path / "x.npz", "-o", tmp_path / "y.npz")

    expected = [y.reshape(1, -1) for y in run_tflite(net.read_bytes(), x, "tflm")]
    for scores, given in zip(np.load(tmp_path / "y.npz").values(), expected, strict=True):
        np.testing.assert_array_equal(scores, given)
    assert found["scores"] == [y.tolist() for y in expected]
    assert main(["simulate", str(c), "--data", str(tmp_path / "x.npz"), "-o", "y.npy"]) == 2
    assert "several outputs: the output must be a .npz file" in capsys.readouterr().err


def dequantised(x: np.ndarray, path: Path) -> np.ndarray:
    network = read(path.read_bytes())
    source = network.tensors[network.inputs[0]]
    return dequantize(x.reshape(-1, *source.shape[1:]), source)


def test_boards_and_projects_in_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("gcc", "make")
    boards = run(capsys, "boards", "uno_r4")
    written = run(
        capsys, "firmware", folder / "net.tflite", "--board", "nucleo_f446re", "-o", folder / "fw"
    )

    assert boards["uno_r4"]["ram_bytes"] == 32768
    assert "Makefile" in written["files"]
    assert all((folder / "fw" / file).is_file() for file in written["files"])


@pytest.mark.parametrize(("is_terminal", "columns"), [(True, 60), (True, 80), (False, 80)])
def test_the_names_of_the_boards_are_whole_however_narrow_the_output(
    is_terminal: bool,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")  # No colours.
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    assert main(["boards"]) == 0

    out = capsys.readouterr().out
    assert set(BOARDS) <= set(out.split())
    assert "…" not in out
    if columns == 80:  # A line for each board.
        rows = [line.split() for line in out.splitlines()]
        assert [
            "stm32f405",
            "cortex-m4",
            "168",
            "1,024",
            "128",
            "qemu,",
            "renode",
            "bare-metal",
        ] in rows
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_explains_itself(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([word, "--help"])

    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"example:\n  kprune {word}" in text
    assert "--json" in text


READERS = [
    "inspect {}",
    "repack {} -o small.tflite",
    "to-c {} -o c",
    "to-c-array {} -o c",
    "firmware {} --board uno_r4 -o fw2",
    "validate masked.keras {} --data x.npy",
]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("slim missing.keras -o s.keras", "No such file: missing.keras"),
        ("slim net.tflite -o s.keras", "net.tflite is no .keras file. Expected a model saved by"),
        ("summary cut.keras", "cut.keras is damaged, cut short or no .keras file"),
        ("summary flipped.keras", "flipped.keras is damaged, cut short or no .keras file"),
        ("summary arrays.keras", "arrays.keras is damaged, cut short or no .keras file"),
        ("slim masked.keras -o s.h5", "must be a .keras file, got s.h5"),
        ("summary . --json", ". is a folder. Expected a model saved by Keras"),
        ("to-c-array masked.keras -o c", "masked.keras: not a TensorFlow Lite flatbuffer"),
        ("inspect cut.tflite", "cut.tflite: not a sound TensorFlow Lite flatbuffer"),
        ("inspect .", ". is a folder. Expected a TensorFlow Lite model (.tflite)"),
        *(
            (command.format("no.tflite"), "No such file: no.tflite. Expected a TensorFlow Lite")
            for command in READERS
        ),
        *(
            (command.format("masked.keras"), "masked.keras: not a TensorFlow Lite flatbuffer")
            for command in READERS
        ),
        ("simulate . --data nosuch.npy", "No such file: nosuch.npy. Expected a .npy file"),
        ("to-tflite masked.keras --data no.npy -o t.tflite", "No such file: no.npy. Expected a"),
        ("validate masked.keras net.tflite --data no.npz", "No such file: no.npz. Expected a"),
        ("simulate . --data cut.npy", "cut.npy is no .npy or .npz file of numbers, or damaged"),
        ("to-c-array net.tflite --name 2fast -o c", "'2fast'"),
        ("to-c-array net.tflite -o x.npy", "it is a file"),
        ("repack masked.keras -o small.tflite", "masked.keras: not a TensorFlow Lite flatbuffer"),
        ("repack net.tflite -o .", ". is a folder: the output must be a file"),
        ("to-c-array net.tflite --with-test-data -3 -o c", "count must be at least 1, got -3"),
        ("simulate . --data x.npy --timeout nan", "timeout must be a number of seconds above 0"),
        ("validate masked.keras net.tflite --data scalar.npy", "x has no samples"),
        ("boards uno_r5", "Did you mean"),
        ("simulate . --data x.npy", "there is none"),
        ("firmware net.tflite --board host -o fw2", "kprune writes no project for board 'host'"),
        ("validate masked.keras net.tflite --data empty.npz", "expected x, and y if known"),
        ("flash .", "is no firmware project"),
        ("to-tflite masked.keras --data x.npy -o t.tflite", "still has masks"),
        ("to-tflite masked.keras --data net.tflite -o t.tflite", "net.tflite is no .npy or .npz"),
    ],
)
def test_mistakes_are_told_in_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())

    assert main(argv.split()) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kprune: ")
    assert message in err
    assert "Errno" not in err
    assert "pickle" not in err  # NumPy's advice to load whatever it is.
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("argv", ["boards", "boards --json", "inspect net.tflite"])
def test_who_stops_reading_hears_nothing(folder: Path, argv: str) -> None:
    command = [sys.executable, "-m", "kprune", *argv.split()]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()

    assert (process.returncode, errors) == (1, "")


def test_a_model_of_the_older_format_is_let_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits_network().save(tmp_path / "old.h5")

    assert run(capsys, "summary", tmp_path / "old.h5")["layers"][0]["name"] == "stem"


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        main(["slim", "missing.keras", "-o", "s.keras", "--debug"])


LIGHT = [
    "to-c-array net.tflite -o light",
    "to-c net.tflite -o light_c",
    "repack net.tflite -o light.tflite",
    "inspect net.tflite",
]


@pytest.mark.parametrize("argv", ["--help", "--version", "boards", *LIGHT])
def test_light_commands_load_neither_tensorflow_nor_matplotlib(folder: Path, argv: str) -> None:
    program = (
        "import sys\n"
        "from kprune.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'jax', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    subprocess.run([sys.executable, "-c", program, *argv.split()], cwd=folder, check=True)
