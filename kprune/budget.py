"""What may be kept of a network, as a user states it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kprune.boards import TFLM_FLASH_BYTES, TFLM_RAM_BYTES, Board, board
from kprune.cost import KINDS

Amount = float | int | str

_UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


@dataclass(frozen=True)
class Budget:
    """How much of a network may be kept. Every cost that is given must hold.

    Args:
        macs: Multiply-accumulates of one inference (FLOPs are twice that), in the layers that
            kprune has a rule for: `kprune.summary` names the others.
        params: Parameters: all weights but running statistics, Keras's "Trainable params".
        flash_bytes: Bytes of the int8 file that `to_tflite` makes.
        ram_bytes: Bytes of the arena that TensorFlow Lite Micro needs for it, as `to_c_array`
            states it. The stand-alone C of `to_c` needs less of both.
        board: Name of a board: flash and RAM as in the table of `kprune boards`, less what the
            program around the network takes, and TensorFlow Lite Micro besides its arena.

    A float in (0, 1] is the share of the original to keep, an int an absolute number; bytes may
    be text such as "60 KiB".

    Raises:
        ValueError: No cost given, a share outside (0, 1], a number below 1, text that is no
            number of bytes, an unknown board, or one without room for any network.
        TypeError: Neither float nor int nor, for bytes, text.

    Example:
        >>> Budget(macs=0.25, flash_bytes="60 KiB").limits({"macs": 1000, "flash_bytes": 90_000})
        {'macs': 250, 'flash_bytes': 61440}
    """

    macs: float | int | None = None
    params: float | int | None = None
    flash_bytes: Amount | None = None
    ram_bytes: Amount | None = None
    board: str | None = None

    def __post_init__(self) -> None:
        if not self.asked:
            raise ValueError(
                f"A budget needs at least one of {', '.join(KINDS)}, board: Budget(macs=0.25)."
            )
        for kind in KINDS:
            if kind in self.asked:
                object.__setattr__(self, kind, _amount(kind, self.asked[kind]))
        if not isinstance(self.board, str | None):
            raise TypeError(f"board must be a name such as 'uno_r4', got {self.board!r}.")
        self.room()

    @property
    def asked(self) -> dict[str, Amount]:
        """What is limited, as given."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cost that are limited."""
        room = self.room()
        return tuple(kind for kind in KINDS if kind in self.asked or kind in room)

    def room(self) -> dict[str, int]:
        """What the board has left for a network; nothing without a board."""
        return {} if self.board is None else _room(board(self.board))

    def limits(self, original: Mapping[str, int]) -> dict[str, int]:
        """The greatest cost allowed of each kind, given what the original network costs.

        Kinds that are not in `original` are left out.
        """
        room = self.room()
        kinds = [kind for kind in self.kinds if kind in original]
        amounts = {kind: self.asked.get(kind, room.get(kind)) for kind in kinds}
        limits = {
            kind: _absolute(amount, original[kind])
            for kind, amount in amounts.items()
            if amount is not None
        }
        return {kind: min(limit, room.get(kind, limit)) for kind, limit in limits.items()}


def room_on(row: Board) -> dict[str, int]:
    """Bytes that a board has left for a network; below 1 where it has none."""
    return {
        "flash_bytes": row.free_flash_bytes - TFLM_FLASH_BYTES,
        "ram_bytes": row.free_ram_bytes - TFLM_RAM_BYTES,
    }


def _room(row: Board) -> dict[str, int]:
    room = room_on(row)
    if min(room.values()) < 1:
        raise ValueError(
            f"Board {row.name!r} has no room to keep to: {row.flash_bytes:,} bytes of flash and "
            f"{row.ram_bytes:,} of RAM, of which the program takes {row.reserve.flash_bytes:,} and "
            f"{row.reserve.ram_bytes:,}, and TensorFlow Lite Micro {TFLM_FLASH_BYTES:,} of flash "
            f"and {TFLM_RAM_BYTES:,} of RAM. "
            "State flash_bytes and ram_bytes."
        )
    return room


def _absolute(amount: Amount, original: int) -> int:
    if isinstance(amount, str):
        return _bytes(amount)
    # Rounded first: 0.29 * 100 is 28.999999999999996.
    return int(round(amount * original, 6)) if isinstance(amount, float) else int(amount)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\w+)\s*", text)
    if not found or found[2] not in _UNITS:
        raise ValueError(
            f"{text!r} is no number of bytes: write a number and one of {', '.join(_UNITS)}, "
            "such as '60 KiB'."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def _amount(kind: str, value: Any) -> Amount:
    """What was given, checked; NumPy's numbers as Python's."""
    is_bytes = kind.endswith("_bytes")
    if isinstance(value, np.integer | np.floating):
        value = value.item()
    number = _bytes(value) if isinstance(value, str) and is_bytes else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        text = ", or text such as '60 KiB'" if is_bytes else ""
        raise TypeError(f"{kind} must be a float (share to keep) or an int{text}, got {value!r}.")
    if isinstance(number, float) and not 0 < number <= 1:
        raise ValueError(
            f"{kind} as a float must be in (0, 1], got {number}. It is the share to keep: for a "
            "network 4 times cheaper, pass 0.25. For an absolute number, pass an int."
        )
    if number < 1 and not isinstance(number, float):
        raise ValueError(f"{kind} must be at least 1, got {number}.")
    return value
