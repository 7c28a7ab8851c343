"""The laws that hold for every network, stated once for all tests."""

import math

import keras
import numpy as np
from zoo import close_at_random, random_inputs

from kprune import add_masks, slim
from kprune.channels import trace
from kprune.cost import Cost
from kprune.graph import Call, read_graph
from kprune.masking import read_gates

# With fewer channels, sums are added in another order: float32 rounds at 6e-8, some dozen times.
TOLERANCE = 1e-5

# Of BatchNormalization, also with `renorm`, and Normalization; and the state of random layers.
STATISTICS = {"moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev"}
STATISTICS |= {"mean", "variance", "count", "seed_generator_state"}


def check_laws(model: keras.Model, seed: int = 0, tolerance: float = TOLERANCE) -> keras.Model:
    """Close channels at random, and try every law; return the slim model.

    Masks that are open change nothing; slimming changes nothing; what a masked network is said to
    cost is what the slim one is said to cost, and what counting its weights gives.
    """
    x = random_inputs(model, seed)
    masked = add_masks(model)
    assert_close(masked(x, training=False), model(x, training=False), tolerance)
    close_at_random(masked, seed)
    small = slim(masked)
    assert_close(small(x, training=False), masked(x, training=False), tolerance)
    assert stated_cost(masked) == stated_cost(small) == counted_cost(small)
    return small


def assert_close(found: object, expected: object, tolerance: float = TOLERANCE) -> None:
    """Same structure, and values within `tolerance` of the greatest expected one."""
    keras.tree.assert_same_structure(found, expected)
    pairs = zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True)
    for a, b in pairs:
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def stated_cost(model: keras.Model) -> dict[str, int]:
    """What kprune says that the model costs under its gates."""
    found = trace(model)
    return Cost(found).total(read_gates(found))


def counted_cost(model: keras.Model) -> dict[str, int]:
    """The cost of a plain model from the shapes of its weights, without tracing it."""
    calls = read_graph(model).calls
    return {
        "macs": sum(_macs(call) for call in calls),
        "params": sum(math.prod(w.shape) for w in model.weights if w.name not in STATISTICS),
    }


def _macs(call: Call) -> int:
    """MACs of convolutions, dense and recurrent layers; for others kprune states none."""
    layer, before, after = call.operation, call.inputs[0].shape, call.outputs[0].shape
    kernels = [w for w in getattr(layer, "weights", ()) if w.name.endswith("kernel")]
    if isinstance(layer, BARRIERS):
        return 0
    if type(layer).__name__.startswith("ConvLSTM"):
        uses = before[1] * math.prod(after[2 if layer.return_sequences else 1 : -1])
    elif isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        uses = before[1]
    elif isinstance(layer, keras.layers.EinsumDense):
        x, kernel = layer.equation.replace("->", ",").split(",")[:2]
        mixed = [n for n, c in zip(layer.kernel.shape, kernel, strict=True) if c in x]
        uses = math.prod(before[1:]) // math.prod(mixed)
    else:
        counted = before if "Transpose" in type(layer).__name__ else after
        first = getattr(layer, "data_format", None) == "channels_first"
        uses = math.prod(n or 1 for n in counted[slice(2, None) if first else slice(1, -1)])
    return sum(uses * math.prod(w.shape) for w in kernels)


# Layers that kprune has no rule for, and so no MACs.
BARRIERS = (
    keras.layers.TimeDistributed,
    keras.layers.MultiHeadAttention,
)
