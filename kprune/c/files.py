"""Files that were computed → a folder: whole, or not at all."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def write_files(files: Mapping[str, str | bytes], folder: str | os.PathLike) -> list[Path]:
    """Write the files that `to_c_array` and `to_c` give, all of them or none.

    Files of these names that are there already are replaced at the end, when everything has
    been written beside them. If anything fails, the folder is as it was before; a folder that
    was made for the files is removed again.

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


def _missing(folder: Path) -> list[Path]:
    """The folders that must be made, the deepest first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def _write(files: Mapping[str, str | bytes], folder: Path) -> list[Path]:
    targets = [folder / name for name in files]
    new = [_beside(target, "new") for target in targets]
    old = [_beside(target, "old") for target in targets]
    existed = [os.path.lexists(target) for target in targets]
    try:
        for path, content in zip(new, files.values(), strict=True):
            with path.open("xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
        for target in targets:
            if target.is_dir():
                raise IsADirectoryError(None, f"{target.name!r} is a folder there")
        for i, target in enumerate(targets):
            if existed[i]:
                target.rename(old[i])
            new[i].rename(target)
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
    return targets


def _beside(target: Path, kind: str) -> Path:
    # Same folder, so same file system: a rename is then one step.
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}")
