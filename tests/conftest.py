"""Settings for all tests: shapes checked while they run, no network, double precision for those that ask for it."""

import os
from collections.abc import Generator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # commands would fill the user's

import jax
import pytest
from jaxtyping import install_import_hook

# The modules whose signatures state array shapes. (Not those that check for themselves what users hand in and promise
# an error of their own: config, checkpoints, pretrained. Nor outputs, which JAX fills with all sorts of things.)
ARRAY_MODULES = (
    "activations",
    "attention",
    "attention_layers",
    "blockwise",
    "embeddings",
    "layers",
    "losses",
    "modeling",
    "neighbourhood_attention",
    "neighbourhoods",
    "packets",
    "decoding",
)
LOOKING_MODULES = ("rollout", "attention_maps", "overlay", "animation", "visualization")
TRAINING_MODULES = ("appearance", "clips", "mixing", "motion")
install_import_hook(
    [f"timesformer_jax.{module}" for module in ARRAY_MODULES + LOOKING_MODULES]
    + [f"timesformer_jax.training.{module}" for module in TRAINING_MODULES],
    "beartype.beartype",
)


@pytest.fixture
def x64() -> Generator[None]:
    """Double precision for one test (or, as `pytest.mark.usefixtures("x64")`, for a class or a file).

    A scoped setting of JAX's, not the global switch: tests in default precision may run before and after.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compile() -> Generator[None]:
    """Unoptimised code for one test: a tiny model takes longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
