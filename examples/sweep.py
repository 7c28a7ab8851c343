"""Accuracy over cost: kprune sweep examples/sweep.py --macs 0.5 0.25 0.1 0.05 -o points"""

import keras

import kprune
from kprune.demo import digits_network, load_digits


def train(prune: kprune.PruneCallback) -> tuple[keras.Model, dict[str, float]]:
    """One point: a masked network trained under the budget, and what it is worth."""
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = load_digits()
    masked = kprune.add_masks(digits_network())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    masked.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    masked.fit(x, y, epochs=40, callbacks=[prune], verbose=0)
    _, accuracy = masked.evaluate(x_test, y_test, verbose=0)
    return masked, {"accuracy": accuracy}
