"""Names that compile, and one clear refusal for the others."""

import re
import subprocess

import pytest
from conftest import require
from hypothesis import given
from hypothesis import strategies as st

from kprune.c.names import check_name, unique_names
from kprune.c.network import runtime


@pytest.mark.parametrize("name", ["gesture", "ds_cnn", "Model2", "x", "model_", "kprune"])
def test_a_c_identifier_is_taken_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "reason", "proposal"),
    [
        ("keyword-spotting", "not a letter followed", "keyword_spotting"),
        ("7segments", "not a letter followed", "model_7segments"),
        ("größe", "not a letter followed", "gr_e"),
        ("", "not a letter followed", "model"),
        ("a b\n", "not a letter followed", "a_b"),
        ("_hidden", "not a letter followed", "hidden"),
        ("a__b", "two underscores", "a_b"),
        ("int", "keyword of C or C", "int_model"),
        ("class", "keyword of C or C", "class_model"),
        ("time", "hide the standard header <time.h>", "time_model"),
        ("kp_nn", "runtime kp_nn", "model_kp_nn"),
        ("Kp_NN_arithmetic", "runtime kp_nn", "model_Kp_NN_arithmetic"),
        ("kp", "runtime kp_nn", "model_kp"),
        ("_kp-nn", "not a letter followed", "model_kp_nn"),
    ],
)
def test_a_name_that_c_cannot_use_is_refused_with_a_proposal(name, reason, proposal):
    with pytest.raises(ValueError, match=reason) as error:
        check_name(name)

    assert str(error.value).endswith(f"Use for example {proposal!r}.")
    assert check_name(proposal) == proposal


@given(st.lists(st.text(max_size=8)))
def test_unique_names_are_valid_and_all_different(names):
    result = unique_names(names)

    assert len(result) == len(names) == len(set(result))
    assert [check_name(name) for name in result] == result


def test_unique_names_number_what_would_collide():
    assert unique_names(["a", "a", "a_2", "a"]) == ["a", "a_2", "a_2_2", "a_3"]


def test_no_layer_has_a_constant_of_the_name_that_something_in_the_runtime_has():
    """A constant of the layer `kp_prelu` might be `kp_prelu_scales`, which is a type."""
    words = set(re.findall(r"\bkp_\w+", "\n".join(runtime().values()), re.IGNORECASE))
    starts = {word[: place.start()] for word in words for place in re.finditer("_", word)}

    assert {"kp", "kp_prelu", "KP"} <= starts
    assert starts.isdisjoint(unique_names(sorted(starts)))


@pytest.mark.parametrize("word", ["int", "class", "alignas", "constexpr", "xor", "requires"])
def test_a_word_that_a_compiler_refuses_is_refused(word):
    require("gcc", "g++")
    compilers = [["gcc", "-std=c99", "-xc"], ["g++", "-std=c++20", "-xc++"]]

    status = [
        subprocess.run(
            [*compiler, "-fsyntax-only", "-"],
            input=f"int {word};".encode(),
            capture_output=True,
        ).returncode
        for compiler in compilers
    ]

    assert any(status)
    with pytest.raises(ValueError, match="keyword"):
        check_name(word)
