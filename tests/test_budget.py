"""Budgets as users state them, and their limits."""

import numpy as np
import pytest

from kprune.boards import TFLM_FLASH_BYTES, TFLM_RAM_BYTES, board
from kprune.budget import Budget


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "at least one of macs, params, flash_bytes, ram_bytes, board"),
        ({"macs": 0.0}, ValueError, r"must be in \(0, 1\], got 0.0"),
        ({"macs": 1.5}, ValueError, "4 times cheaper, pass 0.25"),
        ({"params": 0}, ValueError, "params must be at least 1, got 0"),
        ({"macs": "0.25"}, TypeError, "macs must be a float .* or an int, got '0.25'"),
        ({"flash_bytes": "60 KB"}, ValueError, "write a number and one of B, kB, MB, KiB, MiB"),
        ({"ram_bytes": "much"}, ValueError, "'much' is no number of bytes"),
        ({"ram_bytes": "0 KiB"}, ValueError, "at least 1"),
        ({"ram_bytes": None, "board": "uno_r5"}, ValueError, "Did you mean uno_r4"),
        ({"board": "host"}, ValueError, "no room"),
        ({"macs": True}, TypeError, "got True"),
        ({"macs": float("nan")}, ValueError, r"must be in \(0, 1\], got nan"),
        ({"macs": np.float32(1.5)}, ValueError, r"must be in \(0, 1\], got 1.5"),
        ({"board": 3}, TypeError, "board must be a name such as 'uno_r4', got 3"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Budget(**arguments)


def test_a_share_and_a_number_are_limits_in_the_same_unit() -> None:
    budget = Budget(macs=0.25, params=70)

    assert budget.limits({"macs": 1003, "params": 100}) == {"macs": 250, "params": 70}


def test_numbers_of_numpy_are_taken_as_those_of_python() -> None:
    budget = Budget(macs=np.float32(0.25), params=np.float64(1.0), flash_bytes=np.int64(70))

    assert budget == Budget(macs=0.25, params=1.0, flash_bytes=70)
    assert Budget(macs=np.float32(1.0)).limits({"macs": 1000}) == {"macs": 1000}


def test_bytes_may_be_text() -> None:
    budget = Budget(flash_bytes="60 KiB", ram_bytes="1.5 kB")

    assert budget.limits({"flash_bytes": 10**6, "ram_bytes": 10**6}) == {
        "flash_bytes": 61440,
        "ram_bytes": 1500,
    }


def test_a_board_gives_what_program_and_interpreter_leave() -> None:
    uno = board("uno_r4")
    full = {"flash_bytes": 10**6, "ram_bytes": 10**6}

    limits = Budget(board="uno_r4").limits(full)

    assert limits["flash_bytes"] == uno.flash_bytes - uno.reserve.flash_bytes - TFLM_FLASH_BYTES
    assert limits["ram_bytes"] == uno.ram_bytes - uno.reserve.ram_bytes - TFLM_RAM_BYTES
    assert Budget(board="uno_r4", ram_bytes=5000).limits(full)["ram_bytes"] == 5000
    assert Budget(board="uno_r4", ram_bytes=50_000).limits(full)["ram_bytes"] == limits["ram_bytes"]


@pytest.mark.parametrize(
    ("share", "original", "limit"), [(0.29, 100, 29), (0.57, 100, 57), (1 / 3, 300, 100)]
)
def test_a_share_is_not_a_step_short_for_how_floats_round(share, original, limit):
    assert Budget(macs=share).limits({"macs": original}) == {"macs": limit}
