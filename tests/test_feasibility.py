"""What is told before the first step."""

import functools
import io

import keras
import numpy as np
import pytest
from keras import layers
from rich.console import Console

from kprune import Budget, BudgetError, feasibility
from kprune.boards import TFLM_FLASH_BYTES, TFLM_RAM_BYTES, board
from kprune.channels import Trace, trace
from kprune.cost import MEMORY, Cost
from kprune.feasibility import Feasibility, assess, assess_memory
from kprune.projection import cheapest


@functools.cache
def wide() -> tuple[Trace, Cost]:
    """Too much RAM for small boards, and a normalisation that holds its channels."""
    x = inputs = keras.Input((40, 40, 1))
    x = layers.Conv2D(24, 3, padding="same", name="conv")(x)
    x = layers.Conv2D(8, 3, strides=2, name="narrow")(x)
    x = layers.Reshape((-1,), name="flat")(layers.GlobalAveragePooling2D(name="mean")(x))
    x = layers.Softmax(name="shares")(layers.Dense(6, name="kept")(x))
    found = trace(keras.Model(inputs, layers.Dense(2, name="scores")(x)))
    return found, Cost(found, MEMORY)


def shown(feasible: Feasibility) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(feasible)
    return console.export_text()


def test_costs_limits_and_the_least_are_those_of_the_projection() -> None:
    found, cost = wide()

    feasible = assess(found, cost, Budget(macs=0.5, ram_bytes=0.5))

    full = cost.total(np.ones(found.num_channels, bool))
    assert feasible.full == full
    assert feasible.limits == {"macs": full["macs"] // 2, "ram_bytes": full["ram_bytes"] // 2}
    assert feasible.least == cost.total(cheapest(found, cost, feasible.limits))


def test_what_stays_whole_is_named_with_its_reason() -> None:
    feasible = assess(*wide(), Budget(macs=0.5))

    assert list(feasible.fixed) == ["kept"]
    assert "'shares'" in feasible.fixed["kept"]
    assert "kept: 'shares'" in shown(feasible)


def test_a_board_is_named_when_only_a_smaller_network_has_room_on_it() -> None:
    found, cost = wide()
    feasible = assess(found, cost, Budget(board="uno_r4"))

    assert feasible.boards["uno_r4"] == {"now": False, "budget": True, "least possible": True}
    for name, fits in feasible.boards.items():
        row = board(name)
        room = row.free_flash_bytes - TFLM_FLASH_BYTES, row.free_ram_bytes - TFLM_RAM_BYTES
        sizes = feasible.full, {**feasible.full, **feasible.limits}, feasible.least
        each = [s["flash_bytes"] <= room[0] and s["ram_bytes"] <= room[1] for s in sizes]
        assert list(fits.values()) == each and any(each) and not each[0]
    assert "uno_r4" in shown(feasible)


def test_a_budget_without_bytes_says_nothing_of_boards_within_it() -> None:
    feasible = assess(*wide(), Budget(macs=0.5))

    assert set(feasible.boards["uno_r4"]) == {"now", "least possible"}


def test_flash_and_ram_of_a_network_that_has_no_int8_form_are_unknown_for_a_reason() -> None:
    inputs = keras.Input((4, 4, 2))
    x = layers.ELU(name="elu")(layers.Conv2D(4, 3, name="conv")(inputs))
    found = trace(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))

    feasible = assess_memory(found, Budget(macs=0.5))

    assert set(feasible.full) == {"macs", "params"}
    assert "flash and RAM are unknown: " in shown(feasible) and "'elu'" in feasible.unknown
    with pytest.raises(BudgetError, match="asked 1, least possible"):
        assess_memory(found, Budget(macs=1))


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (TypeError("no\ntrace"), "no"),
        (KeyError(), "KeyError"),
        (TypeError("Model ...\n\nException encountered: no class 'Mine'.\n\nconfig="), "no class"),
    ],
)
def test_whatever_conversion_raises_is_a_line_of_the_table(
    monkeypatch: pytest.MonkeyPatch, error: Exception, shown: str
) -> None:
    found, _ = wide()

    def cost(found: Trace, kinds: tuple[str, ...] = ()) -> Cost:
        if MEMORY[0] in kinds:
            raise error
        return Cost(found)

    monkeypatch.setattr(feasibility, "Cost", cost)

    unknown = assess_memory(found, Budget(macs=0.5)).unknown

    assert unknown.startswith(shown) and "\n" not in unknown
