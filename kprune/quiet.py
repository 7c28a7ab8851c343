"""Keeps back what TensorFlow writes about itself, so that results can be read."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Keep back all output of the block; yields a function that reads it, for an error's sake.

    TensorFlow's C++ half writes straight to the file descriptors, past Python's streams.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = {fd: os.dup(fd) for fd in (1, 2)}
        try:
            for fd in kept:
                os.dup2(log.fileno(), fd)
            yield lambda: (log.seek(0), log.read().decode(errors="replace"))[1]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, copy in kept.items():
                os.dup2(copy, fd)
                os.close(copy)
