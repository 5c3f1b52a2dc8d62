"""The modules from outside: outputs, errors, JAX's transformations, types of numbers, logical axes."""

import functools
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from pytorch import torch
from reference import (
    ATTENTION_TYPES,
    BATCH,
    QUICK_COMPILE,
    TINY,
    assert_close,
    clip,
    relative_difference,
    run_flax,
    run_reference,
    tiny_reference,
    to_flax,
)

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_jax.checkpoints.mapping import Entry, mapping_table, set_leaf

FRAMES, PATCHES, WIDTH, HEADS, LAYERS, CLASSES = 5, 9, 24, 3, 2, 7  # of the tiny model

# Logits in float32, as a share of the largest: a few times its rounding of 6e-8, through all layers.
FLOAT32_BOUND = 2e-5

# Logits in bfloat16, as a share of the clip's largest. Each of a layer's roundings is off by 2^-9 of a number at most
# (8 bits), but how much of that reaches the logits depends on the weights, so the bound is measured: of 13,800 clips
# through 6,900 models with random weights, three schemes, 2 to 12 layers (`compare_bfloat16`), half are within 0.008,
# 99 of 100 within 0.03, and the worst is 0.065; the published size is at 0.009. The bound leaves half as much again.
BFLOAT16_BOUND = 0.1


@pytest.fixture(scope="module", params=ATTENTION_TYPES)
def tiny(request) -> tuple[Any, Any, jax.Array]:
    reference = tiny_reference(attention_type=request.param)
    model, params = to_flax(reference, dtype="float32")
    return model, params, jnp.asarray(clip(reference.config), jnp.float32)


@pytest.fixture(scope="module")
def divided() -> tuple[Any, Any, jax.Array]:
    reference = tiny_reference()
    model, params = to_flax(reference, dtype="float32")
    return model, params, jnp.asarray(clip(reference.config), jnp.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK_COMPILE)
def logits_of(model: Any, params: Any, pixel_values: Any) -> jax.Array:
    return model.apply({"params": params}, pixel_values).logits


class TestOutputs:
    def test_shapes(self, tiny):
        model, params, pixel_values = tiny
        outputs = jax.eval_shape(
            lambda: model.apply({"params": params}, pixel_values, output_hidden_states=True, output_attentions=True)
        )
        kind = model.config.attention_type
        tokens = 1 + PATCHES * FRAMES
        hidden = (BATCH, FRAMES, 1 + PATCHES, WIDTH) if kind == "space_only" else (BATCH, tokens, WIDTH)
        spatial = (
            (BATCH, HEADS, tokens, tokens)
            if kind == "joint_space_time"
            else (BATCH, FRAMES, HEADS, 1 + PATCHES, 1 + PATCHES)
        )
        assert outputs.logits.shape == (BATCH, CLASSES)
        assert isinstance(outputs.hidden_states, tuple)
        assert isinstance(outputs.attentions, tuple)
        assert [state.shape for state in outputs.hidden_states] == [hidden] * (1 + LAYERS)
        assert [probabilities.shape for probabilities in outputs.attentions] == [spatial] * LAYERS
        if kind == "divided_space_time":
            temporal = [probabilities.shape for probabilities in outputs.temporal_attentions]
            assert temporal == [(BATCH, PATCHES, HEADS, FRAMES, FRAMES)] * LAYERS
        else:
            assert outputs.temporal_attentions is None

    def test_bare_model(self, tiny):
        """The same encoder; its last hidden state is what the classifier looks at."""
        model, params, pixel_values = tiny
        bare = TimesformerModel(model.config)
        outputs = run_flax(bare, params["timesformer"], pixel_values)
        tokens = 1 + PATCHES * (1 if model.config.attention_type == "space_only" else FRAMES)
        assert outputs.last_hidden_state.shape == (BATCH, tokens, WIDTH)
        kernel, bias = (params["classifier"][kind] for kind in ("kernel", "bias"))
        logits = outputs.last_hidden_state[:, 0] @ kernel + bias
        assert_close(logits, logits_of(model, params, pixel_values), 1e-6, "logits")  # float32

    def test_what_was_not_asked_for_is_none(self, tiny):
        model, params, pixel_values = tiny
        outputs = jax.eval_shape(lambda: model.apply({"params": params}, pixel_values))
        assert len(jax.tree.leaves(outputs)) == 1
        assert (outputs.loss, outputs.hidden_states, outputs.attentions, outputs.temporal_attentions) == (None,) * 4
        outputs = jax.eval_shape(lambda: model.apply({"params": params}, pixel_values, output_hidden_states=True))
        assert outputs.hidden_states is not None
        assert (outputs.attentions, outputs.temporal_attentions) == (None, None)
        outputs = jax.eval_shape(lambda: model.apply({"params": params}, pixel_values, output_attentions=True))
        assert outputs.attentions is not None
        assert outputs.hidden_states is None

    def test_what_was_not_asked_for_costs_nothing(self, divided):
        model, params, pixel_values = divided

        def written(**flags: bool) -> float:
            apply = jax.jit(
                lambda: model.apply({"params": params}, pixel_values, **flags), compiler_options=QUICK_COMPILE
            )
            return apply.lower().compile().memory_analysis().output_size_in_bytes

        assert written() == BATCH * CLASSES * 4
        assert written(output_attentions=True) > 10 * written()

    def test_token_order_is_patch_major_and_frame_minor(self, tiny):
        """A pixel of patch p in frame t changes token 1 + p * frames + t of the embedding and no other."""
        model, params, pixel_values = tiny
        embedding = jax.jit(lambda x: model.apply({"params": params}, x, output_hidden_states=True).hidden_states[0])
        before = np.asarray(embedding(pixel_values))
        for patch, frame in ((0, 0), (1, 0), (0, 1), (5, 3), (8, 4)):
            row, column = divmod(patch, 3)
            changed = pixel_values.at[1, frame, 4 * row + 1, 4 * column + 2, 0].add(1)
            difference = np.asarray(embedding(changed)) != before
            token = (frame, 1 + patch) if model.config.attention_type == "space_only" else (1 + patch * FRAMES + frame,)
            assert set(zip(*np.nonzero(difference.any(-1)), strict=True)) == {(1, *token)}

    def test_attentions_are_probabilities(self, tiny):
        model, params, pixel_values = tiny
        outputs = run_flax(model, params, pixel_values)
        for probabilities in (*outputs.attentions, *(outputs.temporal_attentions or ())):
            np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)  # float32
            assert probabilities.min() >= 0

    def test_loss_needs_labels(self, tiny):
        model, params, pixel_values = tiny
        outputs = jax.jit(model.apply, compiler_options=QUICK_COMPILE)(
            {"params": params}, pixel_values, jnp.asarray([3, 6])
        )
        expected = -jax.nn.log_softmax(outputs.logits)[jnp.arange(2), jnp.asarray([3, 6])].mean()
        np.testing.assert_allclose(outputs.loss, expected, rtol=1e-6)  # float32

    def test_clips_do_not_see_each_other(self, tiny):
        model, params, pixel_values = tiny
        together = logits_of(model, params, pixel_values)
        alone = jnp.concatenate([logits_of(model, params, one[None]) for one in pixel_values])
        assert_close(together, alone, 1e-6, "logits of clips in a batch and alone")  # float32, other order of sums


class TestErrors:
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((2, 5, 3, 12, 12), r"transpose\(0, 1, 3, 4, 2\)"),
            ((2, 5, 13, 12, 3), "height 13"),
            ((2, 0, 12, 12, 3), "no frames"),
        ],
    )
    def test_pixel_values_are_checked(self, divided, shape, message):
        """All cases are in test_embeddings.py; ranks and types don't get past the import hook of the tests here."""
        model, params, _ = divided
        with pytest.raises(ValueError, match=message):
            model.apply({"params": params}, jnp.zeros(shape))

    def test_config_of_the_wrong_size_for_the_parameters(self, divided):
        model, params, pixel_values = divided
        other = TimesformerForVideoClassification(model.config.replace(num_labels=8))
        with pytest.raises(Exception, match=r"classifier|shape"):
            jax.eval_shape(other.apply, {"params": params}, pixel_values)

    @pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
    def test_float64_needs_x64(self, tmp_path, argument):
        tiny_reference().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="jax_enable_x64"):
            TimesformerForVideoClassification.from_pretrained(tmp_path, **{argument: "float64"})

    def test_a_float64_checkpoint_needs_x64(self, tmp_path):
        """None keeps what the file has, and that is not to become float32 in silence."""
        tiny_reference().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="jax_enable_x64"):
            TimesformerForVideoClassification.from_pretrained(tmp_path)


class TestTransformations:
    def test_jit_as_in_the_readme(self, tiny):
        model, params, pixel_values = tiny
        apply = jax.jit(model.apply, static_argnames=("train", "output_attentions", "output_hidden_states"))
        outputs = apply({"params": params}, pixel_values, output_attentions=True, output_hidden_states=True)
        expected = run_flax(model, params, pixel_values)
        for ours, theirs in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
            assert_close(ours, theirs, 1e-5, "outputs of differently compiled models")  # float32, fused sums

    def test_without_jit(self, divided):
        model, params, pixel_values = divided
        outputs = model.apply({"params": params}, pixel_values, jnp.asarray([3, 6]), train=True)
        assert_close(outputs.logits, logits_of(model, params, pixel_values), 1e-5, "logits")  # float32, fused sums
        assert np.isfinite(outputs.loss)

    def test_config_and_model_are_static_arguments(self, divided):
        model, params, pixel_values = divided
        traced = []

        def run(model: Any, params: Any, pixel_values: Any) -> Any:
            traced.append(model)
            return model.apply({"params": params}, pixel_values).logits

        run = jax.jit(run, static_argnums=0, compiler_options=QUICK_COMPILE)
        twin = TimesformerForVideoClassification(TimesformerConfig(**TINY), dtype=model.dtype, param_dtype=jnp.float32)
        model = model.clone(config=twin.config)
        assert hash(model.config) == hash(twin.config)
        run(model, params, pixel_values)
        run(twin, params, pixel_values)
        assert len(traced) == 1, "an equal model was compiled again"
        run(TimesformerForVideoClassification(model.config.replace(layer_norm_eps=0.1)), params, pixel_values)
        assert len(traced) == 2

    def test_hash_survives_a_config_with_nested_settings(self):
        config = TimesformerConfig.from_dict({"task": {"list": [1, {"deep": 2}]}, "id2label": {"0": "a", "1": "b"}})
        assert hash(config) == hash(TimesformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))))

    def test_grad_with_respect_to_pixels_and_parameters(self, divided):
        """Their values are checked in test_training_parity.py."""
        model, params, pixel_values = divided

        def loss(params: Any, pixel_values: Any) -> Any:
            return model.apply({"params": params}, pixel_values, jnp.asarray([3, 6])).loss

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=QUICK_COMPILE)(params, pixel_values)
        assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, (params, pixel_values))
        for leaf in jax.tree.leaves(gradients):
            assert np.isfinite(leaf).all()
            assert np.abs(leaf).max() > 0

    def test_vmap_over_parameters(self, divided):
        """An ensemble: the same clips through two sets of parameters at once."""
        model, params, pixel_values = divided
        other = jax.tree.map(lambda leaf: 1.1 * leaf, params)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)
        logits = jax.vmap(lambda params: logits_of(model, params, pixel_values))(both)
        for one, some in zip(logits, (params, other), strict=True):
            assert_close(one, logits_of(model, some, pixel_values), 1e-5, "logits")  # float32

    def test_vmap_over_clips(self, divided):
        model, params, pixel_values = divided
        logits = jax.vmap(lambda one: logits_of(model, params, one[None])[0])(pixel_values)
        assert_close(logits, logits_of(model, params, pixel_values), 1e-5, "logits")  # float32

    def test_eval_shape_of_the_largest_published_model(self):
        """96 frames, without computing anything."""
        model = TimesformerForVideoClassification(TimesformerConfig.preset("large-k400"), dtype=jnp.bfloat16)
        pixel_values = jax.ShapeDtypeStruct((1, 96, 224, 224, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), pixel_values)
        outputs = jax.eval_shape(lambda v, x: model.apply(v, x, output_hidden_states=True), variables, pixel_values)
        assert outputs.logits.shape == (1, 400)
        assert outputs.hidden_states[-1].shape == (1, 1 + 196 * 96, 768)


class TestNumbers:
    @pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
    def test_float32_equals_pytorch(self, attention_type):
        reference = tiny_reference(attention_type=attention_type, dtype=torch.float32)
        model, params = to_flax(reference)
        pixel_values = clip(reference.config).astype(np.float32)
        with torch.no_grad():
            expected = run_reference(reference, pixel_values).logits
        logits = logits_of(model, params, pixel_values)
        assert (logits.dtype, {leaf.dtype for leaf in jax.tree.leaves(params)}) == (jnp.float32, {jnp.dtype("float32")})
        assert_close(logits, expected, FLOAT32_BOUND, "logits")

    @pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
    def test_bfloat16_stays_within_its_bound(self, attention_type):
        config = TimesformerConfig(**TINY | {"attention_type": attention_type})
        differences, margins, same = compare_bfloat16(config, models=300)
        assert differences.max() <= BFLOAT16_BOUND
        clear = margins > 2 * BFLOAT16_BOUND
        assert clear.mean() > 0.2, "hardly any clip tests the rule"
        assert same[clear].all(), f"{np.sum(~same & clear)} clips above the margin changed their class"

    def test_bfloat16_types(self, divided):
        model, params, pixel_values = divided
        model, labels = model.clone(dtype=jnp.bfloat16), jnp.asarray([3, 6])
        flags = {"output_hidden_states": True, "output_attentions": True}
        outputs = jax.eval_shape(lambda: model.apply({"params": params}, pixel_values, labels, **flags))
        assert (outputs.logits.dtype, outputs.loss.dtype) == (jnp.float32, jnp.float32)
        insides = (outputs.hidden_states, outputs.attentions, outputs.temporal_attentions)
        assert {leaf.dtype for leaf in jax.tree.leaves(insides)} == {jnp.dtype("bfloat16")}

    def test_computation_and_storage_are_chosen_separately(self, tmp_path):
        reference = tiny_reference(dtype=torch.float32)
        reference.save_pretrained(tmp_path)
        pixel_values = jnp.asarray(clip(reference.config), jnp.float32)
        load = TimesformerForVideoClassification.from_pretrained
        for dtype, param_dtype in (("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
            model, params = load(tmp_path, dtype=dtype, param_dtype=param_dtype)
            assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {param_dtype}
            outputs = jax.eval_shape(lambda: model.apply({"params": params}, pixel_values, output_hidden_states=True))  # noqa: B023
            assert {str(state.dtype) for state in outputs.hidden_states} == {dtype}
            assert outputs.logits.dtype == jnp.float32

    def test_float64_pixels_do_not_change_the_computation(self, divided):
        model, params, pixel_values = divided
        expected = logits_of(model, params, pixel_values)
        with jax.enable_x64(True):
            logits = logits_of(model, params, np.asarray(pixel_values, np.float64))
        assert logits.dtype == jnp.float32
        assert_close(logits, expected, 1e-6, "logits")  # float32

    def test_precision_reaches_every_product(self, divided):
        model, params, pixel_values = divided
        model = model.clone(precision="highest")
        apply = jax.jit(lambda: model.apply({"params": params}, pixel_values, output_attentions=True))
        lowered = apply.lower().as_text()
        assert lowered.count("dot_general") == lowered.count("precision = [HIGHEST, HIGHEST]") > 10

    @pytest.mark.slow
    @pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
    def test_base_size(self, attention_type):
        """The published size, float32 against PyTorch and bfloat16 against float32."""
        sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
        inputs = {"image_size": 224, "patch_size": 16, "num_frames": 8, "num_labels": 400}
        reference = tiny_reference(attention_type=attention_type, dtype=torch.float32, **sizes, **inputs)
        pixel_values = clip(reference.config, batch=1).astype(np.float32)
        with torch.no_grad():
            expected = run_reference(reference, pixel_values).logits.numpy()
        model, params = to_flax(reference)
        del reference
        logits = jax.jit(model.apply)({"params": params}, pixel_values).logits
        assert_close(logits, expected, FLOAT32_BOUND, "logits")
        half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)({"params": params}, pixel_values).logits
        assert_close(half, logits, BFLOAT16_BOUND, "bfloat16 logits")


def compare_bfloat16(config: TimesformerConfig, models: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Many random models, each on clips of its own, in float32 and in bfloat16; what `BFLOAT16_BOUND` comes from.

    Returns:
        For each clip, as shares of its largest logit: the largest difference, the margin between the best two
        classes; and whether bfloat16 finds the same class.
    """
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {}
    for entry in mapping_table(config):
        set_leaf(params, entry.path, random_parameter(rng, entry, models))
    pixel_values = rng.normal(size=(models, BATCH, FRAMES, 12, 12, 3)).astype(np.float32)

    def logits(dtype: Any) -> np.ndarray:
        model = TimesformerForVideoClassification(config, dtype=dtype)
        run = jax.vmap(functools.partial(logits_of, model))
        return np.asarray(run(params, pixel_values)).reshape(models * BATCH, -1)

    single, half = logits(jnp.float32), logits(jnp.bfloat16)
    largest = np.abs(single).max(1)
    best_two = np.sort(single, axis=1)[:, -2:]
    margin = (best_two[:, 1] - best_two[:, 0]) / largest
    return np.abs(half - single).max(1) / largest, margin, single.argmax(1) == half.argmax(1)


def random_parameter(rng: np.random.Generator, entry: Entry, models: int) -> np.ndarray:
    """As `reference.disturb` draws them."""
    noise = rng.normal(size=(models, *entry.shape)).astype(np.float32)
    if entry.path[-1] == "scale":
        return 1 + 0.3 * noise
    if entry.path[-1] == "bias":
        return 0.5 * noise
    if entry.path[-1] == "kernel" and entry.path[0] != "classifier":
        return noise * 1.5 / np.prod(entry.torch_shape[1:]) ** 0.5
    return noise


class TestLogicalAxes:
    RULES = (("batch", "data"), ("parallel", None), ("attended", None), ("hidden", None))

    def test_constraints_are_applied_at_block_boundaries(self, tiny):
        model, params, pixel_values = tiny
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

        def constraints() -> int:
            lowered = jax.jit(lambda: model.apply({"params": params}, pixel_values)).lower()
            return lowered.as_text().count("sdy.sharding_constraint")

        assert constraints() == 0, "without rules there is nothing to apply"
        with jax.set_mesh(mesh), nn.logical_axis_rules(self.RULES):
            found = constraints()
        # In the one layer that is scanned: CLS; the patches before and after the temporal attention, before the spatial
        # one, and after the MLP.
        assert found == (5 if model.config.attention_type == "divided_space_time" else 3)

    def test_the_result_is_the_same(self, tiny):
        model, params, pixel_values = tiny
        expected = logits_of(model, params, pixel_values)
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        with jax.set_mesh(mesh), nn.logical_axis_rules(self.RULES):
            logits = jax.jit(model.apply)({"params": params}, pixel_values).logits
        assert relative_difference(logits, expected) <= 1e-5  # float32, fused sums
