"""One rule per operation: what channels pass, and what is held back and why."""

from collections.abc import Callable

import numpy as np
import pytest
from between import FEATURES, SERIES, check_held, check_passed
from keras import activations, layers, ops
from zoo import IMAGE

# Operations behind which the channels of the layer in front are removed as before.
PASSED = [
    (lambda x: layers.Minimum()([x, layers.Reshape((1, 6))(ops.max(x, axis=1))]), SERIES),
    (lambda x: x + 1.0, FEATURES),
    (lambda x: 2.0 - x * x / 3.0, FEATURES),
    (lambda x: ops.maximum(x, np.zeros((1, 1), "float32")), FEATURES),
    (lambda x: ops.relu(x) + ops.gelu(x) + ops.leaky_relu(x, 0.3), FEATURES),
    (lambda x: ops.clip(ops.exp(-ops.square(x)), 0.1, 0.9), FEATURES),
    (lambda x: ops.threshold(ops.hard_shrink(x), 0.1, 0.0), FEATURES),
    (lambda x: activations.relu(x, negative_slope=0.1, max_value=1.0), FEATURES),
    (lambda x: ops.mean(x, axis=1), SERIES),
    (lambda x: ops.max(x, axis=(-3, -2), keepdims=True), IMAGE),
    (lambda x: ops.softmax(x, axis=1), SERIES),
    (lambda x: ops.squeeze(ops.expand_dims(x, 1), axis=1), FEATURES),
    (lambda x: ops.reshape(x, (-1, 64, 6)), IMAGE),
    (lambda x: ops.transpose(x, (0, 2, 1, 3)), IMAGE),
    (lambda x: ops.concatenate([x, x], axis=-1), FEATURES),
]


@pytest.mark.parametrize(("operation", "shape"), PASSED)
def test_channels_pass(operation: Callable, shape: tuple[int, ...]) -> None:
    check_passed(operation, shape)


# (operation, shape, why the channels in front stay)
HELD = [
    (lambda x: x[:, :3], FEATURES, "(GetItem) reads them, and kprune has no rule for it"),
    (lambda x: x * np.arange(6.0, dtype="float32"), FEATURES, "(Multiply) has a constant for each"),
    (lambda x: ops.clip(x, [0.0] * 6, [1.0] * 6), FEATURES, "(Clip) has bounds for each of them"),
    (lambda x: ops.sum(x, axis=-1, keepdims=True), FEATURES, "(Sum) reads them, and kprune has no"),
    (lambda x: ops.mean(x, axis=0, keepdims=True), FEATURES, "(Mean) reads them, and kprune has"),
    (lambda x: ops.softmax(x, axis=None), SERIES, "(Softmax) needs all of them"),
    (lambda x: ops.log_softmax(x, axis=None), FEATURES, "(LogSoftmax) needs all of them"),
    (lambda x: ops.expand_dims(x, 0), FEATURES, "(ExpandDims) reads them, and kprune has no rule"),
    (lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), SERIES, "(Matmul) reads them"),
]


@pytest.mark.parametrize(("operation", "shape", "reason"), HELD)
def test_channels_are_held_with_the_reason(
    operation: Callable, shape: tuple[int, ...], reason: str
) -> None:
    check_held(operation, shape, reason)
