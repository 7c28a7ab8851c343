"""The main job, shortened: everything it promises is there, and true."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import kprune
from kprune import demo


def test_the_demo_writes_what_it_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("tflite_micro", "sklearn", "arm-none-eabi-gcc", "qemu-system-arm")
    monkeypatch.setattr(demo, "EPOCHS", 3)

    report = demo.run_demo(tmp_path / "out")

    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "c",
        "dense.keras",
        "digits.tflite",
        "masked.keras",
        "report.json",
        "report.png",
        "slim.keras",
        "tflm",
    ]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    dense, *_, slim = report["stages"]
    assert slim["arithmetic"] == "int8, TFLM"
    assert slim["macs"] <= 0.25 * dense["macs"]
    flatbuffer = (tmp_path / "out" / "digits.tflite").read_bytes()
    text = (tmp_path / "out" / "tflm" / "digits_model_data.cc").read_text()
    assert bytes(int(b, 16) for b in re.findall(r"0x([0-9a-f]{2})", text)) == flatbuffer
    _, (x_test, y_test) = demo.load_digits()
    scores = kprune.run_tflite(flatbuffer, x_test, interpreter="tflm")
    assert slim["accuracy"] == (scores.argmax(-1) == y_test).mean()
    dense_board, slim_board = report["board"]
    assert slim_board["accuracy"] == slim["accuracy"]
    assert slim_board["instructions"] < 0.5 * dense_board["instructions"]
    assert (tmp_path / "out" / "c" / "digits.c").is_file()


def test_a_folder_that_cannot_be_made_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("sklearn")
    monkeypatch.setattr(demo, "train", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("mine")

    for folder in (tmp_path / "file", tmp_path / "file" / "demo"):
        with pytest.raises(OSError, match=re.escape(f"cannot write to '{folder}'")):
            demo.run_demo(folder)

    assert (tmp_path / "file").read_text() == "mine"


def test_the_test_images_are_not_among_the_training_images() -> None:
    (x, _), (x_test, y_test) = demo.load_digits()

    assert (len(x), len(x_test)) == (1437, 360)
    assert np.bincount(y_test).min() >= 34
    assert not {a.tobytes() for a in x} & {a.tobytes() for a in x_test}


def test_missing_digits_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(kprune.ToolNotFoundError, match=r"pip install 'kprune\[demo\]'"):
        demo.load_digits()
