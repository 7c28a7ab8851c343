"""What is written inside is kept back, whichever way it is written."""

import logging
import os
import warnings

import pytest

from kprune.quiet import quiet


def test_streams_descriptors_and_warnings_are_kept_back_and_can_be_read(
    capfd: pytest.CaptureFixture[str],
) -> None:
    print("before")
    with quiet() as said:
        print("python")
        os.write(1, b"descriptor\n")
        os.write(2, b"error\n")
        warnings.warn("a warning", stacklevel=1)
        assert "python" in said()
        assert "descriptor" in said()
    print("after")

    assert capfd.readouterr() == ("before\nafter\n", "")


def test_an_error_passes_and_the_streams_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError("inside")
    os.write(2, b"heard\n")

    assert capfd.readouterr().err == "heard\n"


def test_a_logger_that_is_made_inside_can_be_used_afterwards(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet():
        handler = logging.StreamHandler()
    handler.emit(logging.makeLogRecord({"msg": "still here"}))

    assert capfd.readouterr().err == "still here\n"
