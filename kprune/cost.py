"""What a network costs, as a function of its live channels; and how little it may cost.

One implementation serves the projection, the report and the tests. Every cost here is a sum of
terms `factor * live channels on one side * live channels on the other`: a weight that is indexed by
two sets of channels has that many elements, and each element is used a fixed number of times.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

import keras
import numpy as np

from kprune.channels import Trace
from kprune.layers import ChannelMask
from kprune.rules import Weight

# The kinds of cost, with the words for a table.
KINDS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Budget:
    """How much of a network may be kept. Every cost that is given must hold.

    Args:
        macs: Multiply-accumulates of one inference (FLOPs are twice that).
        params: Parameters: all weights but running statistics, Keras's "Trainable params".

    A float in (0, 1] is the share of the original to keep, an int an absolute number.

    Raises:
        ValueError: No cost given, a share outside (0, 1], or a number below 1.
        TypeError: Neither float nor int.

    Example:
        >>> Budget(macs=0.25, params=50_000)
        Budget(macs=0.25, params=50000)
    """

    macs: float | int | None = None
    params: float | int | None = None

    def __post_init__(self) -> None:
        if not self.asked:
            raise ValueError(
                f"A budget needs at least one of {', '.join(KINDS)}: Budget(macs=0.25)."
            )
        for kind, value in self.asked.items():
            _check_amount(kind, value)

    @property
    def asked(self) -> dict[str, float | int]:
        """The costs that are limited, as given."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {kind: value for kind, value in given.items() if value is not None}

    def limits(self, original: Mapping[str, int]) -> dict[str, int]:
        """The greatest cost allowed of each kind, given what the original network costs."""
        return {
            kind: int(value * original[kind]) if isinstance(value, float) else int(value)
            for kind, value in self.asked.items()
        }


def _check_amount(kind: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{kind} must be a float (share to keep) or an int, got {value!r}.")
    if isinstance(value, float) and not 0 < value <= 1:
        raise ValueError(
            f"{kind} as a float must be in (0, 1], got {value}. It is the share to keep: for a "
            "network 4 times cheaper, pass 0.25. For an absolute number, pass an int."
        )
    if not isinstance(value, float) and value < 1:
        raise ValueError(f"{kind} must be at least 1, got {value}.")


class Cost:
    """The cost of a traced network under any gate vector.

    Args:
        trace: The network.

    Raises:
        ValueError: The input shape is not fixed, so that MACs are unknown.

    Example:
        >>> from kprune.channels import trace
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2),
        ... ])
        >>> found = trace(model)
        >>> Cost(found).total(np.ones(found.num_channels, bool))
        {'macs': 18, 'params': 23}
    """

    def __init__(self, trace: Trace) -> None:
        _check_fixed_shape(trace)
        self._num_channels = trace.num_channels
        sides: dict[bytes, int] = {}
        vectors: list[np.ndarray] = []

        def side(channels: np.ndarray) -> int:
            key = channels.tobytes()
            if key not in sides:
                sides[key] = len(vectors)
                vectors.append(channels)
            return sides[key]

        # The vector of no channel: its count is fixed at 1, for terms with fewer than two sides.
        one = -1
        terms = {kind: Counter[tuple[int, int]]() for kind in KINDS}
        for element in elements(trace):
            i, j = ([side(np.ascontiguousarray(c)) for c in element.sides] + [one, one])[:2]
            terms["params"][i, j] += element.params
            terms["macs"][i, j] += element.macs
        self._start = np.cumsum([0, *map(len, vectors)])
        self._channels = np.concatenate(vectors)
        self._sides = {k: np.array(list(t), int).reshape(-1, 2) for k, t in terms.items()}
        self._factors = {k: np.array(list(t.values()), float) for k, t in terms.items()}
        self._squares = {k: self._square(k) for k in KINDS}

    def total(self, gates: np.ndarray) -> dict[str, int]:
        """Every kind of cost under a gate vector."""
        counts = self._counts(gates)
        return {
            kind: round(float(self._factors[kind] @ counts[sides].prod(axis=1)))
            for kind, sides in self._sides.items()
        }

    def increase(self, gates: np.ndarray) -> dict[str, np.ndarray]:
        """For each channel, what opening it (alone) adds to each kind of cost.

        For a channel that is open already, what a second one like it would add.
        """
        counts = self._counts(gates)
        return {kind: self._increase(kind, counts) for kind in KINDS}

    def _counts(self, gates: np.ndarray) -> np.ndarray:
        """Live channels of each vector; the last entry, which `-1` finds, is the fixed 1."""
        live = np.add.reduceat(gates[self._channels].astype(np.int64), self._start[:-1])
        return np.append(live, 1)

    def _increase(self, kind: str, counts: np.ndarray) -> np.ndarray:
        sides, factors = self._sides[kind], self._factors[kind]
        # (a + da)(b + db) - ab = da b + a db + da db. The first two parts: each vector gains per
        # live channel what stands on the other side of its terms.
        gain = np.zeros(len(counts))
        for this, other in ((0, 1), (1, 0)):
            np.add.at(gain, sides[:, this], factors * counts[sides[:, other]])
        per_entry = np.repeat(gain[:-1], np.diff(self._start))
        linear = np.bincount(self._channels, per_entry, self._num_channels)
        return linear + self._squares[kind]

    def _square(self, kind: str) -> np.ndarray:
        """The part da db: for channels that a weight has on both sides (residual streams)."""
        square = np.zeros(self._num_channels)
        for (i, j), factor in zip(self._sides[kind], self._factors[kind], strict=True):
            if i >= 0 and j >= 0:
                a, b = (
                    np.bincount(self._channels[self._start[k] : self._start[k + 1]], minlength=1)
                    for k in (i, j)
                )
                n = min(len(a), len(b))
                square[:n] += factor * a[:n] * b[:n]
        return square


@dataclass(frozen=True)
class Element:
    """A weight, or part of one: `params` and `macs` for each pair of live channels of its sides."""

    layer: str
    sides: list[np.ndarray]
    params: int
    macs: int


def elements(trace: Trace) -> list[Element]:
    """All weights of a traced network, in the order of the calls."""
    found = []
    seen: set[int] = set()
    for call, flow in trace.steps:
        layer = call.operation
        if not isinstance(layer, keras.layers.Layer) or isinstance(layer, ChannelMask):
            continue
        for variable in layer.weights:
            weight = flow.weights.get(variable.name)
            if weight is None:
                weight = Weight({}, statistic=layer.trainable and not variable.trainable)
            fixed = _fixed_size(variable.shape, weight)
            # A layer that is called again computes again, but has its weights only once.
            params = 0 if weight.statistic or id(layer) in seen else fixed
            sides = list(weight.axes.values())
            found.append(Element(layer.name, sides, params, weight.uses * fixed))
        seen.add(id(layer))
    return found


def _fixed_size(shape: tuple[int, ...], weight: Weight) -> int:
    """Elements of a weight per combination of the channels that index it."""
    indexed = {axis % len(shape) for axis in weight.axes}
    return int(np.prod([n for axis, n in enumerate(shape) if axis not in indexed], dtype=int))


def _check_fixed_shape(trace: Trace) -> None:
    for tensor in keras.tree.flatten(trace.graph.inputs):
        if None in tensor.shape[1:]:
            raise ValueError(
                f"Input {tensor.name!r} has shape {tensor.shape[1:]}: costs are only known for a "
                "fixed shape. Build the model with the height, width or length it will run at."
            )
