"""Several processes that train together choose the channels that one process chooses.

Keras's `fit` does not take the batches of `MultiWorkerMirroredStrategy`, with kprune or without
(keras-team/keras#20585). A loop of one's own does, and `keras.callbacks.CallbackList` calls the
callback.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = """
import sys
import tensorflow as tf

index, workers = map(int, sys.argv[1:])
strategy = (
    tf.distribute.MultiWorkerMirroredStrategy() if workers > 1 else tf.distribute.get_strategy()
)

import json
import keras
import numpy as np
import kprune
from kprune.channels import trace
from kprune.masking import read_gates, read_scores

EPOCHS, BATCH = 4, 16
keras.utils.set_random_seed(0)
with strategy.scope():
    model = kprune.add_masks(keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(2),
    ]))
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)


def share(context):
    # Each worker takes its part of every batch.
    x = np.random.default_rng(0).normal(size=(160, 6)).astype("float32")[index::workers]
    return tf.data.Dataset.from_tensor_slices((x, x[:, :2])).batch(BATCH // workers)


@tf.function
def step(batch):
    return strategy.run(model.train_step, args=(batch,))


prune = kprune.PruneCallback(kprune.Budget(macs=0.25), verbose=0)
callbacks = keras.callbacks.CallbackList([prune], model=model, epochs=EPOCHS, steps=10)
batches = strategy.distribute_datasets_from_function(share)
callbacks.on_train_begin()
for epoch in range(EPOCHS):
    callbacks.on_epoch_begin(epoch)
    for i, batch in enumerate(batches):
        callbacks.on_train_batch_begin(i)
        step(batch)
        callbacks.on_train_batch_end(i)
    callbacks.on_epoch_end(epoch)
callbacks.on_train_end()
found = trace(model)
print(json.dumps({
    "replicas": strategy.num_replicas_in_sync,
    "gates": read_gates(found).tolist(),
    "scores": read_scores(found).tolist(),
}))
"""


def start(index: int, ports: list[int], folder: Path) -> subprocess.Popen:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
    alone = len(ports) == 1
    environment = {**os.environ, **({} if alone else {"TF_CONFIG": json.dumps(config)})}
    with (folder / f"{len(ports)}-{index}.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(index), str(len(ports))],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for each in sockets:
        each.close()
    return ports


def test_two_workers_choose_the_channels_that_one_process_chooses(tmp_path: Path) -> None:
    processes = [
        start(index, ports, tmp_path)
        for ports in (free_ports(1), free_ports(2))
        for index in range(len(ports))
    ]
    try:
        answers = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(
        path.read_text()[-2000:] for path in tmp_path.glob("*.txt")
    )
    alone, *together = (json.loads(answer.splitlines()[-1]) for answer in answers)

    assert alone["replicas"] == 1
    assert 0 < sum(alone["gates"]) < len(alone["gates"])
    for worker in together:
        assert worker["replicas"] == 2
        assert worker["gates"] == alone["gates"]
        np.testing.assert_allclose(worker["scores"], alone["scores"], rtol=1e-4)
