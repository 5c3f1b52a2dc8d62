"""Checkpoints by prefix, format, precision, sharding and adapter: the logits are the reference's in float64.

The reference is the model of Transformers with the stored weights, into which PEFT merges the adapter, both in float64.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from adapters import load_base, merged_by_peft, save_adapter
from pytorch import torch
from pytorch_checkpoints import original_cfg, original_name
from reference import clip, run_reference, tiny_reference

from timesformer_jax import TimesformerForVideoClassification
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.conversion.convert import convert_hf_to_flax

PREFIXES = (
    *("", "module.", "_orig_mod.", "model."),
    *("module._orig_mod.", "_orig_mod.module.", "model.module.", "module.model."),
)
PRECISIONS = ("float16", "bfloat16", "float32", "float64")
FORMATS = (
    *(("bin", 1), ("bin", 3), ("safetensors", 1), ("safetensors", 3)),
    *(("ckpt", 1), ("pyth", 1), ("converted", 1), ("converted", 3)),
)
"""Formats, and the number of shards. A converted directory is made from safetensors in so many."""

ADAPTERS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "lora": {"target_modules": ["qkv", "dense"], "modules_to_save": ["classifier"]},
    "rslora with patterns": {
        "target_modules": r"(.*\.)?(qkv|temporal_dense|projection|output\.dense|classifier)",
        "use_rslora": True,
        "rank_pattern": {r"layer\.0\..*": 2, "classifier": 3},
        "alpha_pattern": {"temporal_dense": 17, r"^timesformer\.embeddings\..*": 5},
        "bias": "all",
    },
}

Case = tuple[str, str, int, str]
PRODUCT: list[Case] = [
    (prefix, form, shards, precision)
    for prefix, (form, shards), precision in itertools.product(PREFIXES, FORMATS, PRECISIONS)
]
HANDFUL: list[Case] = [
    ("", "safetensors", 3, "bfloat16"),
    ("module.", "bin", 1, "float16"),
    ("model.", "ckpt", 1, "float32"),
    ("_orig_mod.module.", "bin", 3, "float64"),
    ("module._orig_mod.", "converted", 1, "bfloat16"),
    ("module.model.", "pyth", 1, "float32"),
]

Shelf = Callable[[str, str], tuple[Path, np.ndarray]]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A function of a precision and the name of an adapter: the adapter's directory, and the reference's logits."""
    directory = tmp_path_factory.mktemp("shelf")

    @functools.cache
    def base(precision: str) -> Path:
        tiny_reference(dtype=getattr(torch, precision)).save_pretrained(directory / precision)
        return directory / precision

    @functools.cache
    def entry(precision: str, name: str) -> tuple[Path, np.ndarray]:
        adapter, settings, model = directory / name, ADAPTERS[name], load_base(base(precision))
        if settings is not None:
            if not adapter.exists():
                save_adapter(adapter, load_base(base("float32")), dtype=torch.float32, base="/moved/away", **settings)
            model = merged_by_peft(model, adapter)
        return adapter, np.asarray(run_reference(model, clip(model.config)).logits.detach())

    return entry


def write(directory: Path, prefix: str, form: str, shards: int, precision: str) -> Path:
    """Writes the weights of the tiny model as a training with wrappers leaves them; returns what to load."""
    reference: Any = tiny_reference(dtype=getattr(torch, precision))
    names = {"pyth": original_name}.get(form, str)
    state = {f"{prefix}{names(name)}": tensor for name, tensor in reference.state_dict().items()}
    directory.mkdir()
    match form:
        case "ckpt":
            extra = {"epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.5.0", "optimizer_states": []}
            torch.save({**extra, "state_dict": state}, directory / "last.ckpt")
            return directory / "last.ckpt"
        case "pyth":
            torch.save({"epoch": 14, "model_state": state, "cfg": original_cfg(reference)}, directory / "a.pyth")
            return directory / "a.pyth"
        case "converted":
            source = write(directory / "source", prefix, "safetensors", shards, precision)
            convert_hf_to_flax(source, directory / "flax")
            return directory / "flax"
        case _:
            size = sum(tensor.nbytes for tensor in state.values())
            options = {"max_shard_size": size // shards + size // 10} if shards > 1 else {}
            reference.save_pretrained(directory, state_dict=state, safe_serialization=form == "safetensors", **options)
            written = [file for file in directory.iterdir() if file.suffix in (".bin", ".safetensors")]
            assert len(written) == shards
            return directory


@pytest.fixture(scope="module")
def forward() -> Callable[..., Any]:
    """The logits of a model's parameters, compiled once for all that have its architecture."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(config: Any, params: Any, pixel_values: Any) -> Any:
        model = TimesformerForVideoClassification(config, dtype=np.float64)
        return model.apply({"params": params}, pixel_values).logits  # pyright: ignore[reportAttributeAccessIssue]

    return lambda config, *arrays: run(config.replace(extra={}, sampling_rate=None), *arrays)


def assert_read_right(directory: Path, shelf: Shelf, forward: Callable[..., Any], case: Case) -> None:
    source = write(directory / "checkpoint", *case)
    for name, settings in ADAPTERS.items():
        adapter, expected = shelf(case[-1], name)
        options: dict[str, Any] = {"num_attention_heads": 3, "dtype": np.dtype(np.float64)}
        if settings is None:
            checkpoint = load_checkpoint(source, **options)
        else:
            checkpoint = load_checkpoint(adapter, base=source, **options)
        assert not str(checkpoint.changes)
        logits = forward(checkpoint.config, checkpoint.params, clip(checkpoint.config))
        assert logits.dtype == np.float64
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12, err_msg=f"{case} with adapter {name}")


@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("case", HANDFUL, ids=str)
def test_a_handful(tmp_path: Path, shelf: Shelf, forward: Callable[..., Any], case: Case) -> None:
    assert_read_right(tmp_path, shelf, forward, case)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_the_whole_product(tmp_path: Path, shelf: Shelf, forward: Callable[..., Any], case: Case) -> None:
    assert_read_right(tmp_path, shelf, forward, case)
