"""Converted directories: what goes into Orbax comes out of it, bit for bit and type for type."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from earlier import orbax_versions
from reference import ATTENTION_TYPES, TINY

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification
from timesformer_jax.checkpoints import orbax_directory as native
from timesformer_jax.checkpoints.mapping import mapping_table, set_leaf
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.checkpoints.orbax_directory import is_converted, open_converted, save_params
from timesformer_jax.conversion.convert import convert_flax_to_hf
from timesformer_jax.conversion.verify import verify
from timesformer_jax.errors import CheckpointError

CONFIG = TimesformerConfig(**TINY)


def random_params(config: TimesformerConfig = CONFIG, *, head: bool = True, dtype: Any = np.float32) -> Any:
    params: Any = {}
    for i, entry in enumerate(mapping_table(config, head=head)):
        set_leaf(params, entry.path, np.random.default_rng(i).normal(size=entry.shape).astype(dtype))
    return params


def load_params(directory: Path, config: TimesformerConfig, dtype: Any = None) -> tuple[Any, bool]:
    """The parameters in a converted directory, and whether they are the classifier's."""
    stored = open_converted(directory).model(config)
    return stored.read(dtype), stored.has_head


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == other.dtype
        assert leaf.tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("name", ["state", "params", "checkpoints"])
def test_directories_of_any_name(tmp_path: Path, name: str) -> None:
    """Also of those that training runs and converted directories give their parts."""
    directory = tmp_path / name
    directory.mkdir()
    CONFIG.save_json_file(directory / "config.json")
    params = random_params()
    save_params(directory, params)
    assert_same(load_checkpoint(directory).params, params)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64], ids=lambda t: np.dtype(t).name
)
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_round_trip(tmp_path: Path, attention_type: Any, dtype: Any) -> None:
    """float64 as well, though JAX has x64 switched off."""
    assert not jax.config.jax_enable_x64
    config = CONFIG.replace(attention_type=attention_type)
    params = random_params(config, dtype=dtype)
    assert not is_converted(tmp_path)
    save_params(tmp_path, params)
    assert is_converted(tmp_path)
    loaded, head = load_params(tmp_path, config)
    assert head
    assert_same(loaded, params)
    assert {kind for _, kind in open_converted(tmp_path).shapes.values()} == {np.dtype(dtype).name}


OTHERS: dict[str, dict[str, Any]] = {
    "axial": {"attention_type": "axial"},
    "sparse": {"attention_type": "sparse_local_global", "position_embedding_type": "space"},
    "parallel": {"attention_order": "parallel"},
    "no embeddings": {"position_embedding_type": "none", "attention_type": "joint_space_time"},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS.keys())
def test_models_that_transformers_has_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    """They are kept as converted directories, and refused in Transformers' format before anything is written."""
    config = CONFIG.replace(**changes)
    model, params = TimesformerForVideoClassification(config), random_params(config)
    model.save_converted(tmp_path / "converted", params)
    loaded, found = TimesformerForVideoClassification.from_pretrained(tmp_path / "converted")
    assert loaded.config == config
    assert_same(jax.device_get(found), params)
    model.save_converted(tmp_path / "converted", params)  # which replaces the first
    own = json.loads((tmp_path / "converted" / "config.json").read_text()).get("timesformer_jax", {})
    assert own == {name: value for name, value in changes.items() if name != "attention_type"}

    what = f"Transformers has no TimeSformer with {next(iter(changes))} "
    refused: list[Callable[[], Any]] = [
        lambda: model.save_pretrained(tmp_path / "hf", params),
        lambda: model.push_to_hub("someone/something", params, token="none"),
        lambda: convert_flax_to_hf(tmp_path / "converted", tmp_path / "hf"),
        lambda: verify({}, model, params, np.zeros((1, 5, 12, 12, 3), np.float32)),
    ]
    for call in refused:
        with pytest.raises(CheckpointError, match=what) as caught:
            call()
        assert "save_converted" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


def test_a_converted_directory_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("")
    with pytest.raises(CheckpointError, match="is no converted directory, so it is not replaced"):
        TimesformerForVideoClassification(CONFIG).save_converted(tmp_path, random_params())
    with pytest.raises(CheckpointError, match="wrong shape: classifier/kernel"):
        TimesformerForVideoClassification(CONFIG.replace(num_labels=8)).save_converted(tmp_path / "x", random_params())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_the_bare_model(tmp_path: Path) -> None:
    params = random_params(head=False)
    save_params(tmp_path, params)
    loaded, head = load_params(tmp_path, CONFIG)
    assert not head
    assert_same(loaded, params)


def test_arrays_of_jax_spread_over_devices(tmp_path: Path) -> None:
    params = random_params()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    save_params(tmp_path, jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), params))
    assert_same(load_params(tmp_path, CONFIG)[0], params)


def test_saving_does_not_touch_the_arrays(tmp_path: Path) -> None:
    params = random_params()
    copies = jax.tree.map(np.copy, params)
    save_params(tmp_path, params)
    assert_same(params, copies)


def test_another_dtype(tmp_path: Path) -> None:
    params = random_params()
    save_params(tmp_path, params)
    loaded, _ = load_params(tmp_path, CONFIG, np.dtype(ml_dtypes.bfloat16))
    assert_same(loaded, jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params))


def test_what_other_orbax_settings_write_is_read_too(tmp_path: Path) -> None:
    """Compressed, in files instead of a database, and in Zarr's third version."""
    params = random_params()
    for i, options in enumerate(({}, {"use_ocdbt": False}, {"use_zarr3": True})):
        directory = tmp_path / str(i)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(directory / "params", args=ocp.args.PyTreeSave(params))
        assert_same(load_params(directory, CONFIG)[0], params)


def test_our_own_directories_are_listed_one_header_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax opens all at once, and where they are damaged its threads print a traceback each."""
    save_params(tmp_path, random_params())
    monkeypatch.delattr(native, "_orbax_entries")
    assert open_converted(tmp_path).shapes.keys() == {"/".join(entry.path) for entry in mapping_table(CONFIG)}


def test_parameters_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    params = random_params()
    params["classifier"]["bias"] = np.zeros(7, np.int32)
    save_params(tmp_path, params)
    with pytest.raises(CheckpointError, match="wrong type: classifier/bias is int32"):
        load_params(tmp_path, CONFIG)


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    params = random_params()
    params["classifier"] = {"bias": np.zeros(8, np.float32), "stranger": np.zeros(1, np.float32)}
    save_params(tmp_path, params)
    with pytest.raises(CheckpointError) as caught:
        load_params(tmp_path, CONFIG)
    for problem in (
        "missing: classifier/kernel (24, 7)",
        "unknown: classifier/stranger (1,)",
        "wrong shape: classifier/bias is (8,), the config asks for (7,)",
    ):
        assert problem in str(caught.value)


def test_arrays_start_where_jax_can_adopt_them(tmp_path: Path) -> None:
    save_params(tmp_path, random_params())
    for leaf in jax.tree.leaves(load_params(tmp_path, CONFIG)[0]):
        assert leaf.ctypes.data % 64 == 0
        if jax.default_backend() == "cpu":
            assert jax.device_put(leaf).unsafe_buffer_pointer() == leaf.ctypes.data


@pytest.mark.parametrize("interface", ["old", "v1"])
def test_what_orbax_0_11_wrote_is_read(interface: str, tmp_path: Path) -> None:
    shutil.unpack_archive(Path(__file__).parents[1] / "earlier" / "orbax_0.11.30.zip", tmp_path)
    assert_same(load_checkpoint(tmp_path / interface).params, orbax_versions.parameters())


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # of V1, about arrays of one device
def test_both_of_orbax_s_interfaces_read_each_other_s_parameters(tmp_path: Path) -> None:
    """What is saved here can be read by V1, and what V1 writes is read here."""
    orbax_versions.CONFIG.save_json_file(tmp_path / "config.json")
    orbax_versions.write_v1(tmp_path / "params")
    params = load_checkpoint(tmp_path).params
    assert_same(params, orbax_versions.parameters())
    save_params(tmp_path / "again", params)
    assert_same(jax.tree.map(np.asarray, orbax_versions.read_v1(tmp_path / "again" / "params")), params)
