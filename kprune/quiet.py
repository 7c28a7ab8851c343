"""Keeps back what TensorFlow writes about itself, so that results can be read."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import IO


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Keep back all output of the block; yields a function that reads it, for an error's sake.

    TensorFlow's C++ half writes straight to the file descriptors, past Python's streams.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as undo:
        log = undo.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for descriptor in (1, 2):
            kept = os.dup(descriptor)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, descriptor)
            os.dup2(log.fileno(), descriptor)
        # Only stdout: a logger that is made inside would keep a stderr that is closed afterwards.
        undo.enter_context(contextlib.redirect_stdout(log))
        undo.callback(log.flush)
        yield lambda: _content(log)


def _content(log: IO[str]) -> str:
    log.flush()
    log.seek(0)
    return log.read()
