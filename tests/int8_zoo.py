"""Networks of all layers that int8 takes, with weights and statistics as after training."""

import keras
import numpy as np
from keras import layers

SHAPE = (8, 8, 3)


def model_of(*stack, shape=SHAPE):
    """A model with random weights and statistics, as after training."""
    model = keras.Sequential([keras.Input(shape, name="image"), *stack])
    return with_random_weights(model)


def with_random_weights(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype != "float32":
            continue  # The seeds of dropout.
        if variable.name in ("gamma", "moving_variance", "variance"):
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif variable.name in ("bias", "beta", "moving_mean", "mean"):
            variable.assign(rng.normal(0.0, 0.3, variable.shape))
        elif variable.name == "alpha":
            variable.assign(rng.uniform(0.0, 0.3, variable.shape))
    return model


def samples(count=64, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


def residual():
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    y = layers.BatchNormalization()(x)  # Read by a sum only: stays on its own.
    y = layers.ReLU()(layers.Conv2D(6, 3, padding="same")(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Subtract()([x, layers.Multiply()([x, y])])
    return with_random_weights(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def bare():
    """Operations that are no layers."""
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    y = keras.ops.relu(layers.Conv2D(4, 1)(x) + x)
    return with_random_weights(
        keras.Model(inputs, layers.Dense(3)(layers.Flatten()(y * keras.ops.sigmoid(x) - y)))
    )


def branches():
    inputs = keras.Input(SHAPE, name="image")
    a = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, padding="same")(inputs))
    b = layers.AveragePooling2D(2)(layers.Conv2D(4, 1, activation="relu6")(inputs))
    x = layers.Concatenate()([a, b])
    x = layers.Concatenate()([layers.Maximum()([x, layers.LeakyReLU()(x)]), x])
    return with_random_weights(keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))))


def excited():
    """Squeeze and excitation: sigmoid inside the network."""
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(8, 3, activation="silu")(inputs)
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="tanh")(s))
    x = layers.Multiply()([x, s])
    return with_random_weights(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))


def shared():
    inputs = keras.Input(SHAPE, name="image")
    conv = layers.Conv2D(3, 3, padding="same", activation="relu", name="twice")
    x = conv(conv(inputs))
    return with_random_weights(keras.Model(inputs, layers.GlobalMaxPooling2D()(x)))


def dead():
    """A channel without weights, one almost without, and a layer that is never above zero."""
    network = model_of(
        layers.Conv2D(4, 3, name="channels"),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, name="layer"),
        layers.ReLU(),
        layers.Conv2D(4, 1),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    )
    kernel, bias = network.get_layer("channels").get_weights()
    network.get_layer("channels").set_weights([kernel * [0.0, 1e-9, 1.0, 1.0], abs(bias)])
    kernel, bias = network.get_layer("layer").get_weights()
    network.get_layer("layer").set_weights([-abs(kernel), -abs(bias)])
    return network


CONV = {"use_bias": False, "padding": "same"}
NETWORKS = {
    "conv": lambda: model_of(
        layers.ZeroPadding2D(),
        layers.Conv2D(6, 3, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(0.2),
        layers.Flatten(),
        layers.Dense(5),
    ),
    "dead": dead,
    "separable": lambda: model_of(
        layers.DepthwiseConv2D(3, depth_multiplier=2, **CONV),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.SeparableConv2D(8, 3, activation="relu", **CONV),
        layers.SeparableConv2D(8, 3, depth_multiplier=2, **CONV),
        layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
    ),
    "transposed": lambda: model_of(
        layers.Conv2DTranspose(4, 3, strides=2, **CONV),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.Cropping2D(2),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.Conv2D(2, 3),
    ),
    "scaled": lambda: model_of(
        layers.Rescaling(0.5, offset=0.1),
        layers.Conv2D(4, 3, activation="leaky_relu"),
        layers.BatchNormalization(),
        layers.PReLU(shared_axes=(1, 2)),
        layers.Flatten(),
        layers.BatchNormalization(),
        layers.Dense(6, activation="relu"),
        layers.BatchNormalization(scale=False),
        layers.ReLU(),
        layers.Dense(5),
    ),
    "signal": lambda: model_of(
        layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5]),
        layers.Conv1D(6, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.SeparableConv1D(6, 3),
        layers.MaxPooling1D(2),
        layers.DepthwiseConv1D(3),
        layers.GlobalAveragePooling1D(),
        layers.Dense(4),
        shape=(24, 3),
    ),
    "residual": residual,
    "bare": bare,
    "branches": branches,
    "excited": excited,
    "shared": shared,
}
