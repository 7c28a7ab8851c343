"""What is printed for people is executed."""

import json
import re
import subprocess
import sys
from pathlib import Path

from conftest import require

from kprune.cli import main

ROOT = Path(__file__).parent.parent


def test_the_quickstart_runs_and_meets_its_budget(tmp_path: Path) -> None:
    require("sklearn", "tflite_micro", "arm-none-eabi-gcc", "qemu-system-arm")
    example = str(ROOT / "examples" / "quickstart.py")
    # Seeded, as the example itself is not: of many trainings, a rare one comes out worse.
    seeded = "import keras, runpy, sys; keras.utils.set_random_seed(0); runpy.run_path(sys.argv[1])"

    shown = subprocess.run(
        [sys.executable, "-c", seeded, example],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert "188,992 (25.0%)" in shown
    assert _figures(r"kept +[\d.]+% +([\d.]+)%", shown)[-1] <= 25.0
    assert "the same bytes: True" in shown
    in_float = _figures(r"val_accuracy: ([\d.]+)", shown)[-1]
    in_int8 = _figures(r"bytes, accuracy ([\d.]+)", shown)[-1]
    assert in_int8 >= 0.95, shown
    assert abs(in_int8 - in_float) <= 0.02, shown
    assert (tmp_path / "firmware" / "tflm" / "digits_model_data.cc").is_file()


def _figures(pattern: str, text: str) -> list[float]:
    return [float(figure) for figure in re.findall(pattern, text)]


def test_the_example_of_a_sweep_trains_a_point(tmp_path: Path) -> None:
    require("sklearn")
    example = str(ROOT / "examples" / "sweep.py")

    assert main(["sweep", example, "--macs", "0.1", "-o", str(tmp_path / "points")]) == 0

    point = json.loads((tmp_path / "points" / "macs-0.1" / "point.json").read_text())
    assert point["macs"] <= 75_596 and point["metrics"]["accuracy"] >= 0.9


def test_the_readme_shows_the_quickstart() -> None:
    code = (ROOT / "examples" / "quickstart.py").read_text().split('"""\n', 1)[1].strip()

    assert f"```python\n{code}\n```" in (ROOT / "README.md").read_text()


def test_every_command_in_the_readme_exists() -> None:
    from kprune.cli import COMMANDS

    named = set(re.findall(r"`kprune ([a-z-]+)", (ROOT / "README.md").read_text()))

    assert named <= set(COMMANDS)
    assert set(COMMANDS) - named <= {"demo"}
