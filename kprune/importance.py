"""How a channel's score is learned: one entry per importance, and one projection for all.

"taylor" estimates what the loss would change if the gate were flipped, "learned" trains a number
per gate together with the weights, "magnitude" looks at nothing but the weights.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

# Of whichever backend is in use.
Tensor = Any

# How much of the old score one training step keeps.
MOMENTUM = 0.99
# Fewer channels than this are multiplied a row of pixels at a time: TensorFlow's kernels for
# processors take half as long again to multiply by 16 numbers over and over.
SHORT = 64

NEARLY_OPEN = {"class_name": "RandomNormal", "config": {"mean": 1.0, "stddev": 0.1}}


@dataclass(frozen=True)
class Importance:
    """One way to learn what a channel is worth.

    Attributes:
        gate: `x, axis, gates -> x` with every channel multiplied by its gate, 0 or 1. Where a
            weight is trained it comes fourth: the gradient of this function is what teaches it.
        weights: What a mask needs for it besides its gates: name -> arguments of `add_weight`, and
            "rank": how many axes of the weight count channels, 1 where it is left out.
        overwrite: The weight whose gradient is its next value.
        score: Mask -> its scores; None where the weights of the network tell.
        products: `x, axis -> products` of all pairs of channels, added up in the weight `gram`.
        shared: The places that a channel passes estimate the same number (their mean is its
            score), instead of what is lost at each (their sum).
    """

    gate: Callable[..., object]
    weights: Mapping[str, Mapping[str, Any]]
    overwrite: str = ""
    score: Callable[[Any], np.ndarray] | None = None
    products: Callable[[Tensor, int], Tensor] | None = None
    shared: bool = False


def _factors(x: Tensor, axis: int, gates: Tensor) -> Tensor:
    """The gates, shaped to multiply `x`."""
    gates = ops.cast(gates, x.dtype)
    *others, places, size = x.shape
    if axis < len(x.shape) - 1:
        return ops.reshape(gates, [-1 if a == axis else 1 for a in range(len(x.shape))])
    if others and places is not None and size < SHORT:
        return ops.broadcast_to(gates, (places, size))
    return gates


def _taylor(x: Tensor, axis: int, gates: Tensor, scores: Tensor) -> Tensor:
    """The score adds up `sum over samples of |dLoss/dgate|`: its "gradient" is its next value.

    The absolute value is taken per sample, because the signed sum vanishes for any channel whose
    scale has converged. Closed channels are scored like open ones, so they can come back.
    """
    factors = _factors(x, axis, gates)
    elsewhere = [a for a in range(1, len(x.shape)) if a != axis]

    # Gates are no argument: what has no gradient costs operations at every mask. The unit would
    # cost some more, and waits for who reads the score.
    @ops.custom_gradient
    def gate(x: Tensor, scores: Tensor) -> tuple:
        def grad(*args: Tensor, upstream: Tensor = None) -> tuple:
            # torch passes the saved arguments and `upstream`; TensorFlow and JAX only dL/dy.
            dy = args[-1] if upstream is None else upstream
            # dL/dgate of each sample, taken before the gate: closed channels are scored too.
            taylor = ops.cast(x * dy, "float32")
            if elsewhere:
                taylor = ops.sum(taylor, axis=elsewhere)
            taylor = ops.sum(ops.abs(taylor), axis=0)
            return dy * factors, MOMENTUM * scores + taylor

        return x * factors, grad

    return gate(x, ops.convert_to_tensor(scores))


def _products(x: Tensor, axis: int) -> Tensor:
    """Each channel times each, shape `(channels, channels)`, added up over quarter points.

    Every sample counts, so that several devices add up what one does; of its places a few are
    enough, as thousands come together over the steps.
    """
    quarters = [
        slice(None) if a in (0, axis) else slice((n or 0) // 4, None, max(1, (n or 8) // 2))
        for a, n in enumerate(x.shape)
    ]
    x = ops.cast(ops.moveaxis(x[tuple(quarters)], axis, -1), "float32")
    x = ops.reshape(x, (-1, x.shape[-1]))
    return ops.matmul(ops.transpose(x), x)


def _learned(x: Tensor, axis: int, gates: Tensor, logits: Tensor) -> Tensor:
    """Straight through: forwards the gate, backwards the slope of `sigmoid(logits)`."""
    soft = ops.sigmoid(logits)
    # In brackets: without them 1 + soft - soft is 0.99999994.
    gates = gates + (soft - ops.stop_gradient(soft))
    return x * _factors(x, axis, gates)


def _plain(x: Tensor, axis: int, gates: Tensor) -> Tensor:
    return x * _factors(x, axis, gates)


def _sigmoid(logits: Tensor) -> np.ndarray:
    return 1 / (1 + np.exp(-ops.convert_to_numpy(logits).astype(float)))


IMPORTANCES = {
    "taylor": Importance(
        _taylor,
        {
            # The mean over replicas, each of which has seen its part of the batch.
            "scores": {"initializer": "zeros", "aggregation": "mean"},
            "gram": {
                "initializer": "zeros",
                "aggregation": "mean",
                "rank": 2,
                "trainable": False,
            },
            # What a loss of 1 is in the backward pass, by `PruneCallback`: the loss scale of mixed
            # precision over the number of replicas.
            "unit": {"initializer": "ones", "rank": 0, "trainable": False},
        },
        overwrite="scores",
        score=lambda mask: ops.convert_to_numpy(mask.scores) / ops.convert_to_numpy(mask.unit),
        products=_products,
    ),
    "learned": Importance(
        _learned,
        # Nearly open, with room to close; not equal, or all would move in lock-step. As a
        # configuration, because one initializer gives each of the masks the same values.
        {"logits": {"initializer": NEARLY_OPEN}},
        score=lambda mask: _sigmoid(mask.logits),
        shared=True,
    ),
    "magnitude": Importance(_plain, {}),
}


def check_importance(name: object) -> None:
    if not isinstance(name, str) or name not in IMPORTANCES:
        raise ValueError(
            f"importance must be one of {', '.join(map(repr, IMPORTANCES))}, got {name!r}."
        )


def magnitudes(
    weights: Iterable[tuple[np.ndarray, Mapping[int, np.ndarray]]],
    groups: Iterable[np.ndarray],
    num_channels: int,
) -> np.ndarray:
    """For each channel the L2 norm of all that it indexes, over the mean of its group.

    Args:
        weights: Values, each with the channels that index them: axis -> channel of each position.
        groups: Channels that are comparable, as arrays of their numbers.
        num_channels: How many channels there are.

    Example:
        >>> kernel = np.array([[3.0, 0.0], [4.0, 10.0]])
        >>> magnitudes([(kernel, {1: np.array([0, 1])})], [np.array([0, 1])], 2).round(2)
        array([0.67, 1.33])

    Source:
        Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (group norms).
    """
    squares = np.zeros(num_channels)
    for value, axes in weights:
        for axis, channels in axes.items():
            others = tuple(a for a in range(value.ndim) if a != axis % value.ndim)
            np.add.at(squares, channels, np.square(value, dtype=float).sum(axis=others))
    norms = np.sqrt(squares)
    for channels in groups:
        norms[channels] /= max(norms[channels].mean(), np.finfo(float).tiny)
    return norms
