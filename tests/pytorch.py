"""PyTorch and Transformers for the tests; where they are not installed, the tests that use them are skipped.

Test files import them from here, so that their other tests run in an environment without PyTorch.
"""

import os
from typing import Any


class Absent:
    """Stands for a package that is not installed: using it skips the running test, and does nothing before."""

    def __repr__(self) -> str:
        return "absent"  # in the names of tests, which must be the same in every process of pytest-xdist

    def __getattr__(self, name: str) -> "Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self()

    def __call__(self, *args: Any, **kwargs: Any) -> "Absent":
        if "PYTEST_CURRENT_TEST" in os.environ:
            import pytest

            pytest.skip("PyTorch and Transformers are not installed: pip install -e '.[test]'")
        return self

    def __or__(self, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return ()

    def __iter__(self) -> Any:
        return iter(())


try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from torch import nn
    from torch.nn import functional
    from torch.optim import lr_scheduler
except ImportError:
    torch = transformers = load_file = save_file = nn = functional = lr_scheduler = Absent()  # type: ignore[assignment]

try:
    import peft  # which not every environment with PyTorch has
except ImportError:
    peft = Absent()  # type: ignore[assignment]

__all__ = ["functional", "load_file", "lr_scheduler", "nn", "peft", "save_file", "torch", "transformers"]
