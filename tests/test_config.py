"""config.json in and out: what Transformers 4.56.2 and 5.x write is read, and what is written they read."""

import dataclasses
import json
import string
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytorch import transformers

from timesformer_jax import TimesformerConfig
from timesformer_jax.activations import ACTIVATIONS
from timesformer_jax.errors import ConfigError
from timesformer_jax.presets import PRESETS, published_sampling_rate

REFERENCE_FIELDS = (
    "image_size",
    "patch_size",
    "num_channels",
    "num_frames",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "qkv_bias",
    "attention_type",
    "drop_path_rate",
)

DISTINCT: dict[str, Any] = {
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 2,
    "num_frames": 5,
    "hidden_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2,
    "initializer_range": 0.03,
    "layer_norm_eps": 1e-5,
    "qkv_bias": False,
    "attention_type": "joint_space_time",
    "drop_path_rate": 0.25,
}
"""Every field of the reference at a value that is not its default and that no other field has."""


def write(directory: Path, values: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(values))
    return path


def values_of(config: transformers.PretrainedConfig) -> dict[str, Any]:
    """A Transformers config's fields, sizes as this package keeps them."""
    values = {name: getattr(config, name) for name in REFERENCE_FIELDS}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def test_defaults_are_the_references() -> None:
    config, reference = TimesformerConfig(), transformers.TimesformerConfig()
    assert {name: getattr(config, name) for name in REFERENCE_FIELDS} == values_of(reference)
    assert (config.num_labels, dict(config.id2label), dict(config.label2id), config.problem_type) == (
        reference.num_labels,
        reference.id2label,
        reference.label2id,
        reference.problem_type,
    )


@pytest.mark.parametrize("use_diff", [True, False], ids=["short", "every key"])
def test_reads_what_transformers_4_writes(tmp_path: Path, use_diff: bool) -> None:
    reference = transformers.TimesformerConfig(
        **DISTINCT, id2label={i: f"class {i}" for i in range(12)}, label2id={f"class {i}": i for i in range(12)}
    )
    reference.to_json_file(tmp_path / "config.json", use_diff=use_diff)
    config = TimesformerConfig.from_json_file(tmp_path / "config.json")
    assert {name: getattr(config, name) for name in REFERENCE_FIELDS} == DISTINCT
    assert dict(config.id2label) == reference.id2label
    assert dict(config.label2id) == reference.label2id
    assert config.num_labels == 12


WRITTEN_BY_5 = {
    # TimesformerConfig(image_size=[12, 8], patch_size=4, num_labels=3, problem_type="regression", dtype="bfloat16") of
    # Transformers 5.23, its constant fields left out.
    "architectures": ["TimesformerForVideoClassification"],
    "drop_path_rate": 0,
    "dtype": "bfloat16",
    "hidden_act": "gelu",
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "image_size": [12, 8],
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "model_type": "timesformer",
    "patch_size": 4,
    "problem_type": "regression",
    "transformers_version": "5.23.0",
}


def test_reads_what_transformers_5_writes(tmp_path: Path) -> None:
    config = TimesformerConfig.from_json_file(write(tmp_path, WRITTEN_BY_5))
    assert (config.image_size, config.num_labels, config.problem_type) == ((12, 8), 3, "regression")
    assert config.drop_path_rate == 0
    assert dict(config.extra) == {
        "architectures": ("TimesformerForVideoClassification",),
        "dtype": "bfloat16",
        "transformers_version": "5.23.0",
    }


def test_without_labels_there_are_two(tmp_path: Path) -> None:
    transformers.TimesformerConfig().to_json_file(tmp_path / "config.json")
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    config = TimesformerConfig.from_json_file(tmp_path / "config.json")
    assert (config.num_labels, dict(config.id2label)) == (2, {0: "LABEL_0", 1: "LABEL_1"})


def test_labels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(i): f"class {i}" for i in range(12)}
    path = write(tmp_path, {"id2label": dict(sorted(names.items()))})  # as text: "10" before "2"
    assert list(TimesformerConfig.from_json_file(path).id2label.values()) == list(names.values())


def test_indices_may_be_texts(tmp_path: Path) -> None:
    """As the training scripts of Transformers write them, which Transformers itself reads and writes as they are."""
    names = {"0": "zero", "1": "one"}
    transformers.TimesformerConfig(id2label=names, label2id={"zero": "0", "one": "1"}).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == {"zero": "0", "one": "1"}
    config = TimesformerConfig.from_json_file(tmp_path / "config.json")
    assert (dict(config.id2label), dict(config.label2id)) == ({0: "zero", 1: "one"}, {"zero": 0, "one": 1})


def test_num_labels_alone_makes_names() -> None:
    config = TimesformerConfig.from_dict({"num_labels": 3})
    assert dict(config.id2label) == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert dict(config.label2id) == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_null_means_the_default() -> None:
    nulls = dict.fromkeys([*REFERENCE_FIELDS, "num_labels", "id2label", "label2id", "problem_type", "timesformer_jax"])
    assert TimesformerConfig.from_dict(nulls) == TimesformerConfig()


def test_unknown_keys_are_kept_and_written_back(tmp_path: Path) -> None:
    unknown = {"dtype": None, "torch_dtype": "float16", "architectures": ["A"], "nested": {"list": [1, {"x": [2.5]}]}}
    config = TimesformerConfig.from_json_file(write(tmp_path, unknown))
    assert config.to_dict().items() >= unknown.items()
    assert TimesformerConfig.from_dict(config.to_dict()) == config
    hash(config)


def test_transformers_4_reads_what_is_written(tmp_path: Path) -> None:
    settings = DISTINCT | {"image_size": (12, 8), "problem_type": "multi_label_classification"}
    config = TimesformerConfig(**settings, id2label={0: "zero", 1: "one", 2: "two"})
    config.save_json_file(tmp_path / "config.json")
    reference = transformers.TimesformerConfig.from_pretrained(tmp_path)
    # Transformers 5.x takes none but an integer here, so the rate itself is under a key of our own.
    assert values_of(reference) == {name: getattr(config, name) for name in REFERENCE_FIELDS} | {"drop_path_rate": 0}
    assert (reference.id2label, reference.label2id) == (dict(config.id2label), dict(config.label2id))
    assert reference.problem_type == config.problem_type
    # Transformers keeps that key, so a model that went through it has its rate again.
    reference.to_json_file(tmp_path / "again.json")
    again = TimesformerConfig.from_json_file(tmp_path / "again.json")
    assert again.replace(extra={}) == config


def test_fractional_drop_path_rate_is_written_as_an_integer_0(tmp_path: Path) -> None:
    config = TimesformerConfig(drop_path_rate=0.1)
    config.save_json_file(tmp_path / "config.json")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["drop_path_rate"] == 0
    assert isinstance(written["drop_path_rate"], int)
    assert TimesformerConfig.from_json_file(tmp_path / "config.json").drop_path_rate == 0.1
    # Someone's edit of the field itself counts.
    assert TimesformerConfig.from_dict(written | {"drop_path_rate": 0.3}).drop_path_rate == 0.3


def test_real_numbers_are_written_as_such() -> None:
    written = TimesformerConfig(initializer_range=0, layer_norm_eps=1).to_dict()
    assert isinstance(written["initializer_range"], float)  # Transformers 5.x refuses an integer
    assert isinstance(written["layer_norm_eps"], float)


@pytest.mark.parametrize("rate", [32.0, 4, "segments", None])
def test_sampling_rate_has_a_key_of_its_own(rate: Any) -> None:
    config = TimesformerConfig(sampling_rate=rate)
    assert "sampling_rate" not in config.to_dict()
    assert TimesformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_no_classes_is_a_config_that_both_read(tmp_path: Path) -> None:
    config = TimesformerConfig(num_labels=0)
    config.save_json_file(tmp_path / "config.json")
    assert TimesformerConfig.from_json_file(tmp_path / "config.json") == config
    assert transformers.TimesformerConfig.from_pretrained(tmp_path).num_labels == 0


def test_frozen_hashable_equal() -> None:
    config = TimesformerConfig(**DISTINCT, id2label={0: "a", 1: "b"}, extra={"x": {"y": [1, 2]}})
    same = TimesformerConfig.from_dict(config.to_dict())
    assert config == same
    assert hash(config) == hash(same)
    assert config != config.replace(num_frames=6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_frames = 6  # pyright: ignore[reportAttributeAccessIssue]
    for mapping in (config.id2label, config.label2id, config.extra, config.extra["x"]):
        with pytest.raises((TypeError, ValueError)):
            mapping["new"] = 1  # pyright: ignore[reportIndexIssue]
    traced = []
    frames = jax.jit(lambda c: traced.append(c) or c.num_frames, static_argnums=0)
    assert frames(config) == frames(same) == 5
    assert len(traced) == 1


def test_equal_sides_are_one_number() -> None:
    assert TimesformerConfig(image_size=(32, 32), patch_size=[16, 16]) == TimesformerConfig(image_size=32)  # pyright: ignore
    assert TimesformerConfig(image_size=(32, 64), patch_size=(16, 8)).grid == (2, 8)


IMPOSSIBLE: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("image_size", "patch_size")
        for value in (0, -4, 2.0, "224", True, [], [4], [4, 4, 4])
    ),
    ("image_size", (16, 0)),
    ("image_size", (16, 8.0)),
    ("patch_size", 15),
    ("patch_size", (16, 15)),
    *(
        (name, value)
        for name in (
            "num_channels",
            "num_frames",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        )
        for value in (0, -1, 1.0, "1", True, [1], 10**12)
    ),
    ("num_attention_heads", 7),
    *(
        (name, value)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        for value in (1, 1.0, -0.1, "0", True, [0], float("nan"), float("inf"))
    ),
    *(
        (name, value)
        for name in ("initializer_range", "layer_norm_eps")
        for value in (-1e-6, "0", True, [0], float("nan"), float("inf"), 10**400)
    ),
    ("layer_norm_eps", 0),
    *(("qkv_bias", value) for value in (0, 1, "true", [])),
    *(("hidden_act", value) for value in ("gelu2", "", 1, ["gelu"], {})),
    *(("attention_type", value) for value in ("divided", "", 1, ["space_only"], {})),
    *(("problem_type", value) for value in ("classification", "", 1, ["regression"])),
    *(("sampling_rate", value) for value in (0, -1, "32", True, [], float("nan"), float("inf"))),
    *(("num_labels", value) for value in (-1, 2.0, "2", True, [2], 10**12)),
    *(("id2label", value) for value in (["a"], "a", 1, {"a": "b"}, {1: "a", 2: "b"}, {0: "a", "00": "b"}, {0.5: "a"})),
    *(("label2id", value) for value in (["a"], "a", 1, {"a": "b"}, {"a": 0.5}, {"a": None}, {"a": "²"}, {"a": "-1"})),
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE, ids=lambda value: repr(value)[:24])
def test_impossible_values_are_refused_with_the_field_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"\b{name}\b") as caught:
        TimesformerConfig(**{name: value})
    assert len(str(caught.value)) < 400


def test_labels_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_labels is 3 but id2label names 2 classes"):
        TimesformerConfig(num_labels=3, id2label={0: "a", 1: "b"})


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(ConfigError) as caught:
        TimesformerConfig(hidden_act="swiglu")
    assert all(name in str(caught.value) for name in ACTIVATIONS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("hello", "not valid JSON"),
        ("[1]", "must hold a JSON object, not a list"),
        ("[" * 100_000, "not valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"hidden_size": ' + "9" * 4000 + "}", "hidden_size"),
        ('{"model_type": "vit"}', "configures a 'vit' model"),
        ('{"model_type": ["vit"]}', "model"),
        ('{"hidden_size": 25}', "num_attention_heads"),
        ('{"timesformer_jax": [1]}', "timesformer_jax"),
        ('{"timesformer_jax": {"drop_path_rate": "x"}}', "drop_path_rate"),
        ('{"layer_norm_eps": NaN}', "layer_norm_eps"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_files_that_are_no_config(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=reason) as caught:
        TimesformerConfig.from_json_file(path)
    assert str(path) in str(caught.value)


def test_missing_and_oversized_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.json can't be read: No such file"):
        TimesformerConfig.from_json_file(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"is not a file\.$"):
        TimesformerConfig.from_json_file(tmp_path)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(ConfigError, match=r"^\S+huge\.json is too large"):
        TimesformerConfig.from_json_file(tmp_path / "huge.json")


def test_replace_keeps_labels_or_makes_new_ones() -> None:
    config = TimesformerConfig(id2label={0: "a", 1: "b"})
    assert dict(config.replace(num_frames=4).id2label) == {0: "a", 1: "b"}
    assert config.replace(num_labels=2) == config
    assert dict(config.replace(num_labels=3).id2label) == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    named = config.replace(id2label={0: "x", 1: "y", 2: "z"})
    assert (named.num_labels, dict(named.label2id)) == (3, {"x": 0, "y": 1, "z": 2})
    with pytest.raises(ConfigError, match="no field hidden, num_lables"):
        config.replace(num_lables=3, hidden=4)
    with pytest.raises(ConfigError, match="patch_size"):
        config.replace(patch_size=15)


def test_presets_are_the_published_models() -> None:
    published = {
        "base-k400": (8, 224, 400, 32.0),
        "hr-k400": (16, 448, 400, 16.0),
        "large-k400": (96, 224, 400, 4.0),
        "base-k600": (8, 224, 600, 32.0),
        "hr-k600": (16, 448, 600, 16.0),
        "large-k600": (96, 224, 600, 4.0),
        "base-ssv2": (8, 224, 174, "segments"),
        "hr-ssv2": (16, 448, 174, "segments"),
        "large-ssv2": (64, 224, 174, "segments"),
        "howto100m-8": (8, 224, 1059, 32.0),
        "howto100m-32": (32, 224, 1059, 32.0),
        "howto100m-64": (64, 224, 1059, 32.0),
        "howto100m-96": (96, 224, 1059, 32.0),
    }
    made = {name: TimesformerConfig.preset(name) for name in PRESETS}
    assert {n: (c.num_frames, c.image_size, c.num_labels, c.sampling_rate) for n, c in made.items()} == published
    assert TimesformerConfig.preset("hr-ssv2", num_frames=32, num_labels=5).num_labels == 5
    with pytest.raises(ConfigError, match=r"no preset is called 'base'; there are base-k400, "):
        TimesformerConfig.preset("base")


def test_published_models_are_known_by_their_hub_id() -> None:
    assert published_sampling_rate("facebook/timesformer-base-finetuned-k400") == 32
    assert published_sampling_rate("facebook/timesformer-hr-finetuned-ssv2") == "segments"
    assert published_sampling_rate("someone/timesformer-base-finetuned-k400") is None


rates = st.floats(0, 1, exclude_max=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def configs(draw: st.DrawFn) -> TimesformerConfig:
    """Any possible config."""
    patch = draw(st.tuples(st.integers(1, 32), st.integers(1, 32)))
    image = tuple(side * draw(st.integers(1, 20)) for side in patch)
    heads = draw(st.integers(1, 16))
    labels = draw(st.none() | st.lists(text, max_size=12))
    return TimesformerConfig(
        image_size=image,  # pyright: ignore[reportArgumentType]
        patch_size=patch,
        num_channels=draw(st.integers(1, 4)),
        num_frames=draw(st.integers(1, 128)),
        hidden_size=heads * draw(st.integers(1, 128)),
        num_hidden_layers=draw(st.integers(1, 48)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 4096)),
        hidden_act=draw(st.sampled_from(sorted(ACTIVATIONS))),
        hidden_dropout_prob=draw(rates),
        attention_probs_dropout_prob=draw(rates),
        initializer_range=draw(st.floats(0, 10)),
        layer_norm_eps=draw(st.floats(0, 1, exclude_min=True)),
        qkv_bias=draw(st.booleans()),
        attention_type=draw(st.sampled_from(["divided_space_time", "space_only", "joint_space_time"])),
        drop_path_rate=draw(rates),
        id2label=None if labels is None else dict(enumerate(labels)),  # pyright: ignore[reportArgumentType]
        problem_type=draw(
            st.sampled_from([None, "regression", "single_label_classification", "multi_label_classification"])
        ),
        sampling_rate=draw(st.none() | st.just("segments") | st.floats(0, 1e6, exclude_min=True)),
        extra=draw(st.dictionaries(st.text(string.ascii_uppercase, min_size=1), json_values, max_size=3)),
    )


@given(configs())
def test_round_trip_through_json(config: TimesformerConfig) -> None:
    again = TimesformerConfig.from_dict(json.loads(json.dumps(config.to_dict(), sort_keys=True)))
    assert again == config
    assert hash(again) == hash(config)


@given(configs())
def test_round_trip_through_transformers(config: TimesformerConfig) -> None:
    reference = transformers.TimesformerConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    again = TimesformerConfig.from_dict(json.loads(reference.to_json_string()))
    assert again.replace(extra={}) == config.replace(extra={})
