"""What a user meets before the first line of work."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kprune
from kprune.demo import digits_network

ROOT = Path(__file__).parent.parent


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
    model = kprune.add_masks(digits_network())
    model.save(tmp_path / "masked.keras")

    python(f"{order}\nkeras.models.load_model('masked.keras')", tmp_path)


def test_each_file_imports_only_from_files_above_it() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Words")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = [name for cell in cells for name in re.findall(r"`([\w/]+)`", cell)]
    place = {name.replace("/", "."): number for number, name in enumerate(listed)}

    files = [p for p in (ROOT / "kprune").rglob("*.py") if "__" not in p.name]
    for file in files:
        module = ".".join(file.relative_to(ROOT / "kprune").with_suffix("").parts)
        if not module.startswith("cli."):
            below = [name for name in imported(file) if place[name] >= place[module]]
            assert not below, f"{module} imports {below}"


def test_files_that_keras_brings_along_may_be_half_loaded_then(tmp_path: Path) -> None:
    """Whichever file is imported first: it loads Keras, and Keras those that register layers."""
    registering = re.findall(r"import kprune\.(\w+)", (ROOT / "kprune" / "__init__.py").read_text())
    needed = {n for name in registering for n in imported(ROOT / "kprune" / f"{name}.py")}
    assert {"importance", "rescaling"} <= needed

    for name in sorted(needed):
        python(f"import kprune.{name}", tmp_path)


def imported(file: Path) -> list[str]:
    """The files of kprune that a file imports when it is loaded, as dotted names."""
    nodes = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ImportFrom)]
    names = []
    for node in nodes:
        package, _, module = (node.module or "").partition(".")
        if package == "kprune":
            whole = module in ("", "c")  # from kprune.c import names
            parts = [f"{module}.{a.name}" for a in node.names] if whole else [module]
            names += [name.strip(".") for name in parts]
    return names


def test_every_public_name_can_be_had() -> None:
    assert [name for name in kprune.__all__ if getattr(kprune, name, None) is None] == []
    assert all(getattr(kprune, name).__doc__ for name in kprune.__all__)


def test_the_wheel_carries_what_is_needed_later(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("kprune", "microcontroller"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)

    subprocess.run([sys.executable, "-m", "pip", *build, source], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    carried = [
        *(ROOT / "microcontroller").rglob("*"),
        *(ROOT / "kprune" / "c" / "runtime").iterdir(),
    ]
    expected = {str(p.relative_to(ROOT)) for p in carried if p.is_file()}
    expected = {f"kprune/{name}" if name[0] == "m" else name for name in expected}
    assert expected <= packed
    assert {"kprune/py.typed", "kprune/__init__.pyi", "kprune/cli/__init__.py"} <= packed
