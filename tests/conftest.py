"""What every test may rely on: fixed seeds and one rule for missing tools."""

import importlib.util
import os
import shutil

import pytest


def require(*tools: str) -> None:
    """Skip the test by the name of the program or module it lacks; fail where CI promised it."""
    missing = [t for t in tools if not (shutil.which(t) or importlib.util.find_spec(t))]
    if not missing:
        return
    if os.environ.get("KPRUNE_REQUIRE_TOOLS") == "1":
        pytest.fail(f"KPRUNE_REQUIRE_TOOLS=1, but not installed: {', '.join(missing)}")
    pytest.skip(f"not installed: {', '.join(missing)}")
