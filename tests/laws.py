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


def check_laws(model: keras.Model, seed: int = 0, tolerance: float = TOLERANCE) -> keras.Model:
    """Close channels at random, and try every law; return the slim model.

    Masks that are open change nothing; slimming changes nothing; what a masked network is said to
    cost is what the slim one is said to cost, and what counting its weights gives.
    """
    x = random_inputs(model, seed)
    masked = add_masks(model)
    assert_close(masked(x), model(x), tolerance)
    close_at_random(masked, seed)
    small = slim(masked)
    assert_close(small(x), masked(x), tolerance)
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
        "params": sum(
            math.prod(w.shape)
            for w in model.weights
            if not w.name.startswith("moving_") and "seed" not in w.path
        ),
    }


def _macs(call: Call) -> int:
    layer, before, after = call.operation, call.inputs[0].shape, call.outputs[0].shape
    first = getattr(layer, "data_format", None) == "channels_first"
    spatial = slice(2, None) if first else slice(1, -1)
    positions = math.prod((before if "Transpose" in type(layer).__name__ else after)[spatial])
    if isinstance(layer, keras.layers.RNN):
        return before[1] * sum(math.prod(w.shape) for w in layer.weights if "kernel" in w.name)
    if isinstance(layer, keras.layers.EinsumDense):
        positions = math.prod(after[1:]) // layer.kernel.shape[-1]
    kernels = [w for w in getattr(layer, "weights", ()) if w.name.endswith("kernel")]
    return sum(positions * math.prod(w.shape) for w in kernels)
