"""LoRA adapters for the tests, made and merged by PEFT itself on tiny models of Transformers."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pytorch import peft, torch, transformers

State = dict[str, np.ndarray]


def load_base(directory: Path, *, head: bool = True, **config: Any) -> Any:
    """The model of Transformers in a directory, in float64; `config` changes its classifier, which is then random."""
    kind = transformers.TimesformerForVideoClassification if head else transformers.TimesformerModel
    torch.manual_seed(1)
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    model: Any = kind.from_pretrained(directory, dtype=torch.float64, ignore_mismatched_sizes=True, **config)
    transformers.utils.logging.set_verbosity(level)
    return model.eval()


def save_adapter(
    directory: Path,
    model: Any,
    *,
    dtype: torch.dtype = torch.float64,
    base: str | None = None,
    name: str = "default",
    safe_serialization: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Saves an adapter, none of whose tensors is zero, as PEFT does.

    Args:
        directory: where to.
        model: the base, which PEFT changes.
        dtype: of the adapter's tensors.
        base: what the adapter is to call its base; what the model calls itself when None.
        name: the adapter's; PEFT puts any but "default" into a sub-directory.
        safe_serialization: whether to write safetensors; a pickle otherwise.
        seed: of the tensors.
        **settings: of `peft.LoraConfig`.
    """
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": ["qkv", "dense"]} | settings))
    adapted = peft.get_peft_model(model, config, adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(values * (0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5))
    if dtype != torch.float64:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LoRA tensor.s. have invalid shape")  # of biases, which are right
        adapted.save_pretrained(str(directory), safe_serialization=safe_serialization)
    if base is not None:
        edit(directory / "adapter_config.json", base_model_name_or_path=base)
    return directory


def edit(file: Path, **changes: Any) -> None:
    """Changes values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Changes the tensors of an adapter in place."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def merged_by_peft(model: Any, adapter: Path) -> Any:
    """The model that PEFT makes of a base in float64 and an adapter on the disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return peft.PeftModel.from_pretrained(model.double(), str(adapter)).merge_and_unload().eval()


def state(model: Any) -> State:
    """The tensors of a model in numpy."""
    return {name: tensor.numpy(force=True) for name, tensor in model.state_dict().items()}
