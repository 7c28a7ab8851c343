"""Holds the budget while `fit` trains: scores → gates every few steps, then frozen."""

import warnings
from dataclasses import dataclass

import keras
import numpy as np
from rich.console import Console

from kprune.budget import Budget
from kprune.channels import trace
from kprune.cost import MEMORY, Cost
from kprune.feasibility import assess, assess_memory
from kprune.importance import RATE
from kprune.losses import CompressionLoss
from kprune.masking import find_masked, read_gates, read_scores, write_gates
from kprune.projection import project

# The ramp needs some projections to be a ramp, and some steps must follow the freeze.
MIN_STEPS = 20
# Projections in one fit, at the most: their cost vanishes in the training, however long it is.
PROJECTIONS = 256
# What an open channel counts beside a closed one of the same score. Scores are noisy, and whoever
# comes back has missed training: without this, channels change places by the hundred.
STAY = 6.0


@dataclass(frozen=True)
class Schedule:
    """When what happens, in shares of the whole `fit`.

    Attributes:
        start: Until here nothing is closed, and the scores settle. 0.2 suits deep networks that
            learn next to nothing in their first epochs.
        end: From `start` to here the limit falls from the full cost to the budget, along a cubic:
            fast while much is superfluous, slowly towards the end.
        freeze: From here on the gates stay, and the rest trains the network that will be.
    """

    start: float = 0.05
    end: float = 0.55
    freeze: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.freeze < 1:
            raise ValueError(
                f"A schedule needs 0 <= start < end <= freeze < 1, got start={self.start}, "
                f"end={self.end}, freeze={self.freeze}. They are shares of the whole fit."
            )

    def excess(self, progress: float) -> float:
        """The share of what is to be removed that may still be there, in [0, 1].

        Source:
            Zhu and Gupta, To prune, or not to prune, 2017, equation 1.
        """
        ramp = (progress - self.start) / (self.end - self.start)
        return float((1 - min(max(ramp, 0.0), 1.0)) ** 3)


class PruneCallback(keras.callbacks.Callback):
    """Trains weights and structure together, and ends within the budget.

    Every few steps the channels are ranked by the scores that the masks have learned, and the best
    are opened as far as the limit of the moment allows; the limit falls from the full cost to the
    budget. Scores are learned for closed channels too, so these can come back until the freeze, if
    they are clearly better than what is open.

    The figures go into `logs` (`macs_rate`, `params_rate`, …: cost over original cost), where the
    progress bar, `History`, `CSVLogger` and `TensorBoard` find them: list those after this
    callback. `EarlyStopping` and `ModelCheckpoint` compare epochs, and the early ones have more
    channels: let `EarlyStopping(start_from_epoch=...)` wait for the freeze, and list it before
    this callback if it restores weights. A further `fit` never lets the network grow again.

    Args:
        budget: What may be kept.
        schedule: When channels are closed, and when no more.
        round_to: Layers keep multiples of it, or all channels that they have: 4 or 8 suits
            processors that compute so many at once.
        verbose: 1 prints a table before the first step: what the network costs, what is asked, the
            least that can be reached, what stays whole and why, and which boards a smaller network
            opens (for flash and RAM it is converted once, some seconds). 0 is silent.

    Raises:
        ValueError: When `fit` starts: the model has no masks, or several models inside of it have,
            or the fit is too short.
        BudgetError: When `fit` starts: the budget cannot be met; says what can.

    Example:
        >>> import kprune
        >>> model = keras.Sequential([
        ...     keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2),
        ... ])
        >>> masked = kprune.add_masks(model)
        >>> masked.compile("sgd", "mse", jit_compile=False)
        >>> x, y = np.random.default_rng(0).normal(size=(2, 160, 16)).astype("float32")
        >>> prune = kprune.PruneCallback(kprune.Budget(macs=0.25), verbose=0)
        >>> history = masked.fit(x, y[:, :2], epochs=4, callbacks=[prune], verbose=0)
        >>> history.history["macs_rate"][-1]
        0.25

    Source:
        Shen et al., Efficient Deep Structure Learning for Resource-Limited IoT Devices, GLOBECOM
        2020: one training run, straight to a stated rate. Why the rate is held by projection and
        not by a penalty: ARCHITECTURE.md, "The constraint".
    """

    def __init__(
        self,
        budget: Budget,
        schedule: Schedule | None = None,
        round_to: int = 1,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(budget, Budget):
            raise TypeError(f"Expected a kprune.Budget, got {budget!r}: Budget(macs=0.25).")
        self.budget = budget
        if round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {round_to}.")
        self.schedule = schedule or Schedule()
        self.round_to = round_to
        self.verbose = verbose

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._trace = trace(find_masked(self.model))
        self._cost = Cost(self._trace, self.budget.kinds)
        feasible = assess(self._trace, self._cost, self.budget, self.round_to)
        self.original, self.limits = feasible.full, feasible.limits
        self._steps = self.params["steps"]
        self._check_length()
        self._step: int | None = None
        self._unit: float | None = None
        self._optimizer = self.model.optimizer
        self._watch_loss()
        self._keep_scores_out_of_averages()
        if self.verbose:
            known = set(MEMORY) <= set(feasible.full)
            Console().print(
                feasible if known else assess_memory(self._trace, self.budget, self.round_to)
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        if self._steps and self._step is None:
            self._step = epoch * self._steps
        self._set_unit()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer):
            self._set_unit()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._batch = batch
        if self._step is None:
            return  # The first epoch of data of unknown length.
        before, self._step = self._step, self._epoch * self._steps + batch + 1
        if self._is_due(before, self._step):
            self._project(self.schedule.excess(self._step / self._total))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._steps is None:
            self._steps = self._batch + 1
            self._check_length()
            # What fell due in this epoch is made up for in the next.
            self._step = epoch * self._steps
        total = self._cost.total(read_gates(self._trace))
        if logs is not None:
            logs.update({f"{kind}_rate": total[kind] / self.original[kind] for kind in total})

    def on_train_end(self, logs: dict | None = None) -> None:
        if not self._cost.fits(read_gates(self._trace), self.limits):
            self._project(excess=0.0)
            warnings.warn(
                "Training ended with open gates beyond the budget (it was stopped before the "
                "freeze, or weights of an earlier epoch were restored). The least important "
                "channels were closed now: train on, or expect a loss of accuracy.",
                stacklevel=2,
            )

    @property
    def _total(self) -> int:
        return self.params["epochs"] * self._steps

    def _is_due(self, before: int, now: int) -> bool:
        """Whether a projection falls in the steps after `before`, up to and including `now`."""
        start, freeze = (int(s * self._total) for s in (self.schedule.start, self.schedule.freeze))
        every = max(1, self._total // PROJECTIONS)
        if before < freeze <= now:
            return True
        return start < now < freeze and before // every < now // every

    def _watch_loss(self) -> None:
        """A `CompressionLoss` out of a file does not know its model yet."""
        for loss in keras.tree.flatten(self.model.loss):
            if isinstance(loss, CompressionLoss) and not loss.watches:
                loss.watch(self.model)

    def _keep_scores_out_of_averages(self) -> None:
        """Let a score be its own moving average, where the optimizer keeps some (`use_ema`).

        Keras keeps none of weights that overwrite, but when it stores the averages it takes one
        for each weight, and fails.
        """
        optimizer = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        if not getattr(optimizer, "use_ema", False):
            return
        if not self._optimizer.built:
            self._optimizer.build(self.model.trainable_variables)
        averages = zip(
            self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        own = [weight if average is None else average for weight, average in averages]
        # Past the optimizer's own __setattr__, which would count the scores among its variables.
        object.__setattr__(optimizer, "_model_variables_moving_average", own)

    def _set_unit(self) -> None:
        """Tell the masks what Keras takes back of gradients, but not of what overwrites."""
        unit = _unit(self.model)
        if unit != self._unit:
            for mask, _ in self._trace.masks:
                if hasattr(mask, "rate"):
                    mask.rate.assign(RATE / unit)
        self._unit = unit

    def _project(self, excess: float) -> None:
        _ = self.model  # On JAX this brings the weights up to date, in the midst of an epoch.
        scores = read_scores(self._trace)
        if not np.isfinite(scores).all() or not scores.any():
            raise ValueError(
                "The masks have learned no usable scores: "
                + ("the loss is not finite." if scores.any() else "all of them are zero.")
                + " They are learned by the optimizer's ordinary gradient step through the loss."
            )
        gates = read_gates(self._trace)
        scores = np.where(gates, STAY * scores, scores)
        present = self._cost.total(gates)
        limits = {
            # Falling from the original cost to the limit, and never up again from where it is.
            kind: min(
                limit + excess * max(self.original[kind] - limit, 0), max(present[kind], limit)
            )
            for kind, limit in self.limits.items()
        }
        write_gates(self._trace, project(self._trace, self._cost, limits, scores, self.round_to))

    def _check_length(self) -> None:
        epochs, steps = self.params["epochs"], self._steps
        if steps is None and epochs > 1:
            return
        if steps is None or epochs * steps < MIN_STEPS:
            length = "1 epoch of unknown length" if steps is None else f"{epochs * steps} steps"
            raise ValueError(
                f"This fit has {length}, too short to close channels gradually and to train what "
                f"remains: at least {MIN_STEPS} steps are needed. Raise epochs (or set "
                "steps_per_epoch, lower batch_size)."
            )


def _unit(model: keras.Model) -> float:
    """What a loss of 1 is in the backward pass, so that the mean over the replicas is the sum."""
    scale = getattr(model.optimizer, "scale_loss", float)(1.0)
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow only
    replicas = strategy.num_replicas_in_sync if strategy else 1
    return float(keras.ops.convert_to_numpy(scale)) / replicas
