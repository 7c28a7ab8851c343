"""What a network costs, as a function of its live channels.

One implementation serves the projection, the report and the tests. MACs and parameters are sums of
terms `factor * live channels on one side * live channels on the other`: a weight that is indexed by
two sets of channels has that many elements, and each element is used a fixed number of times. Flash
and RAM are those of the int8 file.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from kprune.channels import LiveCounts, Trace
from kprune.footprint import Footprint
from kprune.layers import ChannelMask
from kprune.rules import Weight

# The kinds of cost, with the words for a table.
KINDS = {
    "macs": "MACs",
    "params": "parameters",
    "flash_bytes": "flash bytes",
    "ram_bytes": "RAM bytes",
}
# Those that follow from the Keras model alone; the others need a conversion to int8.
COUNTED = ("macs", "params")
MEMORY = ("flash_bytes", "ram_bytes")


class Cost:
    """The cost of a traced network under any gate vector.

    MACs and parameters are exact, but that layers without a rule count no MACs. Flash is the size
    of the file that `to_tflite` makes, RAM the arena that `to_c_array` states; both are never below
    the truth, and by a few percent above it.

    Args:
        trace: The network.
        kinds: Which costs are asked for besides MACs and parameters. Flash and RAM come together:
            they take a conversion, a few seconds.

    Attributes:
        classes: For each channel the number of its class, shape `(num_channels,)`. Channels of one
            class cost the same, whichever others are open.

    Raises:
        ValueError: The input shape is not fixed, so that MACs are unknown; or, for flash and RAM,
            the network cannot run in int8.
        UnsupportedOpError: As `to_tflite`, for flash and RAM.

    Example:
        >>> from kprune.channels import trace
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2),
        ... ])
        >>> found = trace(model)
        >>> Cost(found).total(np.ones(found.num_channels, bool))
        {'macs': 18, 'params': 23}
    """

    def __init__(self, trace: Trace, kinds: Iterable[str] = COUNTED) -> None:
        _check_fixed_shape(trace)
        self.kinds = tuple(KINDS) if set(kinds) & set(MEMORY) else COUNTED
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
        terms = {kind: Counter[tuple[int, int]]() for kind in COUNTED}
        for element in elements(trace):
            i, j = ([side(np.ascontiguousarray(c)) for c in element.sides] + [one, one])[:2]
            terms["params"][i, j] += element.params
            terms["macs"][i, j] += element.macs
        self._live = LiveCounts(vectors)
        self._sides = {k: np.array(list(t), int).reshape(-1, 2) for k, t in terms.items()}
        self._factors = {k: np.array(list(t.values()), float) for k, t in terms.items()}
        self._squares = {k: self._square(k) for k in COUNTED}
        self._footprint = Footprint(trace) if self.kinds != COUNTED else None
        live = [self._live, *([self._footprint.live] if self._footprint else [])]
        self.classes = _classes(live, trace.num_channels)

    def total(self, gates: np.ndarray) -> dict[str, int]:
        """Every kind of cost under a gate vector."""
        return {kind: self._measure(kind, gates) for kind in self.kinds}

    def fits(self, gates: np.ndarray, limits: Mapping[str, float]) -> bool:
        """Whether a gate vector keeps within all limits."""
        # In the order of KINDS: what is quick to tell first.
        return all(self._fits(kind, gates, limits[kind]) for kind in self.kinds if kind in limits)

    def _fits(self, kind: str, gates: np.ndarray, limit: float) -> bool:
        if kind in COUNTED or self._footprint is None:
            return self._measure(kind, gates) <= limit
        fits = {"flash_bytes": self._footprint.fits_flash, "ram_bytes": self._footprint.fits_ram}
        return fits[kind](gates, limit)

    def _measure(self, kind: str, gates: np.ndarray) -> int:
        if kind in COUNTED:
            counts = self._counts(gates)[self._sides[kind]]
            return round(float(self._factors[kind] @ counts.prod(axis=1)))
        return getattr(self._footprint, kind)(gates)

    def increase(self, gates: np.ndarray) -> dict[str, np.ndarray]:
        """For each channel, what opening it (alone) adds to its MACs and parameters.

        For a channel that is open already, what a second one like it would add.
        """
        counts = self._counts(gates)
        return {kind: self._increase(kind, counts) for kind in COUNTED}

    def shares(self, limits: Mapping[str, float]) -> dict[str, np.ndarray]:
        """What each channel takes of each limit in the whole network, in shares of that limit.

        Limits that the whole network keeps are in nobody's way, and are left out.
        """
        whole = np.ones(self._num_channels, bool)
        limits = {k: limit for k, limit in limits.items() if self._measure(k, whole) > limit}
        added: dict[str, np.ndarray] = self.increase(whole)
        if self._footprint:
            added["flash_bytes"] = self._footprint.flash_shares()
            if "ram_bytes" in limits:
                added["ram_bytes"] = self._footprint.ram_shares(limits["ram_bytes"])
        return {kind: added[kind] / limit for kind, limit in limits.items()}

    def _counts(self, gates: np.ndarray) -> np.ndarray:
        """Live channels of each vector; the last entry, which `-1` finds, is the fixed 1."""
        return np.append(self._live(gates), 1)

    def _increase(self, kind: str, counts: np.ndarray) -> np.ndarray:
        sides, factors = self._sides[kind], self._factors[kind]
        # (a + da)(b + db) - ab = da b + a db + da db. The first two parts: each vector gains per
        # live channel what stands on the other side of its terms.
        gain = np.zeros(len(counts))
        for this, other in ((0, 1), (1, 0)):
            np.add.at(gain, sides[:, this], factors * counts[sides[:, other]])
        return self._live.spread(gain[:-1], self._num_channels) + self._squares[kind]

    def _square(self, kind: str) -> np.ndarray:
        """The part da db: for channels that a weight has on both sides (residual streams)."""
        square = np.zeros(self._num_channels)
        for (i, j), factor in zip(self._sides[kind], self._factors[kind], strict=True):
            if i >= 0 and j >= 0:
                a, b = (np.bincount(self._live.vectors[k], minlength=1) for k in (i, j))
                n = min(len(a), len(b))
                square[:n] += factor * a[:n] * b[:n]
        return square


@dataclass(frozen=True)
class Element:
    """A weight, or part of one: `params` and `macs` for each pair of live channels of its sides.

    `layer` is the name of its layer; where nested models use one twice, the name of its copies.
    """

    layer: str
    sides: list[np.ndarray]
    params: int
    macs: int


def elements(trace: Trace) -> list[Element]:
    """All weights of a traced network, in the order of the calls."""
    found = []
    names = trace.graph.names
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
            found.append(Element(names[id(layer)], sides, params, weight.uses * fixed))
        seen.add(id(layer))
    return found


def _classes(lives: list[LiveCounts], num_channels: int) -> np.ndarray:
    """Number the channels by the vectors that they are in, and how often."""
    rng = np.random.default_rng(0)
    # Random values make the sum a fingerprint of what was summed.
    marks = sum(live.spread(rng.random(len(live.vectors)), num_channels) for live in lives)
    return np.unique(marks, return_inverse=True)[1]


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
