"""What the hardware can do at best, and what a model asks of it: from data sheets and shapes alone."""

import dataclasses

from timesformer_jax import TimesformerConfig


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX calls a device of a TPU, by the data sheets (docs.cloud.google.com/tpu/docs: v5e, v5p, v6e, tpu7x).

    Attributes:
        memory: bytes.
        flops: of bfloat16 products, a second.
        memory_bandwidth: bytes a second.
        link_bandwidth: bytes a second to other devices, all links together, both directions.
    """

    memory: float
    flops: float
    memory_bandwidth: float
    link_bandwidth: float


CHIPS = {
    "v5e": Chip(16e9, 197e12, 819e9, 400e9),
    "v5p": Chip(95e9, 459e12, 2765e9, 1200e9),
    "v6e": Chip(32e9, 918e12, 1640e9, 800e9),
    # Ironwood: a chip (2,307 TFLOP/s, 192 GiB, 7,380 GB/s, 1,200 GB/s of links) is two devices of half as much. The
    # memory is what the compiler lets a program have.
    "tpu7x": Chip(94.75 * 2**30, 2307e12 / 2, 7380e9 / 2, 1200e9 / 2),
}

ASSUMPTIONS = (
    "compute: products alone, at the chip's bfloat16 peak; "
    "links: the bytes a chip sends by ring algorithms, over half of its links' bandwidth (one direction); "
    "step time: the longer of the two where they overlap wholly, their sum where not at all"
)


def forward_flops(config: TimesformerConfig, frames: int, size: int) -> float:
    """Floating-point operations of one clip's forward pass; a multiply-add counts as two."""
    width, mlp = config.hidden_size, config.intermediate_size
    patch = config.patch_shape
    patches = (size // patch[0]) * (size // patch[1])
    tokens = patches * frames
    embedding = 2 * tokens * patch[0] * patch[1] * config.num_channels * width
    per_token = 2 * (4 * width**2 + 2 * width * mlp)  # qkv and output; MLP
    match config.attention_type:
        case "divided_space_time":
            linear = tokens * (per_token + 2 * 5 * width**2)  # temporal qkv, output and dense
            attention = 4 * width * (patches * frames**2 + frames * (patches + 1) ** 2)
        case "joint_space_time":
            linear = (tokens + 1) * per_token
            attention = 4 * width * (tokens + 1) ** 2
        case _:
            linear = frames * (patches + 1) * per_token
            attention = 4 * width * frames * (patches + 1) ** 2
    return embedding + config.num_hidden_layers * (linear + attention)


def step_flops(forward: float, *, recomputed: bool) -> float:
    """Of a training step: backward is twice forward, and one forward more where layers are computed again."""
    return forward * (4 if recomputed else 3)
