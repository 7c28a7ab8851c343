"""`CompressionLoss`: the task's loss, and what the trainable masks still cost beyond the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

# Keras loads this file as soon as it is loaded itself, so that saved losses are found; what it
# needs of kprune in turn needs Keras, and is loaded when a loss meets its model.
if TYPE_CHECKING:
    from kprune.budget import Budget
    from kprune.importance import Tensor
    from kprune.layers import ChannelMask

# The kinds of cost that are a smooth function of the gates.
SMOOTH = ("macs", "params")


@keras.saving.register_keras_serializable("kprune")
class CompressionLoss(keras.losses.Loss):
    """Loss of the task + `weight` * (rate of the soft gates - rate asked), while that is positive.

    For masks of importance "learned". The soft gate of a channel is the sigmoid of its logit, and
    the rate of the soft gates is the cost of the network with these in the place of the 0/1 gates,
    over its full cost. Its gradient closes what costs more than it is worth to the task. It only
    shapes the scores: that the budget holds is still the work of `PruneCallback`.

    MACs and parameters are constrained so, and the parts of several are added. Other kinds of cost
    are no smooth function of the gates: these are left to the projection alone.

    Args:
        loss: The loss of the task, as `compile` takes it: a name, a function or a `Loss`.
        model: The masked model. None for a loss that is to be given its model later, as one is
            that comes out of a file; until then it is the loss of the task alone. `PruneCallback`
            gives it the model that it trains when `fit` starts.
        budget: What may be kept, the same as that of the `PruneCallback`.
        weight: What a rate of 1 beyond the budget costs, in units of the task's loss.

    Raises:
        ValueError: `model` has no learned masks, the budget states neither MACs nor parameters, the
            loss is unknown, or `weight` is not above 0.
        TypeError: `budget` is no Budget.

    Example:
        >>> import kprune
        >>> model = keras.Sequential([
        ...     keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2),
        ... ])
        >>> masked = kprune.add_masks(model, importance="learned")
        >>> budget = kprune.Budget(macs=0.25)
        >>> loss = kprune.CompressionLoss("mse", masked, budget)
        >>> masked.compile("adam", loss, jit_compile=False)
        >>> x, y = np.random.default_rng(0).normal(size=(2, 160, 16)).astype("float32")
        >>> prune = kprune.PruneCallback(budget, verbose=0)
        >>> history = masked.fit(x, y[:, :2], epochs=4, callbacks=[prune], verbose=0)
        >>> history.history["macs_rate"][-1]
        0.25

    Source:
        Shen et al., Efficient Deep Structure Learning for Resource-Limited IoT Devices, GLOBECOM
        2020: trainable masks, and a loss that is constrained by the compression rate.
    """

    def __init__(
        self,
        loss: str | Callable | keras.losses.Loss,
        model: keras.Model | None,
        budget: Budget,
        weight: float = 1.0,
        name: str = "compression_loss",
    ) -> None:
        from kprune.budget import Budget

        super().__init__(name=name)
        if not isinstance(budget, Budget):
            raise TypeError(f"Expected a kprune.Budget, got {budget!r}: Budget(macs=0.25).")
        if loss is None:
            raise TypeError('Expected the loss of the task, got None: "mse", a function or a Loss.')
        if not isinstance(weight, int | float) or not weight > 0:
            raise ValueError(
                f"weight must be above 0, got {weight!r}: 1.0, or more to press harder."
            )
        found = keras.losses.get(loss)
        self.loss = found if isinstance(found, keras.losses.Loss) else _Function(found)
        self.budget = budget
        self.weight = weight
        self._excess: _Excess | None = None
        self._given = loss
        if model is not None:
            self.watch(model)

    @property
    def watches(self) -> bool:
        """Whether it knows a model."""
        return self._excess is not None

    def watch(self, model: keras.Model) -> None:
        """Constrain the rate of this masked model from now on.

        Raises:
            ValueError: It has no learned masks.
        """
        self._excess = _Excess(model, self.budget)

    def trains(self, masks: Iterable[ChannelMask]) -> bool:
        """Whether these are the masks that it constrains."""
        own = {id(logits) for logits in self._excess.logits} if self._excess else set()
        return own == {id(weight) for mask in masks for weight in mask.learned}

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        task = self.loss(y_true, y_pred, sample_weight)
        if self._excess is None:
            return task
        # Not weighted by samples, but reduced as a loss is, which also splits it over replicas.
        return task + super().__call__(y_true, y_pred)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The part for the rate, the same for every sample."""
        first = keras.tree.flatten(y_pred)[0]
        assert self._excess is not None
        penalty = ops.cast(self.weight * self._excess(), first.dtype)
        return ops.zeros_like(first[..., 0]) + penalty

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "loss": keras.saving.serialize_keras_object(self._given),
            "budget": asdict(self.budget),
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config: dict) -> CompressionLoss:
        from kprune.budget import Budget

        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss, "model": None, "budget": Budget(**config["budget"])})


class _Function(keras.losses.Loss):
    """A loss function as a `Loss`, as `compile` makes one of it."""

    def __init__(self, function: Callable) -> None:
        # A lambda is called <lambda>, which is no name for a scope.
        super().__init__(name=getattr(function, "__name__", "loss").strip("<>"))
        self.function = function

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if y_pred.shape[-1:] == (1,) and len(y_true.shape) == len(y_pred.shape) - 1:
            y_true = ops.expand_dims(y_true, -1)
        return self.function(y_true, y_pred)


class _Excess:
    """The soft rate of a masked model beyond its budget, as a tensor.

    Costs are sums of `factor * live channels on one side * live channels on the other`. With the
    soft gates in the place of 0 and 1, live channels are a matrix times these.
    """

    def __init__(self, model: keras.Model, budget: Budget) -> None:
        from kprune.channels import trace
        from kprune.cost import elements
        from kprune.masking import find_masked, importance_of

        found = trace(find_masked(model))
        if importance_of(found) != "learned":
            raise ValueError(
                f"The masks of {found.graph.name!r} have no logits for a CompressionLoss to train, "
                f"their importance is {importance_of(found)!r}. "
                'Make them with kprune.add_masks(model, importance="learned").'
            )
        if not set(SMOOTH) & set(budget.asked):
            raise ValueError(
                f"CompressionLoss constrains {' and '.join(SMOOTH)}, and {budget} states neither. "
                "State one of them, too, or compile with the loss of the task alone: PruneCallback "
                "holds every budget."
            )
        self.logits = [mask.logits for mask, _ in found.masks]
        parts = elements(found)
        always = np.array([found.num_channels])  # a channel more, for weights with fewer sides
        sides = [side for part in parts for side in [*part.sides, always, always][:2]]
        each = [np.bincount(side, minlength=found.num_channels + 1) for side in sides]
        counts, which = np.unique(each, axis=0, return_inverse=True)
        self._pairs = which.reshape(-1, 2)
        gated = np.concatenate([channels for _, channels in found.masks])
        # A channel with masks at several places is as open as they are on average.
        places = np.bincount(gated, minlength=found.num_channels + 1)
        self._soft = (counts[:, gated] / places[gated]).astype("float32")
        self._fixed = counts[:, places == 0].sum(axis=1).astype("float32")
        self._rates = []
        for kind in SMOOTH:
            if kind in budget.asked:
                factors = np.array([getattr(part, kind) for part in parts], float)
                full = float(factors @ counts.sum(axis=1)[self._pairs].prod(axis=1))
                asked = getattr(budget, kind)
                share = asked if isinstance(asked, float) else asked / full
                self._rates.append(((factors / full).astype("float32"), share))

    def __call__(self) -> Tensor:
        soft = ops.sigmoid(ops.concatenate([ops.convert_to_tensor(v) for v in self.logits]))
        live = ops.add(self._fixed, ops.matmul(self._soft, soft))
        products = ops.prod(ops.take(live, self._pairs, axis=0), axis=1)
        return sum(
            ops.relu(ops.sum(ops.multiply(part, products)) - share) for part, share in self._rates
        )
