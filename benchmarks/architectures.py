"""Every architecture down the road: what can be removed, what is held back, and do outputs stay.

    python -m benchmarks.architectures [NETWORK ...]

Each network, in a process of its own: build, perturb, close half of the channels at random, slim,
compare the outputs, count, save, reload without kprune, convert to int8. The rows are written to
`benchmarks/results/architectures.json`, and the table to `docs/architectures.md`. With names, only
the rows of these are made anew.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from textwrap import shorten

import keras
import numpy as np

import kprune
from benchmarks.networks import NAMES, build
from kprune.channels import Group, trace
from kprune.cost import Cost
from kprune.projection import cheapest
from tests.zoo import close_at_random, perturb, random_inputs

ROOT = Path(__file__).resolve().parents[1]
JSON = ROOT / "benchmarks/results/architectures.json"
TABLE = ROOT / "docs/architectures.md"

STATISTICS = {"moving_mean", "moving_variance", "mean", "variance", "count", "seed_generator_state"}

RELOAD = """
import sys
sys.modules["kprune"] = None  # as if it were not installed
import keras, numpy as np
model = keras.models.load_model("slim.keras")
np.save("again.npy", model(np.load("x.npy")))
"""

HEAD = """# Architectures

Every network below was built without trained weights; biases, BatchNorm parameters and statistics
were moved away from their initial values; half of its channels, chosen at random, were closed; then
it was slimmed, compared, counted, saved, loaded by a process without kprune, and converted to int8.
Made by `python -m benchmarks.architectures` with Keras {keras} on {backend}.

* **groups**: sets of channels that are made together; in brackets those of which some can go.
* **MACs that can go**: share of the multiply-accumulates that is not needed by the least network,
  with one channel per layer. It says what the structure allows, not what accuracy does.
* **difference**: of the outputs (logits) of the slim from those of the masked network, the greatest
  over the greatest output. Both are float32: with fewer channels, sums are added in another order.
* **reloaded**: the same between the slim network and its file, loaded without kprune.
* **counts**: whether the parameters and MACs that kprune states for the masked network are those of
  the slim one, and its parameters those that Keras counts.
* **held back**: channels that stay, and why; but for inputs and outputs, which always do.

| network | parameters | groups | MACs that can go | half closed: parameters | difference \
| reloaded | counts | int8 bytes | held back |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |
"""


def main() -> None:
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(row(sys.argv[2])))
        return
    rows = {r["network"]: r for r in json.loads(JSON.read_text())} if JSON.exists() else {}
    for name in sys.argv[1:] or NAMES:
        rows[name] = _in_own_process(name)
        print(_line(rows[name]), flush=True)
        _write([rows[n] for n in NAMES if n in rows])


def _write(rows: list[dict]) -> None:
    head = HEAD.format(keras=keras.__version__, backend=keras.backend.backend())
    JSON.write_text(json.dumps(rows, indent=1) + "\n")
    TABLE.write_text(head + "".join(_line(r) + "\n" for r in rows))


def _in_own_process(name: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.architectures", "--row", name]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        return {"network": name, "failure": _last_line(run.stderr)}
    return json.loads(run.stdout.splitlines()[-1])


def row(name: str) -> dict:
    """Take one network down the road."""
    model = perturb(build(name))
    x = random_inputs(model)
    masked = kprune.add_masks(model)
    opened = _difference(model(x), masked(x))
    close_at_random(masked)
    small = kprune.slim(masked)
    found = trace(model)
    cost = Cost(found)
    full = cost.total(np.ones(found.num_channels, bool))
    least = cost.total(cheapest(found, cost, full))
    expected, outputs = masked(x), small(x)
    return {
        "network": name,
        "params": full["params"],
        "macs": full["macs"],
        "groups": len(found.groups),
        "prunable_groups": sum(g.prunable for g in found.groups),
        "removable_macs": 1 - least["macs"] / full["macs"],
        "half_params": _counted(small),
        "open_difference": opened,
        "difference": _difference(expected, outputs),
        "counts": _stated(masked) == _stated(small) and _stated(small)["params"] == _counted(small),
        "reload_difference": _difference(outputs, _reloaded(small, x)),
        "int8": _int8(small),
        "held": dict(_held(found.groups)),
    }


def _stated(model: keras.Model) -> dict[str, int]:
    found = trace(model)
    return Cost(found).total(kprune.masking.read_gates(found))


def _counted(model: keras.Model) -> int:
    """Parameters as Keras knows them: all weights but running statistics."""
    return sum(int(np.prod(w.shape)) for w in model.weights if w.name not in STATISTICS)


def _difference(expected: object, found: object) -> float:
    expected, found = map(keras.ops.convert_to_numpy, (expected, found))
    assert np.isfinite(expected).all() and expected.std() > 0
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def _reloaded(model: keras.Model, x: object) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "slim.keras"))
        np.save(Path(folder, "x.npy"), x)
        subprocess.run([sys.executable, "-c", RELOAD], cwd=folder, check=True, capture_output=True)
        return np.load(Path(folder, "again.npy"))


def _int8(model: keras.Model) -> int | str:
    """Bytes of the flatbuffer, or why there is none."""
    try:
        return len(kprune.to_tflite(model, random_inputs(model, batch=8)))
    except (ValueError, RuntimeError) as error:
        return _last_line(str(error))


def _held(groups: list[Group]) -> Counter[str]:
    """Reason, with kinds of layers instead of names -> channels that stay for it."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts.update(re.sub(r"'[^']*' \((\w+)\)", r"\1", why) for why in group.held.values())
    return counts


def _last_line(text: str) -> str:
    return shorten(text.strip().splitlines()[-1], 200, placeholder=" ...")


def _line(r: dict) -> str:
    if "failure" in r:
        return f"| {r['network']} | fails: {r['failure']} |"
    held = "; ".join(
        f"{n:,}: {why}"
        for why, n in r["held"].items()
        if why not in ("input of the model", "output of the model")
    )
    cells = [
        r["network"],
        f"{r['params']:,}",
        f"{r['groups']} ({r['prunable_groups']})",
        f"{r['removable_macs']:.1%}",
        f"{r['half_params'] / r['params']:.1%}",
        f"{r['difference']:.1g}",
        f"{r['reload_difference']:.1g}",
        "equal" if r["counts"] else "DIFFER",
        f"{r['int8']:,}" if isinstance(r["int8"], int) else f"fails: {r['int8']}",
        held,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
