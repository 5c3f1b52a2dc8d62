"""PyTorch checkpoints as the original repository and timm publish them, made from tiny models of Transformers."""

from pathlib import Path
from typing import Any

from pytorch import torch, transformers
from reference import disturb, tiny_reference

ORIGINAL: dict[str, Any] = {
    "image_size": 20,
    "patch_size": 4,
    "num_frames": 3,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "num_labels": 7,
}
"""Heads of 64, as the original's are always; otherwise dimensions that differ from each other."""

# (what the original calls it, what Transformers calls it), written down once more, from the two models' own code.
NAMES = [
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("time_embed", "embeddings.time_embeddings"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("cls_token", "embeddings.cls_token"),
    ("blocks.", "encoder.layer."),
    (".temporal_attn.proj.", ".temporal_attention.output.dense."),
    (".temporal_attn.qkv.", ".temporal_attention.attention.qkv."),
    (".temporal_norm1.", ".temporal_layernorm."),
    (".temporal_fc.", ".temporal_dense."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.qkv.", ".attention.attention.qkv."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    ("norm.", "layernorm."),
    ("head.", "classifier."),
]


def original_name(name: str) -> str:
    """The original's name of a tensor of Transformers' TimeSformer, or of its ViT (query, key, value fused)."""
    name = name.removeprefix("timesformer.").removeprefix("vit.")
    for original, transformers_name in NAMES:
        starts = name.startswith(transformers_name)
        if starts or (transformers_name.startswith(".") and transformers_name in name):
            name = name.replace(transformers_name, original, 1)
    return name


def original_reference(**settings: Any) -> Any:
    """A Transformers model with the dimensions of `ORIGINAL`."""
    return tiny_reference(**(ORIGINAL | settings))


def original_state(reference: Any, prefix: str = "model.") -> dict[str, torch.Tensor]:
    return {prefix + original_name(name): tensor for name, tensor in reference.state_dict().items()}


CFG = """\
AVA:
  BGR: false
  FRAME_LIST_DIR: ''
BN:
  NORM_TYPE: batchnorm
  WEIGHT_DECAY: 0.0
DATA:
  CROP_SIZE: 224
  DECODING_BACKEND: pyav
  INPUT_CHANNEL_NUM:
  - 3
  INV_UNIFORM_SAMPLE: false
  MEAN:
  - 0.45
  - 0.44
  - 0.43
  NUM_FRAMES: {frames}
  PATH_LABEL_SEPARATOR: ' '
  RANDOM_FLIP: true
  REVERSE_INPUT_CHANNEL: {reverse}
  SAMPLING_RATE: {rate}
  STD:
  - 0.225
  - 0.224
  - 0.223
  TARGET_FPS: 30
  TEST_CROP_SIZE: {crop}
  TRAIN_CROP_SIZE: {crop}
  TRAIN_JITTER_SCALES:
  - 256
  - 320
MIXUP:
  CUTMIX_MINMAX: null
MODEL:
  ARCH: vit
  DROPOUT_RATE: 0.5
  MODEL_NAME: vit_base_patch16_224
  NUM_CLASSES: {classes}
MULTIGRID:
  LONG_CYCLE_FACTORS:
  - - 0.25
    - 0.7071067811865476
  - - 1
    - 1
SOLVER:
  LRS:
  - 1
  - 0.1
  - 0.01
  WEIGHT_DECAY: 0.0001
TIMESFORMER:
  ATTENTION_TYPE: {attention_type}
  PRETRAINED_MODEL: ''
TRAIN:
  CHECKPOINT_CLEAR_NAME_PATTERN: []
  DATASET: {dataset}
  ENABLE: true
"""
"""The settings in a .pyth file, shortened: sorted sections, lists in block style, tuples as lists."""


def original_cfg(reference: Any, *, dataset: str = "kinetics", rate: int = 32) -> str:
    config = reference.config
    return CFG.format(
        frames=config.num_frames,
        rate=rate,
        crop=config.image_size,
        classes=config.num_labels,
        attention_type=config.attention_type,
        dataset=dataset,
        reverse=str(dataset == "ssv2").lower(),
    )


def save_original(
    path: Path, reference: Any, *, prefix: str = "model.", cfg: str | None = "", **cfg_settings: Any
) -> Path:
    """Writes what the original's training saves, its optimizer's state included.

    Args:
        path: where to.
        reference: the model.
        prefix: before the names of the tensors.
        cfg: the settings; those of the reference when empty, none at all when None.
        **cfg_settings: see `original_cfg`.
    """
    state = original_state(reference, prefix)
    contents = {
        "epoch": 14,
        "model_state": state,
        "optimizer_state": {
            "state": {i: {"momentum_buffer": torch.zeros_like(tensor)} for i, tensor in enumerate(state.values())},
            "param_groups": [{"lr": 0.005, "nesterov": True, "params": list(range(len(state)))}],
        },
    }
    if cfg is not None:
        contents["cfg"] = cfg or original_cfg(reference, **cfg_settings)
    torch.save(contents, path)
    return path


TINY_VIT: dict[str, Any] = {
    "image_size": 20,
    "patch_size": 4,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}


def tiny_vit(*, head: bool = False, num_labels: int = 11, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A ViT of Transformers in evaluation mode, every tensor disturbed; the bare model has a pooler."""
    config = transformers.ViTConfig(**(TINY_VIT | {"num_labels": num_labels} | settings))
    model = (transformers.ViTForImageClassification if head else transformers.ViTModel)(config).to(dtype).eval()
    disturb(model)
    return model


def timm_state(vit: Any) -> dict[str, torch.Tensor]:
    """A ViT of Transformers as timm names and keeps it, without the pooler."""
    state, queries = {}, ".attention.attention.query."
    for name, tensor in vit.state_dict().items():
        if queries in name:
            parts = [vit.state_dict()[name.replace("query", part)] for part in ("query", "key", "value")]
            state[original_name(name.replace("query", "qkv"))] = torch.cat(parts)
        elif not any(part in name for part in (".key.", ".value.", "pooler.")):
            state[original_name(name)] = tensor
    return state
