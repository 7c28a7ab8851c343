"""The laws on networks that nobody drew: random graphs of layers, random gates."""

import hypothesis.strategies as st
import keras
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from keras import layers, ops
from laws import check_laws
from zoo import perturb

from kprune import add_masks
from kprune.channels import trace

Tensor = keras.KerasTensor

# All tensors are (6, 6, channels), so any of them can meet.
SIZE = 6
WIDTHS = (2, 4, 6)

# What makes `width` new channels of a tensor.
MAKERS = {
    "conv": lambda x, n: layers.Conv2D(n, 3, padding="same", activation="tanh")(x),
    "pointwise": lambda x, n: layers.Conv2D(n, 1, use_bias=False)(x),
    "separable": lambda x, n: layers.SeparableConv2D(n, 3, padding="same")(x),
    "transpose": lambda x, n: layers.Conv2DTranspose(n, 3, padding="same")(x),
    "dense": lambda x, n: layers.Dense(n, "elu")(x),
    "einsum": lambda x, n: layers.EinsumDense("...x,xy->...y", n, bias_axes="y")(x),
    "dense_to_image": lambda x, n: layers.Reshape((SIZE, SIZE, n))(
        layers.Dense(SIZE * SIZE * n, "tanh")(layers.GlobalAveragePooling2D()(x))
    ),
    "grouped": lambda x, n: layers.Conv2D(n, 1, groups=2)(layers.Conv2D(4, 1)(x)),
}

# What keeps the channels of a tensor.
KEEPERS = {
    "batch_norm": lambda x: layers.BatchNormalization()(x),
    "group_norm": lambda x: layers.GroupNormalization(x.shape[-1] // 2)(x),
    "layer_norm": lambda x: layers.LayerNormalization()(x),
    "unit_norm": lambda x: layers.UnitNormalization()(x),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, padding="same")(x),
    "sigmoid": lambda x: layers.Activation("sigmoid")(x),
    "prelu": lambda x: layers.PReLU(shared_axes=[1, 2])(x),
    "pool": lambda x: layers.MaxPooling2D(3, strides=1, padding="same")(x),
    "down_up": lambda x: layers.UpSampling2D()(layers.AveragePooling2D(2)(x)),
    "crop_pad": lambda x: layers.ZeroPadding2D(1)(layers.Cropping2D(1)(x)),
    "excite": lambda x: layers.Multiply()(
        [x, layers.Conv2D(x.shape[-1], 1)(layers.GlobalMaxPooling2D(keepdims=True)(x))]
    ),
    "bare": lambda x: ops.relu6(x + 0.5) * ops.mean(x, axis=(1, 2), keepdims=True),
    "transposed": lambda x: layers.Permute((3, 2, 1))(layers.Permute((3, 2, 1))(x)),
    "sliced": lambda x: x[:, ::-1],
}

# What joins two tensors.
JOINERS = {
    "concatenate": lambda x, y: layers.Concatenate()([x, y]),
    "add": lambda x, y: layers.Add()([x, _as_wide(y, x)]),
    "multiply": lambda x, y: ops.multiply(x, _as_wide(y, x)),
    "below": lambda x, y: layers.AveragePooling2D((2, 1))(
        layers.Concatenate(axis=1)([x, _as_wide(y, x)])
    ),
}


def _as_wide(y: Tensor, x: Tensor) -> Tensor:
    return y if y.shape[-1] == x.shape[-1] else layers.Conv2D(x.shape[-1], 1)(y)


operand = st.integers(0, 99)
steps = st.one_of(
    st.tuples(st.sampled_from(sorted(MAKERS)), operand, st.sampled_from(WIDTHS)),
    st.tuples(st.sampled_from(sorted(KEEPERS)), operand),
    st.tuples(st.sampled_from(sorted(JOINERS)), operand, operand),
)
programs = st.lists(steps, min_size=3, max_size=9)


def build(program: list[tuple], flatten: bool) -> keras.Model:
    """Run the steps, each on earlier tensors; the last one made is classified."""
    inputs = keras.Input((SIZE, SIZE, 3), name="image")
    tensors = [layers.Conv2D(4, 1, name="stem")(inputs)]
    for kind, first, *rest in program:
        x = tensors[first % len(tensors)]
        if kind in MAKERS:
            x = MAKERS[kind](x, rest[0])
        elif kind in KEEPERS:
            x = KEEPERS[kind](x)
        else:
            x = JOINERS[kind](x, tensors[rest[0] % len(tensors)])
        tensors.append(x)
    read = layers.Flatten() if flatten else layers.GlobalAveragePooling2D()
    scores = layers.Dense(3, name="scores")(read(tensors[-1]))
    middle = layers.Dense(2, name="middle")(tensors[len(tensors) // 2])
    return keras.Model(inputs, {"scores": scores, "middle": middle}, name="random")


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    # Without "explain", which runs a failing example some hundred times more.
    phases=[Phase.generate, Phase.shrink],
)
@given(programs, st.booleans(), st.integers(0, 1000))
def test_the_laws_hold_on_random_graphs(program: list[tuple], flatten: bool, seed: int) -> None:
    model = perturb(build(program, flatten), seed)

    if trace(model).free.any():
        check_laws(model, seed)
    else:
        with pytest.raises(ValueError, match="No channel of 'random' can be removed"):
            add_masks(model)
