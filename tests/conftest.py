"""What every test may rely on: fixed seeds and one rule for missing tools."""

import importlib.util
import os
import random
import shutil
import sys

import pytest
from hypothesis import settings

# The same examples in every run, and no clock: these machines are noisy.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a whole file, too
def pytest_runtest_setup() -> None:
    """The same weights in every run: Keras takes its seeds from `random`, TensorFlow its own."""
    random.seed(0)
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)


# What no package that CI reaches can install.
UNAVAILABLE = {"renode-test"}


def require(*tools: str) -> None:
    """Skip the test by the name of the program or module it lacks; fail where CI promised it."""
    missing = [t for t in tools if not (shutil.which(t) or importlib.util.find_spec(t))]
    if not missing:
        return
    if os.environ.get("KPRUNE_REQUIRE_TOOLS") == "1" and not UNAVAILABLE & set(missing):
        pytest.fail(f"KPRUNE_REQUIRE_TOOLS=1, but not installed: {', '.join(missing)}")
    pytest.skip(f"not installed: {', '.join(missing)}")
