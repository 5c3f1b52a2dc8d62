"""mmaction2's TimeSformer, written anew in plain PyTorch by its forward order, and checkpoints as its trainings save.

Modules have the names that mmaction2's and mmcv's have, so that state dicts come out as theirs. Everything is computed
here token sequence by token sequence, with `nn.MultiheadAttention`, and without drop path: that acts in training alone.
"""

from pathlib import Path
from typing import Any

from pytorch import nn, torch
from reference import disturb

EPSILON = 1e-6


class Temporal(nn.Module):
    """Divided attention's first step: norm, attention over the frames of each place, a dense layer, the residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.attn = nn.MultiheadAttention(width, heads)
        self.temporal_fc = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, frames: int) -> torch.Tensor:
        cls, patches = tokens[:, :1], tokens[:, 1:]
        new = torch.empty_like(patches)
        for first in range(0, patches.shape[1], frames):  # the frames of a place stand side by side
            place = slice(first, first + frames)
            sequence = self.norm(patches[:, place]).transpose(0, 1)
            attended, _ = self.attn(sequence, sequence, sequence)
            new[:, place] = patches[:, place] + self.temporal_fc(attended.transpose(0, 1))
        return torch.cat([cls, new], dim=1)


class Spatial(nn.Module):
    """Its second step: norm and attention over CLS and the places of each frame; CLS gets the frames' mean."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.attn = nn.MultiheadAttention(width, heads)

    def forward(self, tokens: torch.Tensor, frames: int) -> torch.Tensor:
        added, for_cls = torch.zeros_like(tokens), []
        for frame in range(frames):
            places = torch.arange(1 + frame, tokens.shape[1], frames)
            chosen = torch.cat([torch.zeros(1, dtype=torch.long), places])
            sequence = self.norm(tokens[:, chosen]).transpose(0, 1)
            attended = self.attn(sequence, sequence, sequence)[0].transpose(0, 1)
            for_cls.append(attended[:, 0])
            added[:, places] = attended[:, 1:]
        added[:, 0] = torch.stack(for_cls).mean(0)
        return tokens + added


class Attention(nn.Module):
    """Attention of the other two types; its norm is the layer's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)

    def forward(self, normed: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        sequence = normed.transpose(0, 1)
        return residual + self.attn(sequence, sequence, sequence)[0].transpose(0, 1)


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, *, with_norm: bool) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(0.0))
        self.layers = nn.Sequential(first, nn.Linear(inner, width), nn.Dropout(0.0))
        if with_norm:
            self.norm = nn.LayerNorm(width, eps=EPSILON)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, *, divided: bool) -> None:
        super().__init__()
        steps = [Temporal(width, heads), Spatial(width, heads)] if divided else [Attention(width, heads)]
        self.attentions = nn.ModuleList(steps)
        self.ffns = nn.ModuleList([FeedForward(width, inner, with_norm=divided)])
        self.norms = nn.ModuleList([] if divided else [nn.LayerNorm(width, eps=EPSILON) for _ in range(2)])

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        (mlp,) = self.ffns
        if not self.norms:
            for step in self.attentions:
                x = step(x, frames)
            return x + mlp.layers(mlp.norm(x))
        x = self.attentions[0](self.norms[0](x), x)
        return x + mlp.layers(self.norms[1](x))


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, patch, patch)


class Layers(nn.Module):
    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Backbone(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        width, heads, self.kind = settings["embed_dims"], settings["num_heads"], settings["attention_type"]
        height, breadth = settings["img_size"]
        places = (height // settings["patch_size"]) * (breadth // settings["patch_size"])
        self.frames = settings["num_frames"]
        self.patch_embed = PatchEmbed(width, settings["patch_size"], settings["in_channels"])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, places + 1, width))
        if self.kind != "space_only":
            self.time_embed = nn.Parameter(torch.zeros(1, self.frames, width))
        divided = self.kind == "divided_space_time"
        layers = [Layer(width, heads, 4 * width, divided=divided) for _ in range(settings["num_transformer_layers"])]
        self.transformer_layers = Layers(layers)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """The features of clips (batch, channels, frames, height, width)."""
        batch, frames = len(clips), clips.shape[2]
        cls = self.cls_token[0, 0] + self.pos_embed[0, 0]
        pictures = [self.patch_embed.projection(clips[:, :, t]).flatten(2).transpose(1, 2) for t in range(frames)]
        patches = torch.stack(pictures, dim=2) + self.pos_embed[:, 1:, None]  # (batch, places, frames, width)
        if self.kind == "space_only":
            by_frame = patches.transpose(1, 2).flatten(0, 1)
            x = torch.cat([cls.expand(len(by_frame), 1, -1), by_frame], dim=1)
        else:
            x = torch.cat([cls.expand(batch, 1, -1), (patches + self.time_embed[:, None]).flatten(1, 2)], dim=1)
        for layer in self.transformer_layers.layers:
            x = layer(x, frames)
        if self.kind == "space_only":
            x = x.unflatten(0, (batch, frames)).mean(1)
        return self.norm(x)[:, 0]


class Head(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(width, classes)


class Recognizer(nn.Module):
    """Backbone and head."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = Backbone(settings)
        self.cls_head = Head(settings["num_classes"], settings["embed_dims"])

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.cls_head.fc_cls(self.backbone(clips))


TINY: dict[str, Any] = {
    "num_frames": 3, "img_size": (8, 12), "patch_size": 4, "embed_dims": 24, "num_heads": 2,
    "num_transformer_layers": 2, "in_channels": 3, "attention_type": "divided_space_time", "num_classes": 7,
}  # fmt: skip


def tiny_recognizer(dtype: torch.dtype = torch.float64, **settings: Any) -> Recognizer:
    """A tiny model in evaluation mode, every tensor of it disturbed."""
    model = Recognizer(TINY | settings).to(dtype).eval()
    disturb(model)
    return model


def config_text(
    model: Recognizer, *, version: int = 1, backbone: str = "", model_section: str = "", **changes: Any
) -> str:
    """The config as mmengine (version 1) or mmcv (0) writes it into meta: assignments, sorted, `dict(...)` throughout.

    Args:
        model: the model it is for.
        version: mmaction2's.
        backbone: further settings of the backbone.
        model_section: further settings of the model, in place of the data_preprocessor.
        **changes: `interval` (32), `mean` ([127.5] * 3), `std`, `swap` ("False").
    """
    values = {"interval": 32, "mean": [127.5] * 3, "std": [127.5] * 3, "swap": False} | changes
    own = {name: value for name, value in model.settings.items() if name != "num_classes"}
    own_text = "".join(f"        {name}={value!r},\n" for name, value in sorted(own.items()))
    normalise = f"mean={values['mean']!r},\n            std={values['std']!r},\n            "
    section = model_section or (
        "data_preprocessor=dict(\n            format_shape='NCTHW',\n            "
        f"{normalise}to_rgb={values['swap']!r},\n            type='ActionDataPreprocessor'),"
        if version == 1
        else "test_cfg=dict(average_clips='prob'), train_cfg=None,"
    )
    step = (
        ""
        if version == 1
        else f"    dict(\n            type='Normalize',\n            {normalise}to_bgr={values['swap']!r}),\n"
    )
    sample = f"clip_len={own['num_frames']}, frame_interval={values['interval']}, num_clips=1"
    return f"""\
default_hooks = dict(
    checkpoint=dict(interval=5, save_best='auto', type='CheckpointHook'))
model = dict(
    backbone=dict(
{own_text}        dropout_ratio=0.0,
        norm_cfg=dict(eps=1e-06, type='LN'),
        pretrained='https://example.org/vit.pth',
        transformer_layers=None,
        {backbone}type='TimeSformer'),
    cls_head=dict(
        average_clips='prob',
        in_channels={own["embed_dims"]},
        num_classes={model.settings["num_classes"]},
        type='TimeSformerHead'),
    {section}
    type='Recognizer3D')
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict({{'.backbone.cls_token': dict(decay_mult=0.0)}})))
test_pipeline = [
    dict(type='SampleFrames', {sample}, test_mode=True),
    dict(scale=(-1, 224), type='Resize'),
{step}]
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', {sample}),
    dict(scale_range=(256, 320), type='RandomRescale'),
{step}]
work_dir = './work_dirs/timesformer'
"""


def save_mmaction2(
    path: Path, model: Recognizer, *, text: str | None = "", version: int = 1, meta: dict[str, Any] | None = None
) -> Path:
    """Writes what mmaction2's training saves, but for mmengine's objects.

    Args:
        path: where to.
        model: the model.
        text: the config; that of the model when empty, no meta at all when None.
        version: mmaction2's.
        meta: further entries of meta.
    """
    state = model.state_dict()
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.005, "params": [0]}]}
    contents: dict[str, Any] = {"state_dict": state, "optimizer": optimizer}
    if text is not None:
        key = "cfg" if version == 1 else "config"
        contents["meta"] = {"epoch": 15, "iter": 300, key: text or config_text(model, version=version), **(meta or {})}
    torch.save(contents, path)
    return path
