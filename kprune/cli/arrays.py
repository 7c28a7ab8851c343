"""Arrays that a user names: `.npy` for one, `.npz` for several."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

from kprune.cli.inputs import check_input
from kprune.cli.registry import write_output


def read_arrays(path: Path) -> Any:
    """An array, or from an `.npz` arrays by name."""
    import numpy as np

    check_input(path, "a .npy file of an array, or an .npz file of several")
    try:
        data = np.load(path, allow_pickle=False)
        return data if isinstance(data, np.ndarray) else {name: data[name] for name in data.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy takes any other file for a pickle, and tells how to load that.
        raise ValueError(
            f"{path} is no .npy or .npz file of numbers, or damaged. Expected an array written by "
            "np.save(path, x), or several by np.savez(path, x=x, y=y)."
        ) from error


def load_arrays(path: Path) -> Any:
    """An array, or from an `.npz` of several a list of them in their order."""
    data = read_arrays(path)
    if not isinstance(data, dict):
        return data
    return list(data.values()) if len(data) > 1 else next(iter(data.values()), [])


def save_arrays(path: Path, data: Any) -> None:
    """The opposite: a list of arrays as an `.npz`."""
    import numpy as np

    several = isinstance(data, list)
    if path.suffix != (".npz" if several else ".npy"):
        kind, suffix = ("several outputs", ".npz") if several else ("one output", ".npy")
        raise ValueError(
            f"This network has {kind}: the output must be a {suffix} file, got {path}."
        )
    buffer = io.BytesIO()
    np.savez(buffer, *data) if several else np.save(buffer, data)
    write_output(path, buffer.getvalue())
