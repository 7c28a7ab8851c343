"""What an operator becomes: one call of a kernel, with the constants it needs. Plain data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kprune.flatbuffer import Network, Operator, Tensor


class Refusal(Exception):
    """Why one operator has no code; collected, and raised as one UnsupportedOpError."""


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
    """A constant array of numbers: `static const int8_t conv1_weights[72] = { … };`"""

    suffix: str
    type: str
    values: np.ndarray

    @property
    def num_bytes(self) -> int:
        return self.values.size * np.dtype(self.type.removesuffix("_t")).itemsize


@dataclasses.dataclass(frozen=True)
class Record:
    """A constant struct, or an array of them.

    Attributes:
        suffix: The constant is called `<layer>_<suffix>`.
        type: The struct of kp_nn.h.
        lines: What stands between the braces, with a comment for each line or "". The text
            `{layer}` stands for the layer's name.
        num_bytes: On a 32-bit microcontroller.
        is_array: Whether each line is one element.
    """

    suffix: str
    type: str
    lines: tuple[tuple[str, str], ...]
    num_bytes: int
    is_array: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """An argument that is a tensor's memory; `offset` in elements."""

    tensor: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Scratch:
    """An argument that is the step's scratch memory."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """An argument that is a constant of the step: an array, or the address of a struct."""

    suffix: str


Argument = Place | Scratch | Constant | str


@dataclasses.dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple[Argument, ...]


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How an output may share memory with an input that nothing reads later.

    The input must begin at least `least` and at most `most` bytes behind the output.
    """

    least: int = 0
    most: float = math.inf


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator as C.

    Attributes:
        summary: What it does, for a person: `Conv2D 3x3, stride 2, relu`.
        constants: Weights and parameters, in the order in which they are printed.
        calls: The calls, in order.
        scratch_bytes: Memory that is free again afterwards.
        overlaps: By input tensor. Inputs that are not named share nothing with the output.
    """

    summary: str
    constants: tuple[Array | Record, ...]
    calls: tuple[Call, ...]
    scratch_bytes: int = 0
    overlaps: Mapping[int, Overlap] = dataclasses.field(default_factory=dict)


class Op:
    """One operator with its tensors at hand; its methods refuse what no kernel can do."""

    def __init__(self, network: Network, operator: Operator) -> None:
        self.network = network
        self.operator = operator
        self.options = operator.options

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(self.network.tensors[i] for i in self.operator.inputs if i >= 0)

    @property
    def output(self) -> Tensor:
        return self.network.tensors[self.operator.outputs[0]]

    def input(self, position: int) -> Tensor:
        tensor = self.optional_input(position)
        if tensor is None:
            raise Refusal(f"input {position} is absent")
        return tensor

    def optional_input(self, position: int) -> Tensor | None:
        indices = self.operator.inputs
        if position >= len(indices) or indices[position] < 0:
            return None
        return self.network.tensors[indices[position]]

    def constant(self, position: int, dtype: str) -> np.ndarray:
        tensor = self.input(position)
        if tensor.data is None:
            raise Refusal(f"{describe(tensor)} must be constant")
        if tensor.dtype != np.dtype(dtype):
            raise Refusal(f"{describe(tensor)} is {tensor.dtype}, expected {dtype}")
        return tensor.data

    def option(self, name: str, default: Any = 0) -> Any:
        return self.options.get(name, default)


def describe(tensor: Tensor) -> str:
    return f"tensor {tensor.index} {tensor.name!r}"


def int8(tensor: Tensor) -> tuple[np.float32, int]:
    """Scale and zero point of an int8 tensor that has one of each."""
    if tensor.dtype != np.int8:
        raise Refusal(f"{describe(tensor)} is {tensor.dtype}, expected int8")
    if len(tensor.scale) != 1:
        raise Refusal(f"{describe(tensor)} has {len(tensor.scale)} scales, expected 1")
    if not 0 < tensor.scale[0] < np.inf:
        raise Refusal(f"{describe(tensor)} has scale {tensor.scale[0]}")
    zero_point = int(tensor.zero_point[0])
    if not -128 <= zero_point <= 127:
        raise Refusal(f"{describe(tensor)} has zero point {zero_point}, beyond int8")
    return np.float32(tensor.scale[0]), zero_point


def same_scale(a: Tensor, b: Tensor) -> bool:
    return int8(a) == int8(b)


def size(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def record(suffix: str, type: str, *lines: tuple[Sequence[int] | str, str]) -> Record:
    """A struct whose fields are all int32_t or, as text, pointers."""
    texts = tuple(
        (values if isinstance(values, str) else ", ".join(str(value) for value in values), comment)
        for values, comment in lines
    )
    return Record(suffix, type, texts, 4 * sum(text.count(",") + 1 for text, _ in texts))
