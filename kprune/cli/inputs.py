"""Files that a user names for reading: what is wrong with one is told by its name."""

from pathlib import Path

from kprune.errors import FlatbufferError
from kprune.flatbuffer import read


def check_input(path: Path, expected: str) -> None:
    """Raises OSError, with what was expected there, unless the path leads to something to read."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Expected {expected}.")
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}. Expected {expected}.")


def read_flatbuffer(path: Path) -> bytes:
    """The bytes of a sound flatbuffer."""
    check_input(path, "a TensorFlow Lite model (.tflite)")
    flatbuffer = path.read_bytes()
    try:
        read(flatbuffer)
    except FlatbufferError as error:
        raise FlatbufferError(f"{path}: {error}") from error
    return flatbuffer
