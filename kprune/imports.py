"""Runs a function as soon as a module is imported, by whomever and whenever.

wrapt has the same, but takes most of the time of `import kprune` for it.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_imported(name: str, run: Callable[[], object]) -> None:
    """Call `run` once the module `name` is imported; at once if it is already.

    Example:
        >>> when_imported("sys", lambda: print("here"))
        here
    """
    if name in sys.modules:
        run()
    else:
        sys.meta_path.insert(0, _Watch(name, run))


class _Watch:
    """A finder that finds one module where the others do, and runs a function behind it."""

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        self.name = name
        self.run = run

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)  # Else it would ask itself.
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.run()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
