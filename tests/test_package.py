"""What a user meets before the first line of work."""

import subprocess
import sys
from pathlib import Path

import pytest

import kprune


def python(program: str, cwd: Path) -> None:
    subprocess.run([sys.executable, "-c", program], cwd=cwd, check=True)


def test_importing_kprune_loads_nothing_heavy(tmp_path: Path) -> None:
    python(
        "import sys, kprune\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy",
        tmp_path,
    )


@pytest.mark.parametrize("order", ["import keras, kprune", "import kprune, keras"])
def test_importing_kprune_is_enough_to_load_a_masked_model(order: str, tmp_path: Path) -> None:
    model = kprune.add_masks(kprune.demo.digits_network())
    model.save(tmp_path / "masked.keras")

    python(f"{order}\nkeras.models.load_model('masked.keras')", tmp_path)


def test_every_public_name_can_be_had() -> None:
    assert [name for name in kprune.__all__ if getattr(kprune, name, None) is None] == []
    assert all(getattr(kprune, name).__doc__ for name in kprune.__all__)
