"""Files that were computed → a folder: whole, or not at all."""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path


def write_files(files: Mapping[str, str | bytes], folder: str | os.PathLike) -> list[Path]:
    """Write the files that `to_c_array` and `to_c` give, all of them or none.

    Files of these names that are there already are replaced at the end, when everything has
    been written beside them; they keep their permissions, and links stay links. If anything
    fails, the folder is as it was before; a folder that was made for the files is removed again.
    What cannot be replaced (`/dev/null`, `/dev/stdout`, a pipe) is written into, last of all.

    Args:
        files: Content by file name. Text is written as UTF-8 with the line ends it has.
        folder: Where to; made if missing, with its parents.

    Returns:
        The paths of the files, in the order of `files`.

    Raises:
        ValueError: A file name is empty or has a folder in it.
        OSError: The folder cannot be made or written to, or a file name is a folder there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path] = write_files({"gesture.h": "#define GESTURE 1\\n"}, folder + "/firmware")
        ...     path.read_text()
        '#define GESTURE 1\\n'
    """
    for name in files:
        if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
            raise ValueError(
                f"write_files got the file name {name!r}, expected a plain name such as "
                "'gesture.h'. Choose where it goes with `folder`."
            )
    folder = Path(folder)
    made = _missing(folder)
    try:
        if folder.is_file():
            raise NotADirectoryError(None, "it is a file")
        folder.mkdir(parents=True, exist_ok=True)
        return _write(files, folder)
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise type(error)(
                f"write_files cannot write to {str(folder)!r}: {reason}. Nothing was written; "
                "choose a folder that you may write to."
            ) from error
        raise


def claim(folder: Path) -> None:
    """Make a folder and write to it once: after a training it is late to hear that one cannot.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    for probe in write_files({".kprune-probe": ""}, folder):
        probe.unlink()


def _missing(folder: Path) -> list[Path]:
    """The folders that must be made, the deepest first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def _write(files: Mapping[str, str | bytes], folder: Path) -> list[Path]:
    contents = {
        folder / name: content.encode() if isinstance(content, str) else content
        for name, content in files.items()
    }
    streams = [path for path in contents if _is_stream(path)]
    with _replaced({path: data for path, data in contents.items() if path not in streams}):
        for path in streams:
            number = standard_stream(path)
            # By its name, a file behind /dev/stdout would begin anew.
            opened = path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")
            with opened as stream:
                stream.write(contents[path])
    return list(contents)


@contextlib.contextmanager
def _replaced(contents: Mapping[Path, bytes]) -> Iterator[None]:
    """Replace files; put the old ones back if that fails, or what is done in the meantime."""
    targets = [Path(os.path.realpath(path)) for path in contents]
    new = [_beside(target, "new") for target in targets]
    old = [_beside(target, "old") for target in targets]
    existed = [os.path.lexists(target) for target in targets]
    try:
        for path, data in zip(new, contents.values(), strict=True):
            with path.open("xb") as file:
                file.write(data)
        for path, target in zip(new, targets, strict=True):
            if target.is_dir():
                raise IsADirectoryError(None, f"{target.name!r} is a folder there")
            if target.exists():
                path.chmod(stat.S_IMODE(target.stat().st_mode))
        for i, target in enumerate(targets):
            if existed[i]:
                target.rename(old[i])
            new[i].rename(target)
        yield
    except BaseException:
        for i, target in enumerate(targets):
            if old[i].exists():
                old[i].replace(target)
            elif not existed[i]:
                target.unlink(missing_ok=True)
        raise
    finally:
        for path in (*new, *old):
            path.unlink(missing_ok=True)


def _beside(target: Path, kind: str) -> Path:
    # Same folder, so same file system: a rename is then one step.
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}")


def _is_stream(path: Path) -> bool:
    """Whether bytes go through it to somewhere else: a device, a pipe, stdout."""
    is_own = not path.exists() or path.is_file() or path.is_dir()
    return not is_own or standard_stream(path) is not None


def standard_stream(path: Path) -> int | None:
    """1 or 2 if the path leads to what stdout or stderr is: `/dev/stdout`, whatever is behind."""
    for number in (1, 2):
        with contextlib.suppress(OSError):  # it leads nowhere, or stdout is closed
            if os.path.samestat(path.stat(), os.fstat(number)):
                return number
    return None
