"""The one layer that pruning adds: a 0/1 gate per channel, and the score that learns its worth.

The mask knows nothing of the layers around it. `kprune.masking` places it in front of layers
that mix channels, `kprune.callbacks` opens and closes its gates during `fit`.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

# How much of the old score one training step keeps.
MOMENTUM = 0.99


@keras.saving.register_keras_serializable("kprune")
class ChannelMask(keras.layers.Layer):
    """Multiplies every channel by its gate, exactly 0 or 1.

    A closed channel is all zeros behind the mask, as if it did not exist. The layer also scores
    its channels while the model trains: in each step the score moves towards
    `sum over samples of |dLoss/dgate|`, the first-order estimate of what the loss would change if
    the gate were flipped. The absolute value is taken per sample, because the signed sum vanishes
    for any channel whose scale has converged. Closed channels are scored like open ones, so they
    can come back.

    The score needs no custom training loop: its "gradient" is its next value, and
    `overwrite_with_gradient` makes any Keras optimizer store it as it is.

    Args:
        axis: The axis of the channels; negative values count from the end.
        fixed: Positions along `axis` of channels that pruning leaves open (`exclude=`).

    Input shape:
        Any tensor of rank 2 or more, `(batch, ..., channels)` by default.

    Output shape:
        Same as the input.

    Attributes:
        gates: Weight of shape `(channels,)`, not trained by gradients, 0.0 (closed) or 1.0 (open).
        scores: Weight of shape `(channels,)`, the running score of each channel, never negative.

    Example:
        >>> import numpy as np
        >>> mask = ChannelMask()
        >>> y = mask(np.ones((1, 3)))
        >>> mask.gates.assign([1.0, 0.0, 1.0]) is None or True
        True
        >>> np.asarray(keras.ops.convert_to_numpy(mask(np.full((1, 3), 5.0)))).tolist()
        [[5.0, 0.0, 5.0]]

    Source:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019 (the score);
        Shen et al., Dynamic Channel Propagation, ICPR 2020 (its running use while training).
    """

    def __init__(self, axis: int = -1, fixed: Sequence[int] = (), **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.fixed = tuple(fixed)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = (input_shape[self.axis],)
        # float32 whatever the policy: a score in half precision would stop moving.
        self.gates = self.add_weight(
            name="gates",
            shape=channels,
            initializer="ones",
            dtype="float32",
            trainable=False,
            autocast=False,
        )
        self.scores = self.add_weight(
            name="scores",
            shape=channels,
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )
        self.scores.overwrite_with_gradient = True

    def call(self, inputs: object) -> object:
        rank = len(inputs.shape)  # type: ignore[attr-defined]
        axis = self.axis % rank
        gates = ops.cast(self.gates, inputs.dtype)  # type: ignore[attr-defined]
        gates = ops.reshape(gates, [-1 if a == axis else 1 for a in range(rank)])
        return _gate(axis)(inputs, gates, ops.convert_to_tensor(self.scores))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis, "fixed": self.fixed}


def _gate(axis: int) -> Callable[..., object]:
    """The function `x, gates, scores -> x * gates` whose gradient also scores the channels."""

    @ops.custom_gradient
    def gate(x: object, gates: object, scores: object) -> tuple:
        def grad(*args: object, upstream: object = None) -> tuple:
            # torch passes the saved arguments and `upstream`; TensorFlow and JAX only dL/dy.
            dy = args[-1] if upstream is None else upstream
            elsewhere = [a for a in range(1, len(x.shape)) if a != axis]  # type: ignore[attr-defined]
            # dL/dgate of each sample, taken before the gate: closed channels are scored too.
            sensitivity = ops.cast(x * dy, "float32")  # type: ignore[operator]
            if elsewhere:
                sensitivity = ops.sum(sensitivity, axis=elsewhere)
            taylor = ops.sum(ops.abs(sensitivity), axis=0)
            score = MOMENTUM * scores + (1.0 - MOMENTUM) * taylor  # type: ignore[operator]
            return dy * gates, ops.zeros_like(gates), score  # type: ignore[operator]

        return x * gates, grad  # type: ignore[operator]

    return gate
