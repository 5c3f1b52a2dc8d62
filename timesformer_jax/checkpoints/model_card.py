"""The README.md of a checkpoint, which the Hub shows: what the model is and how to load it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import TimesformerConfig
from ..parameters import BACKBONE
from .mapping import flat_names


def model_card(config: TimesformerConfig, params: Mapping[str, Any]) -> str:
    """A model card in Markdown, with the header that the Hub reads.

    Args:
        config: the config of the model.
        params: the parameters, whose number and type the card states.
    """
    head = BACKBONE in params
    leaves = flat_names(params).values()
    height, width = config.image_shape
    model = "TimesformerForVideoClassification" if head else "TimesformerModel"
    facts = {
        "attention": config.attention_type,
        "input": f"{config.num_frames} frames of {height} x {width} pixels",
        "patches": "{} x {} pixels".format(*config.patch_shape),
        "layers, width, heads": f"{config.num_hidden_layers}, {config.hidden_size}, {config.num_attention_heads}",
        "parameters": f"{sum(math.prod(np.shape(leaf)) for leaf in leaves):,} ({next(iter(leaves)).dtype})",
    }
    if head:
        facts["classes"] = str(config.num_labels)
    if config.sampling_rate is not None:
        facts["sampling"] = (
            "one frame from each of as many equal parts of the video"
            if config.sampling_rate == "segments"
            else f"one frame in {config.sampling_rate:g}, at 30 frames per second"
        )
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    task = "pipeline_tag: video-classification\n" if head else ""
    return f"""---
library_name: transformers
{task}tags:
- timesformer
- video
---

# TimeSformer

A [TimeSformer](https://arxiv.org/abs/2102.05095) written by timesformer_jax in the format of Transformers.

| | |
| --- | --- |
{rows}

```python
from transformers import {model}

model = {model}.from_pretrained("path/to/this/directory")
```

```python
from timesformer_jax import {model}

model, params = {model}.from_pretrained("path/to/this/directory")
```
"""
