"""The one layer that pruning adds: a 0/1 gate per channel, and what learns the channel's worth.

The mask knows nothing of the layers around it. `kprune.masking` places it in front of layers
that mix channels, `kprune.callbacks` opens and closes its gates during `fit`.
"""

from collections.abc import Sequence

import keras

from kprune import importance as importances


@keras.saving.register_keras_serializable("kprune")
class ChannelMask(keras.layers.Layer):
    """Multiplies every channel by its gate, exactly 0 or 1.

    A closed channel is all zeros behind the mask, as if it did not exist. While the model trains,
    the layer also learns what its channels are worth, the closed ones like the open ones, so that
    they can come back. It needs no custom training loop: the gradient of the mask is all there is
    to it, and any Keras optimizer applies it.

    Args:
        axis: The axis of the channels; negative values count from the end.
        fixed: Positions along `axis` of channels that pruning leaves open (`exclude=`).
        importance: How the worth is learned: "taylor", "learned" or "magnitude", as `add_masks`.

    Input shape:
        Any tensor of rank 2 or more, `(batch, ..., channels)` by default.

    Output shape:
        Same as the input.

    Attributes:
        gates: Weight of shape `(channels,)`, not trained by gradients, 0.0 (closed) or 1.0 (open).
        scores: For "taylor", weight of shape `(channels,)`: what the channel's gate has done to
            the loss, added up step by step while older steps fade, never negative. Its "gradient"
            is its next value, and `overwrite_with_gradient` makes any Keras optimizer store it.
        gram: For "taylor", weight of shape `(channels, channels)`: the products of the channels'
            values, added up and faded like the scores. They tell how much of a channel can be told
            from others, which take its place when it is closed (`kprune.reconstruction`).
        unit: For "taylor", weight of shape `()`: what a loss of 1 is in these scores.
        logits: For "learned", weight of shape `(channels,)`; the score is its sigmoid.

    Raises:
        ValueError: An unknown importance.

    Example:
        >>> import numpy as np
        >>> mask = ChannelMask()
        >>> y = mask(np.ones((1, 3)))
        >>> mask.gates.assign([1.0, 0.0, 1.0]) is None or True
        True
        >>> np.asarray(keras.ops.convert_to_numpy(mask(np.full((1, 3), 5.0)))).tolist()
        [[5.0, 0.0, 5.0]]

    Source:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019 ("taylor");
        Shen et al., Dynamic Channel Propagation, ICPR 2020 (its running use while training);
        Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013
        (straight through, "learned").
    """

    def __init__(
        self,
        axis: int = -1,
        fixed: Sequence[int] = (),
        importance: str = "taylor",
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        importances.check_importance(importance)
        self.axis = axis
        self.fixed = tuple(fixed)
        self.importance = importance
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        kind = importances.IMPORTANCES[self.importance]
        weights = {"gates": {"initializer": "ones", "trainable": False}, **kind.weights}
        for name, given in weights.items():
            shape = (input_shape[self.axis],) * given.get("rank", 1)
            arguments = {key: value for key, value in given.items() if key != "rank"}
            # float32 whatever the policy: a score in half precision would stop moving.
            weight = self.add_weight(
                name=name, shape=shape, dtype="float32", autocast=False, **arguments
            )
            setattr(self, name, weight)
        if kind.overwrite:
            getattr(self, kind.overwrite).overwrite_with_gradient = True

    def call(self, inputs: object, training: bool = False) -> object:
        kind = importances.IMPORTANCES[self.importance]
        axis = self.axis % len(inputs.shape)  # type: ignore[attr-defined]
        if training and kind.products:
            self.gram.assign(importances.MOMENTUM * self.gram + kind.products(inputs, axis))
        return kind.gate(inputs, axis, self.gates, *self.learned)

    @property
    def learned(self) -> list[keras.Variable]:
        """The weights that training has to reach."""
        weights = importances.IMPORTANCES[self.importance].weights
        return [getattr(self, n) for n, given in weights.items() if given.get("trainable", True)]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict:
        own = {"axis": self.axis, "fixed": self.fixed, "importance": self.importance}
        return {**super().get_config(), **own}
