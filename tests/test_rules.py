"""Rules: which one a call has, what it may declare, and rules of one's own."""

import keras
import pytest
from between import FEATURES, between, reasons
from keras import layers
from laws import check_laws
from zoo import IMAGE, perturb

import kprune
from kprune.channels import trace


def test_a_tensor_may_be_given_by_keyword() -> None:
    model = perturb(between(lambda x: layers.Dense(5)(inputs=layers.ReLU()(inputs=x)), FEATURES))

    assert check_laws(model).get_layer("maker").units < 6


class Scale(keras.layers.Layer):
    def build(self, shape: tuple) -> None:
        self.factors = self.add_weight(shape=shape[-1:], name="factors", initializer="normal")

    def call(self, x: object) -> object:
        return x * self.factors


def test_a_rule_of_ones_own_teaches_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kprune.rules.RULES", dict(kprune.rules.RULES))
    model = between(Scale(name="scale"), IMAGE)
    assert "'scale' (Scale) reads them, and kprune has no rule for it" in reasons(model)["maker"]

    @kprune.rule(Scale)
    def scale(site: kprune.Site) -> kprune.Flow:
        return kprune.Flow(site.x, {"factors": kprune.Weight({0: site.read()})})

    small = check_laws(model)

    assert small.get_layer("scale").factors.shape[0] == small.get_layer("maker").units < 6


class Doubled(layers.Dense):
    def call(self, inputs: object, training: bool | None = None) -> object:
        return 2.0 * super().call(inputs, training)


def test_a_subclass_takes_over_the_rule_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kprune.rules.RULES", dict(kprune.rules.RULES))
    model = between(Doubled(5, name="doubled"), IMAGE)
    assert "'doubled' (Doubled) makes them, and kprune has no" in reasons(model)["doubled"]

    kprune.rule(Doubled)(kprune.layer_rules.dense)

    assert check_laws(model).get_layer("doubled").units < 5


def test_a_rule_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kprune.rules.RULES", dict(kprune.rules.RULES))

    @kprune.rule(Scale)
    def scale(site: kprune.Site) -> kprune.Flow:
        return kprune.Flow(site.read())

    with pytest.raises(ValueError, match=r"rule of 'scale' \(Scale\) must give ids in the shape"):
        trace(between(Scale(name="scale"), IMAGE))
