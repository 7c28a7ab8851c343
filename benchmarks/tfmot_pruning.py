"""tensorflow-model-optimization's magnitude pruning: single weights, as many as the budget has.

It sets single weights to zero and leaves all channels where they are. So its share of the
multiply-accumulates is what a kernel that skips every zero would do: no microcontroller library has
one, and the file keeps its size. It stands in the table as what freedom without structure gives.

It knows legacy Keras only and so trains in a process of its own, as in `kprune.tfmot`.
"""

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import Augmented
from benchmarks.training import BATCH, RATE, Recipe, Trained
from kprune import Schedule
from kprune.child import run_in_child
from kprune.graph import read_graph
from kprune.tfmot import _describe, load_arrays, save_arrays
from kprune.tfmot_training import _float_model


def magnitude_of_weights(recipe: Recipe, kept: float, seed: int) -> Trained:
    graph = read_graph(recipe.task.network())
    task = recipe.task
    settings = {
        "limit": kept * recipe.macs,
        "seed": seed,
        "epochs": task.epochs,
        "shift": task.shift,
        "flip": task.flip,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "network.json").write_text(json.dumps(_describe(graph)))
        (folder / "settings.json").write_text(json.dumps(settings))
        weights = [w for layer in graph.layers for w in layer.get_weights()]
        arrays = {"train": list(recipe.train), "test": list(recipe.test), "float_weights": weights}
        save_arrays(folder / "arguments.npz", arrays)
        run_in_child(__name__, "train", folder, TF_CPP_MIN_LOG_LEVEL="3")
        return Trained(**json.loads((folder / "results.json").read_text()))


def train(folder: Path) -> None:
    """In the process of its own: one training, and what it gives as `results.json`."""
    from benchmarks.selection import one_thread

    one_thread()
    keras2: Any = import_module("tf_keras")
    sparsity: Any = import_module("tensorflow_model_optimization").sparsity.keras
    settings = json.loads((folder / "settings.json").read_text())
    keras2.utils.set_random_seed(settings["seed"])
    arrays = load_arrays(folder / "arguments.npz")
    batches = Augmented(
        arrays["train"], BATCH, settings["shift"], settings["flip"], settings["seed"]
    )
    steps = settings["epochs"] * len(batches)
    plain = _float_model(folder, arrays)
    model = sparsity.prune_low_magnitude(plain, _schedule(sparsity, plain, settings, steps))
    model.compile(
        keras2.optimizers.Adam(keras2.optimizers.schedules.CosineDecay(RATE, steps)),
        keras2.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        _sequence(keras2, batches),
        epochs=settings["epochs"],
        callbacks=[sparsity.UpdatePruningStep()],
        verbose=0,
    )
    x, y = arrays["test"]
    pruned = sparsity.strip_pruning(model)
    results = {
        "accuracy": float((pruned.predict(x, verbose=0).argmax(-1) == y).mean()),
        "macs": sum(uses * np.count_nonzero(kernel) for _, kernel, uses in _kernels(pruned)),
        "params": sum(np.count_nonzero(w) for w in pruned.trainable_weights),
        "widths": [layer.output_shape[-1] for layer, _, _ in _kernels(pruned)],
    }
    (folder / "results.json").write_text(json.dumps(results, default=int))


def _schedule(sparsity: Any, plain: Any, settings: dict, steps: int) -> Any:
    """The cubic ramp of kprune, with its start and end, to the share of weights to remove."""
    macs = {layer: uses * kernel.size for layer, kernel, uses in _kernels(plain)}
    # The package leaves depthwise kernels whole: they count in full.
    prunable = sum(m for layer, m in macs.items() if type(layer).__name__ in ("Conv2D", "Dense"))
    share = (sum(macs.values()) - settings["limit"]) / prunable
    if share >= 1:
        raise ValueError(
            f"tfmot prunes kernels of {prunable:,} of {sum(macs.values()):,} multiply-accumulates, "
            f"which leaves more than {int(settings['limit']):,}."
        )
    ramp = Schedule()
    begin, end = int(ramp.start * steps), int(ramp.end * steps)
    return sparsity.PolynomialDecay(0.0, share, begin, end, frequency=max(1, steps // 256))


def _kernels(model: Any) -> list[tuple[Any, np.ndarray, int]]:
    """Each layer with a kernel, the kernel, and how often a sample uses each of its weights."""
    found = []
    for layer in model.layers:
        kernel = next((w for w in layer.trainable_weights if "kernel" in w.name), None)
        if kernel is not None:
            found.append((layer, kernel.numpy(), int(np.prod(layer.output_shape[1:-1]))))
    return found


def _sequence(keras2: Any, batches: Augmented) -> Any:
    """The same batches as an object of legacy Keras."""

    class Sequence(keras2.utils.Sequence):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> tuple:
            return batches[index]

        def on_epoch_end(self) -> None:
            batches.on_epoch_end()

    return Sequence()
