"""The layers that quantisation-aware training adds: they round as the int8 network will.

In the forward pass a value becomes what int8 can hold of it; in the backward pass the rounding is
not there. So the loss is that of the quantised network, and its weights can be trained.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune import rescaling

# How much of the old range one training step keeps.
MOMENTUM = 0.95

_STEPS = 127  # int8 weights are symmetric: -127 to 127.
_LEAST_RANGE = 1e-5  # Of activations: below 255 / 2**26 the interpreters give up at a softmax.
_ZERO_RANGE = 1.0  # Of what is always zero, a dead layer, say: any, so that no factor is extreme.
_LEAST_WEIGHT = 1e-6  # The greatest of a channel, where all may be zero.
_MOST_BIAS = 2**30 - 1  # In steps: of a larger bias the converter makes the steps larger.
_TINY = 1e-30  # Of a bias: 0 in steps, for who does not look closer.
_OFF_TIE = 1e-3  # In steps: more than the errors of float32, less than means lie apart.

# Layers that the converter merges with a ReLU only if they have a bias, and one that is not zero.
BIASED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)


@keras.saving.register_keras_serializable("kprune")
class FakeQuant(keras.layers.Layer):
    """Rounds an activation to 256 steps between `low` and `high`, one of which is exactly 0.

    While training, the range follows the least and the greatest value of each batch; values beyond
    it are cut off, and get no gradient. Elsewhere it is fixed.

    Args:
        limits: `(low, high)` where the range is given beforehand, as for the outputs of softmax
            and sigmoid, whose int8 form is always the same. By default it is learned.

    Input shape:
        Any.

    Output shape:
        Same as the input.

    Attributes:
        low: Scalar weight, at most 0.
        high: Scalar weight, above 0.

    Example:
        >>> import numpy as np
        >>> fake = FakeQuant(limits=(0.0, 255.0))
        >>> ops.convert_to_numpy(fake(np.array([-1.0, 0.4, 3.6, 300.0]))).tolist()
        [0.0, 0.0, 4.0, 255.0]

    Source:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, CVPR 2018, section 3.
    """

    def __init__(self, limits: Sequence[float] | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.limits = None if limits is None else (float(limits[0]), float(limits[1]))

    def build(self, input_shape: object) -> None:
        low, high = self.limits or (0.0, 1.0)
        self.low = self._bound("low", low)
        self.high = self._bound("high", high)

    def _bound(self, name: str, value: float) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype="float32",
            trainable=False,
            autocast=False,
        )

    def start(self, low: float, high: float) -> None:
        """Set the range that training begins with, wide enough to have a scale."""
        width = _LEAST_RANGE if high > low else _ZERO_RANGE
        self.low.assign(low)
        self.high.assign(max(high, low + width))

    def call(
        self,
        inputs: object,
        training: bool = False,
        is_average: bool = False,
        is_term: bool = False,
        is_step: bool = False,
    ) -> object:
        """Round `inputs`; if they are averages of what was rounded here, without following them.

        With `is_term`, `inputs` are part of what will be rounded here once more: while training,
        that will do. With `is_step`, give the size of a step instead, of shape `()`.
        """
        if is_step:
            return self._step()
        if is_term and training:
            return inputs
        if is_average:
            inputs = self._off_ties(inputs)
        elif training and self.limits is None:
            x = ops.cast(ops.stop_gradient(inputs), "float32")
            low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
            is_dead = ops.equal(low, high)
            self._follow(self.low, low, is_dead)
            self._follow(self.high, ops.maximum(high, _LEAST_RANGE), is_dead)
        # On TensorFlow this is the operation in which the converter finds the range.
        return keras.quantizers.fake_quant_with_min_max_vars(inputs, self.low, self.high)

    def _step(self) -> object:
        # Divided in double precision, as in the converter.
        width = ops.cast(self.high, rescaling.WIDE) - ops.cast(self.low, rescaling.WIDE)
        return ops.cast(width / 255.0, "float32")

    def _off_ties(self, x: object) -> object:
        # Every fourth mean of four is a tie; the device rounds it away from the integer 0.
        step = (self.high - self.low) / 255.0
        middle = 128.0 * step - ops.round(-self.low / step) * step
        return x + _OFF_TIE * step * ops.sign(ops.stop_gradient(x) - middle)

    def _follow(self, bound: keras.Variable, seen: Any, is_dead: Any) -> None:
        old = ops.convert_to_tensor(bound)
        # A layer that gives nothing but zeros, for now, tells nothing of the range.
        bound.assign(ops.where(is_dead, old, MOMENTUM * old + (1.0 - MOMENTUM) * seen))

    def compute_output_spec(
        self, inputs: keras.KerasTensor, is_step: bool = False, **kwargs: object
    ) -> keras.KerasTensor:
        return keras.KerasTensor(() if is_step else inputs.shape, inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "limits": self.limits}


@keras.saving.register_keras_serializable("kprune")
class FakeQuantWeights(keras.layers.Wrapper):
    """Runs a layer with one of its weights rounded to int8, and trains the weight behind it.

    Each output channel has its own scale: its greatest absolute value is 127 steps.

    Args:
        layer: The layer; its other weights, such as the bias, are used as they are.
        weight: Name of the weight that is rounded.
        axes: The axes of that weight that run over the output channels; none for one scale.

    Example:
        >>> import numpy as np
        >>> layer = FakeQuantWeights(keras.layers.Dense(1, use_bias=False), "kernel", (-1,))
        >>> layer.build((None, 2))
        >>> layer.layer.set_weights([np.array([[1.27], [0.0149]])])
        >>> np.round(layer.rounded() / 0.01).tolist()
        [[127.0], [1.0]]

    Source:
        Jacob et al., CVPR 2018, section 3; Krishnamoorthi, Quantizing deep convolutional networks
        for efficient inference, 2018, section 3 (a scale per channel).
    """

    def __init__(
        self, layer: keras.layers.Layer, weight: str, axes: Sequence[int] = (), **kwargs: object
    ) -> None:
        super().__init__(layer, **kwargs)
        self.weight = weight
        self.axes = tuple(axes)

    def call(self, inputs: object, is_scale: bool = False) -> object:
        """Run the layer; with `is_scale`, give the scales of its weights, `(channels,)`.

        `inputs` is then the scale of the layer's inputs, of shape `()`.
        """
        if is_scale:
            return self._scales(inputs)
        layer = self.layer
        outputs, _ = layer.stateless_call(
            [self._used(v) for v in layer.trainable_variables],
            [self._used(v) for v in layer.non_trainable_variables],
            inputs,
        )
        return outputs

    def _used(self, variable: keras.Variable) -> object:
        value = ops.convert_to_tensor(variable)
        return self._round(value) if variable.name == self.weight else value

    def _round(self, w: object) -> object:
        scale = ops.stop_gradient(ops.maximum(self._greatest(w), _LEAST_WEIGHT) / _STEPS)
        rounded = ops.round(w / scale) * scale
        # Value: the rounded weight. Gradient: that of the weight, as if it were not rounded.
        return w + ops.stop_gradient(rounded - w)

    def _greatest(self, w: object) -> object:
        rank = len(w.shape)  # type: ignore[attr-defined]
        channels = {axis % rank for axis in self.axes}
        within = tuple(a for a in range(rank) if a not in channels)
        return ops.max(ops.abs(w), axis=within, keepdims=True)

    def _scales(self, step: object) -> object:
        # As the converter finds them, of weights that are rounded already.
        greatest = self._greatest(self._round(ops.convert_to_tensor(self._variable)))
        scales = ops.reshape(ops.cast(greatest, rescaling.WIDE) / _STEPS, (-1,))
        bias = getattr(self.layer, "bias", None)
        if bias is not None:
            most = ops.cast(step, rescaling.WIDE) * _MOST_BIAS
            scales = ops.maximum(scales, ops.abs(ops.cast(bias, rescaling.WIDE)) / most)
        # Where all is zero any scale will do.
        return ops.cast(ops.where(scales > 0, scales, 1.0), "float32")

    def rounded(self) -> object:
        """The value of the rounded weight, as an array."""
        return ops.convert_to_numpy(self._round(ops.convert_to_tensor(self._variable)))

    @property
    def _variable(self) -> keras.Variable:
        return next(v for v in self.layer.weights if v.name == self.weight)

    def plain_weights(self, is_rounded: bool) -> list[object]:
        """The weights of the layer inside, for a copy of it that stands alone."""
        return [
            self.rounded() if is_rounded and v is self._variable else self._plain(v)
            for v in self.layer.weights
        ]

    def _plain(self, variable: keras.Variable) -> object:
        value = ops.convert_to_numpy(variable)
        if variable.name != "bias":
            return value
        if not value.any():
            return value + _TINY if isinstance(self.layer, BIASED) else value
        return _uneven(value) if value.size > 1 and (value == value[0]).all() else value

    def compute_output_spec(
        self, inputs: keras.KerasTensor, is_scale: bool = False
    ) -> keras.KerasTensor:
        if not is_scale:
            return self.layer.compute_output_spec(inputs)
        weight = self._variable
        channels = math.prod(weight.shape[axis] for axis in self.axes)
        return keras.KerasTensor((channels,), "float32")

    def get_config(self) -> dict:
        return {**super().get_config(), "weight": self.weight, "axes": self.axes}


def _uneven(values: np.ndarray) -> np.ndarray:
    # What is the same in all channels the converter would round in the scale of the first.
    return np.append(np.nextafter(values[:1], np.float32(0)), values[1:])
