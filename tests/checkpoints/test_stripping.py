"""Files that hold a program's own objects: refused with a command that keeps tensors and texts, which is run here."""

import argparse
import logging
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmaction2_checkpoints import config_text, tiny_recognizer
from pytorch import torch
from pytorch_checkpoints import original_cfg, original_reference, original_state
from reference import tiny_reference

from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.errors import CheckpointError

HISTORY = """
class HistoryBuffer:
    def __init__(self): self.values = [1.0]
"""


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An object as mmengine's message hub holds them."""
    package = tmp_path / "site" / "mmengine" / "logging"
    package.mkdir(parents=True)
    (package / "history_buffer.py").write_text(HISTORY)
    for directory in (package, package.parent):
        (directory / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    from mmengine.logging.history_buffer import HistoryBuffer  # pyright: ignore[reportMissingImports]

    return HistoryBuffer()


def mmengine(history: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    model = tiny_recognizer(torch.float32)
    clean = {"state_dict": model.state_dict(), "meta": {"cfg": config_text(model), "epoch": 3}}
    return clean, clean | {"message_hub": {"log_scalars": {"loss": history}}}, "mmengine.logging.history_buffer"


def mmengine_arrays(history: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    clean, contents, _ = mmengine(history)
    return clean, {"meta": clean["meta"] | {"palette": np.zeros(3)}} | {"state_dict": contents["state_dict"]}, "numpy"


def original(_: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    reference = original_reference(dtype=torch.float32, attention_type="space_only")
    clean = {"model_state": original_state(reference), "cfg": original_cfg(reference)}
    return clean, clean | {"epoch": np.int64(3)}, "numpy"


def lightning(_: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    state = {f"model.{name}": tensor for name, tensor in tiny_reference(dtype=torch.float32).state_dict().items()}
    clean = {"state_dict": state, "pytorch-lightning_version": "2.5.1"}
    return clean, clean | {"hyper_parameters": argparse.Namespace(lr=1e-4)}, "argparse.Namespace"


def whole_model(_: Any) -> tuple[dict[str, Any], Any, str]:
    reference = tiny_reference(dtype=torch.float32)
    return reference.state_dict(), reference, "transformers.models.timesformer"


@pytest.mark.parametrize("make", [mmengine, mmengine_arrays, original, lightning, whole_model])
def test_stripped_as_the_error_says(
    make: Any, history: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.chdir(tmp_path)
    clean, contents, name = make(history)
    torch.save(clean, "clean.pth")
    torch.save(contents, "it's epoch_15.pth")
    with pytest.raises(CheckpointError, match=f"it holds objects of {name}") as error:
        load_checkpoint("it's epoch_15.pth")
    assert "\n" not in str(error.value)
    python, option, code = shlex.split(str(error.value).partition("installed with: ")[2])
    assert (python, option) == ("python", "-c")
    exec(code, {})
    known = {"num_attention_heads": 3} if make in (lightning, whole_model) else {}
    stripped, expected = (load_checkpoint(f"{name}.pth", **known) for name in ("stripped", "clean"))
    assert stripped.config == expected.config
    assert stripped.processor == expected.processor
    wanted = flat_names(expected.params)
    for path, leaf in flat_names(stripped.params).items():
        np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)


class System:
    """What only a hostile file holds."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch ran",)


def test_no_command_for_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": System()}, "a.pth")
    with pytest.raises(CheckpointError, match="can't be loaded as tensors alone") as error:
        load_checkpoint("a.pth")
    assert "python -c" not in str(error.value)
    assert not (tmp_path / "ran").exists()
