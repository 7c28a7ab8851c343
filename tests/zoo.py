"""Tiny networks, each named for what it stresses, and what the laws need to try them.

A network is a function without arguments that returns a small, untrained model. Outputs are logits:
a softmax would hide differences. `NETWORKS` lists all of them for parametrised tests.
"""

import keras
import numpy as np
from keras import layers, ops

from kprune.channels import trace
from kprune.graph import read_graph
from kprune.masking import write_gates

IMAGE = (8, 8, 3)


def plain() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(IMAGE, name="image"),
            layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv1"),
            layers.BatchNormalization(name="bn1"),
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(8, 3, strides=2, activation="tanh", name="conv2"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dropout(0.1, name="dropout"),
            layers.Dense(4, name="scores"),
        ],
        name="plain",
    )


def residual() -> keras.Model:
    x = inputs = keras.Input(IMAGE, name="image")
    x = shortcut = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    for block in ("a", "b"):
        x = layers.Conv2D(5, 3, padding="same", use_bias=False, name=f"{block}_conv1")(x)
        x = layers.BatchNormalization(name=f"{block}_bn1")(x)
        x = layers.ReLU(name=f"{block}_relu1")(x)
        x = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"{block}_conv2")(x)
        x = layers.BatchNormalization(name=f"{block}_bn2")(x)
        x = layers.Add(name=f"{block}_add")([x, shortcut])
        x = shortcut = layers.ReLU(name=f"{block}_relu2")(x)
    return _classifier("residual", inputs, x)


def preactivation_residual() -> keras.Model:
    """BatchNorm and a sigmoid after the Add: a closed channel is not zero where it is read."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    for block in ("a", "b"):
        y = layers.BatchNormalization(name=f"{block}_bn")(x)
        y = layers.Activation("sigmoid", name=f"{block}_sigmoid")(y)
        y = layers.Conv2D(6, 3, padding="same", name=f"{block}_conv")(y)
        x = layers.Add(name=f"{block}_add")([x, y])
    return _classifier("preactivation_residual", inputs, x)


def depthwise() -> keras.Model:
    """MobileNetV2's inverted residual, and a depth multiplier."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = stream = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(x)
    x = layers.Conv2D(12, 1, use_bias=False, name="expand")(x)
    x = layers.BatchNormalization(name="expand_bn")(x)
    x = layers.ReLU(6.0, name="expand_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="spatial")(x)
    x = layers.BatchNormalization(name="spatial_bn")(x)
    x = layers.ReLU(6.0, name="spatial_relu")(x)
    x = layers.Conv2D(4, 1, name="project")(x)
    x = layers.Add(name="add")([stream, x])
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="multiply")(x)
    return _classifier("depthwise", inputs, x)


def separable() -> keras.Model:
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.SeparableConv2D(6, 3, padding="same", name="first")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="second")(x)
    return _classifier("separable", inputs, layers.ReLU(name="relu")(x))


def concat() -> keras.Model:
    """Dense connections; each layer reads all before it."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for i in range(3):
        y = layers.BatchNormalization(name=f"bn{i}")(x)
        y = layers.ReLU(name=f"relu{i}")(y)
        y = layers.Conv2D(3, 3, padding="same", name=f"conv{i}")(y)
        x = layers.Concatenate(name=f"concat{i}")([x, y])
    return _classifier("concat", inputs, x)


def flatten() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(IMAGE, name="image"),
            layers.Conv2D(4, 3, name="conv"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.BatchNormalization(name="bn"),
            layers.Dense(7, activation="relu", name="hidden"),
            layers.Dense(4, name="scores"),
        ],
        name="flatten",
    )


def squeeze_excite() -> keras.Model:
    """(height, width, channels) × (1, 1, channels), once by Reshape and once by keepdims."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(6, 3, name="stem")(x)
    s = layers.GlobalAveragePooling2D(name="squeeze1")(x)
    s = layers.Reshape((1, 1, 6), name="reshape1")(s)
    s = layers.Conv2D(3, 1, activation="relu", name="reduce1")(s)
    s = layers.Conv2D(6, 1, activation="sigmoid", name="expand1")(s)
    x = layers.Multiply(name="excite1")([x, s])
    x = layers.Conv2D(8, 3, name="conv")(x)
    s = layers.GlobalMaxPooling2D(keepdims=True, name="squeeze2")(x)
    s = layers.Dense(4, activation="relu", name="reduce2")(s)
    s = layers.Dense(8, activation="hard_sigmoid", name="expand2")(s)
    return _classifier("squeeze_excite", inputs, layers.Multiply(name="excite2")([s, x]))


def one_dimensional() -> keras.Model:
    """A time series: causal, dilated and depthwise convolutions, and an LSTM."""
    x = inputs = keras.Input((16, 3), name="series")
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.PReLU(shared_axes=[1], name="prelu")(x)
    x = layers.SpatialDropout1D(0.1, name="dropout")(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv1D(6, 3, name="separable")(x)
    x = layers.AveragePooling1D(2, name="pool")(x)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.Conv1D(6, 3, name="last")(x)
    x = layers.GlobalMaxPooling1D(name="max")(x)
    return keras.Model(inputs, layers.Dense(4, name="scores")(x), name="one_dimensional")


def dense_only() -> keras.Model:
    x = inputs = keras.Input((12,), name="features")
    for i, units in enumerate((10, 8, 10)):
        x = layers.Dense(units, activation="elu", name=f"hidden{i}")(x)
    return keras.Model(inputs, layers.Dense(4, name="scores")(x), name="dense_only")


def autoencoder() -> keras.Model:
    """Dense units that become channels, and convolutions that enlarge."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(5, 3, strides=2, padding="same", activation="relu", name="encode")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(6, name="code")(x)
    x = layers.Dense(2 * 2 * 5, activation="relu", name="decode")(x)
    x = layers.Reshape((2, 2, 5), name="unflatten")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="enlarge")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.UpSampling2D(name="upsample")(x)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.Cropping2D(1, name="crop")(x)
    return keras.Model(inputs, layers.Conv2D(3, 3, name="image_again")(x), name="autoencoder")


def grouped() -> keras.Model:
    """Groups of convolution and of normalisation: a whole group goes, or nothing of it."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(12, 3, name="stem")(x)
    x = layers.GroupNormalization(6, name="group_norm")(x)
    x = layers.Conv2D(8, 3, groups=4, name="grouped")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(6, 1, name="pointwise")(x)
    x = layers.UnitNormalization(name="unit_norm")(x)
    return _classifier("grouped", inputs, x)


def nested() -> keras.Model:
    """A frozen backbone, called for inference only, and a head that names the output."""
    inner = keras.Input(IMAGE, name="inner")
    x = layers.Conv2D(6, 3, name="conv")(inner)
    x = layers.BatchNormalization(name="bn")(x)
    backbone = keras.Model(inner, layers.ReLU(name="relu")(x), name="backbone")
    backbone.trainable = False
    head = keras.Sequential(
        [
            keras.Input((6, 6, 6)),
            layers.Conv2D(5, 3, name="conv"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(4, name="dense"),
        ],
        name="scores",
    )
    inputs = keras.Input(IMAGE, name="image")
    return keras.Model(inputs, head(backbone(inputs, training=False)), name="nested")


def shared() -> keras.Model:
    """One layer and one model, each called on two tensors (a Siamese network)."""
    inner = keras.Input((8, 8, 5), name="inner")
    tower = keras.Model(inner, layers.Conv2D(6, 3, activation="relu", name="tower_conv")(inner))
    stem = layers.Conv2D(5, 3, padding="same", name="stem")
    left, right = keras.Input(IMAGE, name="left"), keras.Input(IMAGE, name="right")
    a, b = (tower(stem(x)) for x in (left, right))
    x = layers.Subtract(name="difference")([a, b])
    return _classifier("shared", [left, right], x)


def two_inputs_outputs() -> keras.Model:
    """Inputs and outputs by name; one output is a tensor from inside, one an auxiliary head."""
    image, number = keras.Input(IMAGE, name="image"), keras.Input((3,), name="number")
    x = layers.Conv2D(6, 3, name="conv1")(image)
    middle = layers.Conv2D(5, 3, activation="relu", name="conv2")(x)
    layers.Conv2D(5, 3, name="unused")(x)
    y = layers.GlobalAveragePooling2D(name="mean")(layers.Conv2D(7, 3, name="conv3")(middle))
    y = layers.Concatenate(name="concat")([y, layers.Dense(4, name="number_hidden")(number)])
    auxiliary = layers.Dense(2, name="auxiliary")(layers.Flatten(name="flatten")(x))
    outputs = {"scores": layers.Dense(4, name="scores")(y), "aux": auxiliary, "middle": middle}
    return keras.Model({"image": image, "number": number}, outputs, name="two_inputs_outputs")


def bare_ops() -> keras.Model:
    """keras.ops between the layers, as MobileNetV3 has them."""
    x = inputs = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(6, 3, padding="same", name="conv1")(x / 2.0)
    y = layers.Conv2D(6, 3, padding="same", name="conv2")(x)
    x = x + y * ops.relu6(y + 3.0) * (1.0 / 6.0)
    x = layers.Conv2D(8, 3, name="conv3")(ops.concatenate([x, ops.tanh(y)], axis=-1))
    gate = ops.sigmoid(layers.Conv2D(8, 1, name="gate")(ops.mean(x, axis=(1, 2), keepdims=True)))
    x = ops.mean(x * gate, axis=[1, 2])
    return keras.Model(inputs, layers.Dense(4, name="scores")(x), name="bare_ops")


def _classifier(name: str, inputs: object, x: keras.KerasTensor) -> keras.Model:
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(4, name="scores")(x), name=name)


NETWORKS = [
    plain,
    residual,
    preactivation_residual,
    depthwise,
    separable,
    concat,
    flatten,
    squeeze_excite,
    one_dimensional,
    dense_only,
    autoencoder,
    grouped,
    nested,
    shared,
    two_inputs_outputs,
    bare_ops,
]


def perturb(model: keras.Model, seed: int = 0) -> keras.Model:
    """Move all that starts at 0 or 1 away from there (in place): biases, betas, statistics.

    In a fresh model a closed channel that is not quite removed may go unseen, because its beta and
    mean are 0 and its variance 1.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        if len(value.shape) == 1 and value.dtype == np.float32 and "mask" not in variable.path:
            shift = rng.uniform(0.5, 1.5, value.shape)
            sign = 1 if variable.name == "moving_variance" else rng.choice([-1, 1], value.shape)
            variable.assign(value * shift + sign * 0.5 * shift)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def close_at_random(masked: keras.Model, seed: int = 0, share: float = 0.5) -> keras.Model:
    """Close about `share` of the channels that may be closed (in place)."""
    rng = np.random.default_rng(seed)
    found = trace(masked)
    gates = ~found.free | (rng.random(found.num_channels) > share)
    for _, channels in found.makers:
        if not gates[channels].any():
            gates[rng.choice(channels)] = True
    write_gates(found, gates)
    return masked


def random_inputs(model: keras.Model, seed: int = 0, batch: int = 4) -> object:
    """Standard normal inputs in the structure that the model takes."""
    rng = np.random.default_rng(seed)
    return keras.tree.map_structure(
        lambda t: rng.standard_normal((batch, *t.shape[1:])).astype("float32"),
        read_graph(model).inputs,
    )
