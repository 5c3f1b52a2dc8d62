"""Checkpoints in Transformers' format: read, written, and the same tensors again."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from pytorch import load_file, save_file, torch, transformers
from reference import ATTENTION_TYPES, TINY, tiny_reference
from safetensors import safe_open

import timesformer_jax
from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_jax.checkpoints import tensors
from timesformer_jax.checkpoints.mapping import flat_names, mapping_table
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.errors import CheckpointError

FORMATS: dict[str, dict[str, Any]] = {
    "safetensors": {},
    "sharded safetensors": {"max_shard_size": "20KB"},
    "bin": {"safe_serialization": False},
    "sharded bin": {"safe_serialization": False, "max_shard_size": "20KB"},
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def saved(directory: Path, model: transformers.PreTrainedModel, **options: Any) -> Path:
    model.save_pretrained(directory, **options)
    return directory


def read_state(directory: Path) -> dict[str, torch.Tensor]:
    """What safetensors itself finds in a directory."""
    state: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        state |= load_file(file)
    return state


def assert_same_bits(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        assert (
            actual[name].numpy(force=True).tobytes() == tensor.numpy(force=True).tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(actual[name].view(torch.int16), tensor.view(torch.int16))
        ), name


def kind_of(reference: transformers.PreTrainedModel) -> Any:
    return getattr(timesformer_jax, type(reference).__name__)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("head", [True, False], ids=["classifier", "bare"])
def test_round_trip_bit_for_bit(tmp_path: Path, head: bool, attention_type: str, dtype: torch.dtype) -> None:
    reference = tiny_reference(head=head, dtype=dtype, attention_type=attention_type)
    assert_round_trip(tmp_path, reference)


@pytest.mark.parametrize(
    "settings",
    [
        {"qkv_bias": False},
        {"image_size": (12, 20)},
        {"image_size": (12, 20), "patch_size": (4, 5)},
        {"num_channels": 1},
        {"num_hidden_layers": 11},
        {"num_labels": 1},
        {"num_labels": 0},
        {"hidden_act": "relu", "layer_norm_eps": 1e-12},
    ],
    ids=str,
)
def test_round_trip_of_other_architectures(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert_round_trip(tmp_path, tiny_reference(dtype=torch.float32, **settings))


def assert_round_trip(tmp_path: Path, reference: transformers.PreTrainedModel) -> None:
    """HF -> Flax -> HF: the same bits, and Transformers loads them as it would its own."""
    source = saved(tmp_path / "source", reference)
    model, params = kind_of(reference).from_pretrained(source)
    model.save_pretrained(tmp_path / "again", params)
    assert_same_bits(read_state(tmp_path / "again"), read_state(source))
    loaded, info = type(reference).from_pretrained(tmp_path / "again", output_loading_info=True, dtype=reference.dtype)
    assert not any(info.values()), info
    assert_same_bits(loaded.state_dict(), reference.state_dict())
    architectures = json.loads((tmp_path / "again" / "config.json").read_text())["architectures"]
    assert architectures == [type(reference).__name__]


def test_transformers_loads_it_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Warnings are errors in these tests; Transformers also logs."""
    source = saved(tmp_path / "source", tiny_reference(dtype=torch.float32))
    model, params = TimesformerForVideoClassification.from_pretrained(source)
    model.save_pretrained(tmp_path / "again", params)
    capfd.readouterr()
    transformers.utils.logging.enable_propagation()
    try:
        transformers.TimesformerForVideoClassification.from_pretrained(tmp_path / "again")
    finally:
        transformers.utils.logging.disable_propagation()
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


def test_each_tensor_is_where_it_belongs(tmp_path: Path) -> None:
    """Against PyTorch's meaning of the tensors, not against the table's: no two of them exchanged, none transposed."""
    reference = tiny_reference(dtype=torch.float32)
    _, params = TimesformerForVideoClassification.from_pretrained(saved(tmp_path, reference))
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    backbone, layer = params["timesformer"], params["timesformer"]["encoder"]["layers"]
    prefix = "timesformer.encoder.layer.1"
    inputs = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    for part in ("attention", "temporal_attention"):
        weight, bias = (state[f"{prefix}.{part}.attention.qkv.{kind}"] for kind in ("weight", "bias"))
        expected = (inputs @ weight.T + bias).reshape(4, 3, 3, 8)  # q/k/v, heads, width of a head
        kernel = layer[part]["qkv"]["kernel"][1]
        actual = jnp.einsum("nd,dqhk->nqhk", inputs, kernel) + layer[part]["qkv"]["bias"][1]
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)  # float32 sums of 24 products
    pixels = np.random.default_rng(1).normal(size=(1, 3, 12, 12)).astype(np.float32)
    convolved = torch.nn.functional.conv2d(
        torch.from_numpy(pixels),
        reference.base_model.embeddings.patch_embeddings.projection.weight,
        stride=4,
    ).numpy(force=True)
    patch = pixels[0, :, 4:8, 8:12].transpose(1, 2, 0)  # row 1, column 2
    actual = np.einsum("hwc,hwcd->d", patch, backbone["embeddings"]["patch_embeddings"]["kernel"])
    np.testing.assert_allclose(actual, convolved[0, :, 1, 2], rtol=2e-5, atol=2e-5)  # float32 sums of 48 products
    np.testing.assert_array_equal(layer["layernorm_after"]["scale"][1], state[f"{prefix}.layernorm_after.weight"])
    np.testing.assert_array_equal(
        backbone["embeddings"]["time_embeddings"], state["timesformer.embeddings.time_embeddings"][0]
    )


def test_the_table_names_every_tensor_of_the_reference_once() -> None:
    for attention_type in ATTENTION_TYPES:
        for head in (True, False):
            reference = tiny_reference(head=head, attention_type=attention_type, dtype=torch.float32)
            config = TimesformerConfig(**TINY | {"attention_type": attention_type})
            table = mapping_table(config, head=head)
            names = [name for entry in table for name in entry.names]
            assert sorted(names) == sorted(reference.state_dict())
            assert len({entry.path for entry in table}) == len(table)
            for entry in table:
                for name in entry.names:
                    assert tuple(reference.state_dict()[name].shape) == entry.torch_shape
                numbers = np.arange(np.prod(entry.torch_shape)).reshape(entry.torch_shape)
                np.testing.assert_array_equal(entry.to_torch(entry.to_flax(numbers)), numbers)


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_format_holds_the_same(tmp_path: Path, options: dict[str, Any], dtype: torch.dtype) -> None:
    reference = tiny_reference(dtype=dtype)
    plain = load_checkpoint(saved(tmp_path / "plain", reference))
    source = saved(tmp_path / "other", reference, **options)
    assert len(list(source.iterdir())) > 3 or "max_shard_size" not in options
    checkpoint = load_checkpoint(source)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.params, plain.params)
    assert jax.tree.leaves(checkpoint.params)[0].dtype == (
        ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float32
    )


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_pickle_is_mapped_anew_without_losing_its_place(
    tmp_path: Path, wrapper: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = tiny_reference(dtype=torch.float32)
    plain = load_checkpoint(saved(tmp_path / "plain", reference))
    source = saved(tmp_path / "bin", reference, safe_serialization=False)
    if wrapper:
        torch.save({wrapper: reference.state_dict(), "epoch": 3}, source / "pytorch_model.bin")
    monkeypatch.setattr(tensors._MappedState, "most_mapped", 100)
    loads: list[Path] = []
    load_pickle = tensors.load_pickle
    monkeypatch.setattr(tensors, "load_pickle", lambda path: loads.append(path) or load_pickle(path))
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(source).params, plain.params)
    assert len(loads) > 10


def test_a_pickle_in_the_format_before_torch_1_6(tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    plain = load_checkpoint(saved(tmp_path / "plain", reference))
    source = saved(tmp_path / "bin", reference, safe_serialization=False)
    torch.save(reference.state_dict(), source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(source).params, plain.params)


def test_a_weights_file_by_any_name(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny_reference(dtype=torch.float32))
    plain = load_checkpoint(source)
    (source / "model.safetensors").rename(source / "best.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(source / "best.safetensors").params, plain.params)


def test_param_dtype(tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    source = saved(tmp_path, reference)
    for dtype in (jnp.bfloat16, jnp.float16):
        model, params = TimesformerForVideoClassification.from_pretrained(source, param_dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        assert model.param_dtype == dtype
        expected = reference.state_dict()["classifier.weight"].numpy().T.astype(dtype)
        np.testing.assert_array_equal(params["classifier"]["kernel"], expected)


def test_the_file_s_own_dtype_is_kept(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny_reference(dtype=torch.bfloat16))
    model, params = TimesformerForVideoClassification.from_pretrained(source)
    assert (model.dtype, model.param_dtype) == (jnp.float32, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_float64_without_x64_is_an_error(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny_reference(dtype=torch.float64))
    for options in ({}, {"dtype": "float64"}, {"param_dtype": "float64"}):
        with pytest.raises(ValueError, match=r"float64 needs jax\.config\.update"):
            TimesformerForVideoClassification.from_pretrained(source, **options)
    TimesformerForVideoClassification.from_pretrained(source, param_dtype="float32")


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (torch.float16, torch.bfloat16, np.float32),
        (torch.bfloat16, torch.float32, np.float32),
        (torch.float32, torch.float64, np.float64),
        (torch.float64, torch.float16, np.float64),
    ],
    ids=str,
)
def test_layers_of_mixed_types_keep_their_values(
    tmp_path: Path, first: torch.dtype, second: torch.dtype, both: type
) -> None:
    source = saved(tmp_path, tiny_reference(dtype=torch.float64))
    state = read_state(source)
    state = {name: tensor.to(second if "layer.1" in name else first) for name, tensor in state.items()}
    save_file(state, source / "model.safetensors")
    kernel = load_checkpoint(source).params["timesformer"]["encoder"]["layers"]["mlp"]["output"]["kernel"]
    assert kernel.dtype == both
    for layer in range(2):
        expected = state[f"timesformer.encoder.layer.{layer}.output.dense.weight"].T.to(torch.float64)
        np.testing.assert_array_equal(kernel[layer].astype(np.float64), expected)


def test_parameters_can_be_donated(tmp_path: Path) -> None:
    """On a CPU they may lie in memory that numpy allocated; a training step takes them over all the same."""
    source = saved(tmp_path, tiny_reference(dtype=torch.float32))
    _, params = TimesformerForVideoClassification.from_pretrained(source)
    before = jax.tree.map(np.array, params)
    for _ in range(3):
        params = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)(params)
    jax.tree.map(lambda leaf, old: np.testing.assert_array_equal(leaf, ((old + 1) + 1) + 1), params, before)


def test_everything_wrong_is_listed_in_one_error(tmp_path: Path) -> None:
    """Unknown, missing, doubled, wrongly shaped and wrongly typed tensors, all at once."""
    source = saved(tmp_path, tiny_reference(dtype=torch.float32), max_shard_size="20KB")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    first, last = (load_file(source / name) for name in (shards[0], shards[-1]))
    doubled = next(iter(first))
    last[doubled] = first[doubled]
    last["timesformer.stranger"] = torch.zeros(2, 3)
    missing = sorted(last)[0]
    del last[missing]
    wrong_shape = "timesformer.layernorm.weight"
    holder = next(name for name in shards if name == index["weight_map"][wrong_shape])
    save_file(last, source / shards[-1])
    state = load_file(source / holder)
    state[wrong_shape] = torch.zeros(25)
    wrong_type = next(name for name in state if name not in (wrong_shape, missing, doubled) and "stranger" not in name)
    state[wrong_type] = state[wrong_type].to(torch.int32)
    save_file(state, source / holder)
    index["weight_map"]["promised.weight"] = shards[0]
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source)
    message = str(caught.value)
    assert f"doubled: {doubled} is in {shards[0]} and in {shards[-1]}" in message
    assert "unknown: timesformer.stranger (2, 3)" in message
    assert f"missing: {missing}" in message
    assert f"wrong shape: {wrong_shape} is (25,), the config asks for (24,)" in message
    assert f"wrong type: {wrong_type} is i32" in message
    assert "missing: promised.weight, which the index promises, is in no shard" in message
    assert message.count("\n") == 6


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 3}, "missing: timesformer.encoder.layer.2."),
        ({"num_hidden_layers": 1}, "unknown: timesformer.encoder.layer.1."),
        ({"num_hidden_layers": 1000}, "missing: timesformer.encoder.layer.999."),
        ({"hidden_size": 48}, r"wrong shape: timesformer.layernorm.bias is \(24,\), the config asks for \(48,\)"),
        ({"intermediate_size": 41}, "wrong shape: timesformer.encoder.layer.0.intermediate.dense.weight"),
        ({"num_frames": 8}, "wrong shape: timesformer.embeddings.time_embeddings is"),
        ({"image_size": 16}, "wrong shape: timesformer.embeddings.position_embeddings is"),
        ({"num_channels": 1}, "wrong shape: timesformer.embeddings.patch_embeddings.projection.weight is"),
        ({"id2label": {"0": "a"}}, "wrong shape: classifier.bias is"),
        ({"id2label": {}}, "unknown: classifier.bias"),
        ({"attention_type": "joint_space_time"}, "unknown: timesformer.encoder.layer.0.temporal_dense.bias"),
        ({"qkv_bias": False}, "unknown: timesformer.encoder.layer.0.attention.attention.qkv.bias"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_weights(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    source = saved(tmp_path, tiny_reference(dtype=torch.float32))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"label2id": None} | changes))
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(source)


def test_nan_and_infinite_weights_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = tiny_reference(dtype=torch.float32)
    state = reference.state_dict()
    state["classifier.weight"][0, :3] = torch.nan
    state["timesformer.encoder.layer.1.output.dense.weight"][2, 3] = -torch.inf
    source = saved(tmp_path, reference)
    load_checkpoint(source)
    assert caplog.record_tuples == [
        (
            "timesformer_jax",
            logging.WARNING,
            f"{source}: 4 weights are NaN or infinite: timesformer/encoder/layers/mlp/output/kernel (1), "
            "classifier/kernel (3)",
        )
    ]


def test_values_that_a_narrower_type_cannot_hold_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.state_dict()["classifier.bias"][:2] = 1e30
    source = saved(tmp_path, reference)
    load_checkpoint(source)
    assert caplog.messages == []
    load_checkpoint(source, dtype=np.dtype(np.float16))
    assert caplog.messages == [f"{source}: 2 weights are NaN or infinite: classifier/bias (2)"]


def test_max_shard_size(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", tiny_reference(dtype=torch.float32))
    model, params = TimesformerForVideoClassification.from_pretrained(source)
    for size in ("20KB", 20_000):
        directory = tmp_path / str(size)
        model.save_pretrained(directory, params, max_shard_size=size)
        shards = list(directory.glob("model-*.safetensors"))
        assert len(shards) > 2
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        assert set(index["weight_map"].values()) == {shard.name for shard in shards}
        for shard in shards:
            with safe_open(shard, "np") as file:
                sizes = [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118  (not a dict)
                assert file.metadata() == {"format": "pt"}
            assert sum(sizes) <= 20_000
        assert_same_bits(read_state(directory), read_state(source))
        transformers.TimesformerForVideoClassification.from_pretrained(directory)


def test_parameters_that_are_not_the_model_s_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", tiny_reference(dtype=torch.float32))
    model, params = TimesformerForVideoClassification.from_pretrained(source)
    params["classifier"]["kernel"] = params["classifier"]["kernel"].T
    params["timesformer"]["extra"] = jnp.zeros(3)
    del params["classifier"]["bias"]
    with pytest.raises(CheckpointError) as caught:
        model.save_pretrained(tmp_path / "out", params)
    message = str(caught.value)
    assert message.startswith("the parameters: not the model that the config describes")
    for problem in (
        "missing: classifier/bias",
        "unknown: timesformer/extra",
        "wrong shape: classifier/kernel is (7, 24)",
    ):
        assert problem in message
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError):
        TimesformerModel(model.config).save_pretrained(tmp_path / "out", {})


def test_what_stands_beside_the_weights_survives(tmp_path: Path) -> None:
    """Unknown keys of config.json, label names and the sampling rate go through both directions."""
    reference = tiny_reference(dtype=torch.float32, num_labels=3)
    reference.config.id2label = {0: "zero", 1: "eins", 2: "二"}
    reference.config.label2id = {"zero": 0, "eins": 1, "二": 2}
    reference.config.some_new_key = {"a": [1, 2]}
    source = saved(tmp_path / "source", reference)
    model, params = TimesformerForVideoClassification.from_pretrained(source, drop_path_rate=0.1)
    model.save_pretrained(tmp_path / "again", params)
    again = transformers.TimesformerConfig.from_pretrained(tmp_path / "again")
    assert again.id2label == reference.config.id2label
    assert again.label2id == reference.config.label2id
    assert again.some_new_key == {"a": [1, 2]}
    assert TimesformerForVideoClassification.from_pretrained(tmp_path / "again")[0].config.drop_path_rate == 0.1


@pytest.mark.parametrize(
    "options", [FORMATS["safetensors"], FORMATS["sharded safetensors"]], ids=["one file", "sharded"]
)
def test_safetensors_load_where_torch_can_not_be_imported(tmp_path: Path, options: dict[str, Any]) -> None:
    reference = tiny_reference(dtype=torch.bfloat16)
    source = saved(tmp_path, reference, **options)
    script = f"""
import sys
for name in ("torch", "transformers", "torchvision", "tensorflow"):
    sys.modules[name] = None  # "import torch" raises ImportError
from timesformer_jax import TimesformerForVideoClassification
model, params = TimesformerForVideoClassification.from_pretrained({str(source)!r})
model.save_pretrained({str(tmp_path / "again")!r}, params)
print(repr(float(params["classifier"]["bias"][3])))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == reference.classifier.bias[3].item()
    assert_same_bits(read_state(tmp_path / "again"), reference.state_dict())


def test_a_pickle_without_torch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path, tiny_reference(dtype=torch.float32), safe_serialization=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        CheckpointError, match=r"is a PyTorch pickle, which only torch can read; install it \(pip install torch\)"
    ):
        load_checkpoint(source)


def test_what_is_no_pickle_is_not_called_one_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(600))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"video\.mp4 holds no weights \(video \(MP4\)\)"):
        load_checkpoint(tmp_path / "video.mp4")


def test_flat_names_are_unique() -> None:
    table = mapping_table(TimesformerConfig(**TINY))
    tree: dict[str, Any] = {}
    for entry in table:
        node = tree
        for key in entry.path[:-1]:
            node = node.setdefault(key, {})
        node[entry.path[-1]] = entry.name
    assert flat_names(tree) == {"/".join(entry.path): entry.name for entry in table}
