"""Attention of CLS and of a patch: what the model itself returns when all attentions are asked for."""

import numpy as np
import numpy_timesformer
import pytest
from reference import ATTENTION_TYPES, run_flax, torch_names
from tiny_flax import BATCH, COLUMNS, HEADS, LAYERS, ROWS, clips, tiny_flax

from timesformer_jax.interpret.attention_maps import attention_maps, patches_beside_cls

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_maps_are_the_models_own_probabilities(attention_type: str) -> None:
    model, params = tiny_flax(attention_type)
    frames = 5
    patch = (1, 2) if attention_type == "divided_space_time" else None
    maps = attention_maps(model, params, clips(frames), patch=patch)
    outputs = run_flax(model, params, clips(frames))
    assert maps.space.shape == (LAYERS, BATCH, HEADS, frames, ROWS, COLUMNS)
    for layer, attention in enumerate(outputs.attentions):
        for t in range(frames):
            for p in range(ROWS * COLUMNS):
                if attention_type == "joint_space_time":
                    expected = attention[:, :, 0, 1 + p * frames + t]
                else:
                    expected = attention[:, t, :, 0, 1 + p]
                actual = maps.space[layer, :, :, t, p // COLUMNS, p % COLUMNS]
                np.testing.assert_allclose(actual, expected, rtol=1e-11)
    if patch is None:
        assert maps.time is None
        return
    assert maps.time is not None
    expected = np.stack(outputs.temporal_attentions)[:, :, 1 * COLUMNS + 2]
    np.testing.assert_allclose(maps.time, expected, rtol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ["axial", "sparse_local_global"])
def test_maps_of_other_schemes(attention_type: str) -> None:
    """Against whole matrices in numpy, on whose rows of CLS its copies are averaged already."""
    model, params = tiny_flax(attention_type)
    frames = 3
    patch = (1, 2) if attention_type == "axial" else None
    maps = attention_maps(model, params, clips(frames), patch=patch)
    expected = numpy_timesformer.run(torch_names(params, model.config), model.config, clips(frames)).whole
    groups = {"axial": frames * COLUMNS, "sparse_local_global": 8}[attention_type]
    for layer, matrices in enumerate(expected["attention"]):
        of_cls = groups * matrices[:, :, 0, 1:].reshape(BATCH, HEADS, ROWS, COLUMNS, frames)
        np.testing.assert_allclose(maps.space[layer], of_cls.transpose(0, 1, 4, 2, 3), rtol=1e-11)
    patches = patches_beside_cls(model.config, 4, (ROWS, COLUMNS))
    assert patches == {"axial": ROWS, "sparse_local_global": 4 * ROWS * COLUMNS // 8}[attention_type]
    if patch is not None:
        assert maps.time is not None
        first = 1 + (patch[0] * COLUMNS + patch[1]) * frames
        for layer, matrices in enumerate(expected["temporal_attention"]):
            own = matrices[:, :, first : first + frames, first : first + frames]
            np.testing.assert_allclose(maps.time[layer], own, rtol=1e-11)


def test_patches_that_are_not_there() -> None:
    model, params = tiny_flax("divided_space_time", dtype=np.float32)
    with pytest.raises(ValueError, match="rows count from 0 to 1, columns to 3"):
        attention_maps(model, params, clips(), patch=(2, 0))
    model, params = tiny_flax("space_only", dtype=np.float32)
    with pytest.raises(ValueError, match="no step over time"):
        attention_maps(model, params, clips(), patch=(0, 0))
