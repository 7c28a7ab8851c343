"""Holds the budget while `fit` trains: scores → gates every few steps, then frozen."""

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from rich.console import Console

from kprune.budget import Budget
from kprune.channels import trace
from kprune.cost import MEMORY, Cost
from kprune.feasibility import assess, assess_memory
from kprune.losses import CompressionLoss
from kprune.masking import find_masked, read_gates, read_scores, write_gates
from kprune.projection import project
from kprune.reconstruction import find_readers, reconstruct

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
        given = (self.start, self.end, self.freeze)
        if not all(isinstance(share, int | float | np.number) for share in given):
            raise TypeError(
                "start, end and freeze of a schedule are numbers, shares of the whole fit, got "
                f"{', '.join(map(repr, given))}."
            )
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
    they are clearly better than what is open. With "taylor" the layers behind get weights by which
    open channels make up for closed ones, so that little is lost with each.

    The figures go into `logs` (`macs_rate`, `params_rate`, …: cost over original cost), where the
    progress bar, `History`, `CSVLogger` and `TensorBoard` find them: list those after this
    callback. `EarlyStopping` and `ModelCheckpoint` compare epochs, and the early ones have more
    channels: let `EarlyStopping(start_from_epoch=...)` wait for the freeze, and list it before
    this callback if it restores weights.

    A further `fit` does not begin with the whole network again: what is above its budget only
    shrinks. Where its budget is looser than what is open, closed channels are opened again.

    Args:
        budget: What may be kept. All limits in one budget: a fit takes one of these callbacks.
        schedule: When channels are closed, and when no more.
        round_to: Layers keep multiples of it, or all channels that they have: 4 or 8 suits
            processors that compute so many at once.
        verbose: 1 prints a table before the first step: what the network costs, what is asked, the
            least that can be reached, what stays whole and why, and which boards a smaller network
            opens (for flash and RAM it is converted once, some seconds). 0 is silent.

    Raises:
        TypeError: `budget`, `schedule` or `round_to` is of another kind.
        ValueError: When `fit` starts: the model has no masks, or several models inside of it have,
            a mask is frozen or called more than once, a `CompressionLoss` watches another model,
            the fit has two of these callbacks, or it is too short. At the freeze: the masks have
            learned no scores.
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
        if not isinstance(schedule, Schedule | None):
            raise TypeError(
                f"Expected a kprune.Schedule, got {schedule!r}: Schedule(start=0.05, freeze=0.7)."
            )
        if isinstance(round_to, bool) or not isinstance(round_to, int | np.integer):
            raise TypeError(f"round_to must be an int such as 4 or 8, got {round_to!r}.")
        if round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {round_to}.")
        self.budget = budget
        self.schedule = schedule or Schedule()
        self.round_to = round_to
        self.verbose = verbose

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.model.pruned_by = id(self)
        self._trace = trace(find_masked(self.model))
        self._check_masks()
        self._readers = find_readers(self._trace)
        self._cost = Cost(self._trace, self.budget.kinds)
        feasible = assess(self._trace, self._cost, self.budget, self.round_to)
        self.original, self.limits = feasible.full, feasible.limits
        self._steps = self.params["steps"]
        self._check_length()
        self._step: int | None = None
        # None in a training loop of one's own.
        self._optimizer: Any = getattr(self.model, "optimizer", None)
        self._watch_loss()
        self._keep_scores_out_of_averages()
        if self.verbose:
            known = set(MEMORY) <= set(feasible.full)
            Console().print(
                feasible if known else assess_memory(self._trace, self.budget, self.round_to)
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # Set anew when each fit starts, so that a fit that was broken off leaves nothing behind.
        if self.model.pruned_by != id(self):
            raise ValueError(
                "This fit has two PruneCallbacks, and each would undo what the other closes: state "
                "all limits in the Budget of one, such as Budget(macs=0.25, params=0.5)."
            )
        self._epoch = epoch
        if self._steps and self._step is None:
            self._step = epoch * self._steps
        self._unit: np.float32 | None = None
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
            is_last = self._step >= self._freeze
            # Rounded down to a step, the freeze may come before the end of the ramp.
            excess = 0.0 if is_last else self.schedule.excess(self._step / self._total)
            self._project(excess, is_last)

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
            self._project(excess=0.0, is_last=True)
            warnings.warn(
                "Training ended with open gates beyond the budget (it was stopped before the "
                "freeze, or weights of an earlier epoch were restored). The least important "
                "channels were closed now: train on, or expect a loss of accuracy.",
                stacklevel=2,
            )

    @property
    def _total(self) -> int:
        return self.params["epochs"] * self._steps

    @property
    def _freeze(self) -> int:
        # Not before the first step: its projection would never be due.
        return max(1, int(self.schedule.freeze * self._total))

    def _is_due(self, before: int, now: int) -> bool:
        """Whether a projection falls in the steps after `before`, up to and including `now`."""
        every = max(1, self._total // PROJECTIONS)
        if before < self._freeze <= now:
            return True
        start = int(self.schedule.start * self._total)
        return start < now < self._freeze and before // every < now // every

    def _check_masks(self) -> None:
        """Refuse masks that would learn nothing, or nonsense."""
        calls = Counter(mask for mask, _ in self._trace.masks)
        name = self._trace.graph.name
        trained = {id(weight) for weight in self.model.trainable_variables}
        frozen = [m.name for m in calls if not {id(w) for w in m.learned} <= trained]
        if frozen:
            raise ValueError(
                f"Masks of {name!r} are frozen and learn no scores: {', '.join(frozen)}. Freeze "
                "layers before add_masks, which keeps them frozen, or leave the ChannelMask layers "
                "trainable."
            )
        shared = [m.name for m, n in calls.items() if n > 1 and m.importance == "taylor"]
        if shared:
            raise ValueError(
                f"Masks of {name!r} are called more than once, by which their scores double with "
                f"every step: {', '.join(shared)}. Build the model of the plain layers (the twins "
                "of a siamese model, say, of the model without masks), then add_masks to the whole."
            )

    def _watch_loss(self) -> None:
        for loss in keras.tree.flatten(self.model.loss):
            if not isinstance(loss, CompressionLoss):
                continue
            if not loss.watches:  # It came out of a file.
                loss.watch(self.model)
            if not loss.trains([mask for mask, _ in self._trace.masks]):
                raise ValueError(
                    f"The CompressionLoss watches other masks than those of the model in training, "
                    f"{self._trace.graph.name!r}, which it would leave as they are: compile with "
                    "kprune.CompressionLoss(loss, model, budget) of this very model."
                )

    def _keep_scores_out_of_averages(self) -> None:
        """Let a score be its own moving average, where the optimizer keeps some (`use_ema`).

        Keras keeps none of weights that overwrite, but when it stores the averages it takes one
        for each weight, and fails.
        """
        optimizer: Any = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        if not getattr(optimizer, "use_ema", False):
            return
        if not self._optimizer.built:
            self._optimizer.build(self.model.trainable_variables)
        # The optimizer's own list: it may train a part of the model only.
        averages = zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        own = [weight if average is None else average for weight, average in averages]
        # Past the optimizer's own __setattr__, which would count the scores among its variables.
        object.__setattr__(optimizer, "_model_variables_moving_average", own)

    def _set_unit(self) -> None:
        """Tell the masks what Keras takes back of gradients, but not of what overwrites."""
        unit = _unit(self.model, self._optimizer)
        if unit == self._unit:
            return
        for mask, _ in self._trace.masks:
            if hasattr(mask, "unit"):
                before = keras.ops.convert_to_numpy(mask.unit)
                if before != unit:
                    mask.scores.assign(keras.ops.convert_to_numpy(mask.scores) * (unit / before))
                    mask.unit.assign(unit)
        self._unit = unit

    def _project(self, excess: float, is_last: bool) -> None:
        _ = self.model  # On JAX this brings the weights up to date, in the midst of an epoch.
        scores = read_scores(self._trace)
        if not scores.any() and not is_last:
            return  # The optimizer has not stepped yet: it accumulates, or finds its loss scale.
        if not np.isfinite(scores).all() or not scores.any():
            why = (
                "the loss is not finite, or the model is called more than once in a training step, "
                "by which scores double."
                if scores.any()
                else "all of them are zero, no step of the optimizer has reached them."
            )
            raise ValueError(
                f"The masks have learned no usable scores: {why} "
                "They are learned by the optimizer's ordinary gradient step through the loss."
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
        opened = project(self._trace, self._cost, limits, scores, self.round_to)
        write_gates(self._trace, opened)
        reconstruct(self._readers, gates, opened)

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


def _unit(model: keras.Model, optimizer: Any) -> np.float32:
    """What a loss of 1 is in the backward pass, so that the mean over the replicas is the sum."""
    scale = getattr(optimizer, "scale_loss", float)(1.0)
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow only
    replicas = strategy.num_replicas_in_sync if strategy else 1
    # As precise as the weight that keeps it.
    return np.float32(keras.ops.convert_to_numpy(scale) / replicas)
