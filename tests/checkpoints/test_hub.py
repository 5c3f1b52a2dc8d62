"""The Hub, end to end against a stand-in on this machine (hub_server.py): every way ends right or in one sentence.

Nothing here needs torch or transformers, so that it runs with any version of huggingface_hub.
"""

import json
import logging
import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from hub_server import LARGE, READ_TOKEN, WRITE_TOKEN, HubServer, hub_server
from huggingface_hub import constants, file_download
from safetensors.numpy import save

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_jax.checkpoints.mapping import mapping_table, set_leaf
from timesformer_jax.errors import CheckpointError

# How huggingface_hub 2.x uploads; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "someone/timesformer"
CONFIG = TimesformerConfig(
    image_size=12,
    patch_size=4,
    num_frames=5,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    num_labels=7,
)


@pytest.fixture(scope="module")
def model() -> tuple[TimesformerForVideoClassification, Any]:
    params: Any = {}
    for i, entry in enumerate(mapping_table(CONFIG)):
        set_leaf(params, entry.path, np.random.default_rng(i).normal(size=entry.shape).astype(np.float32))
    return TimesformerForVideoClassification(CONFIG), params


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is in the repository."""
    module, params = model
    directory = tmp_path_factory.mktemp("saved")
    module.save_pretrained(directory, params)
    (directory / "preprocessor_config.json").write_text("{}")
    files = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert len(files["model.safetensors"]) >= LARGE > len(files["config.json"])
    return files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[HubServer]:
    """A running stand-in that huggingface_hub takes for the Hub, and an empty cache."""
    with hub_server() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        for module in (constants, file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub's, before it tries again
        reset_sessions()
        yield server
        reset_sessions()


def reset_sessions() -> None:
    """Closes huggingface_hub's connections, which know whether they are offline."""
    from huggingface_hub.utils import _http

    getattr(_http, "reset_sessions", None) or _http.close_session
    (getattr(_http, "reset_sessions", None) or _http.close_session)()


def load(source: str = REPO, **options: Any) -> tuple[Any, Any]:
    return TimesformerForVideoClassification.from_pretrained(source, **options)


def assert_same(params: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def get_requests(hub: HubServer) -> list[str]:
    return [path for method, path, _ in hub.requests if method == "GET"]


def test_downloads_what_it_needs_and_shows_it(
    hub: HubServer,
    files: dict[str, bytes],
    model: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # huggingface_hub shows its bar although this is no terminal
    hub.add(REPO, files | {"pytorch_model.bin": b"x" * 9999, "training/optimizer.pt": b"x"})
    loaded, params = load()
    assert loaded.config.replace(extra={}) == CONFIG
    assert_same(params, model[1])
    fetched = {path.rpartition("/")[2] for path in get_requests(hub)}
    assert {"config.json", "preprocessor_config.json"} <= fetched
    assert not any("bin" in path or "optimizer" in path for path in get_requests(hub))
    assert re.search(r"100%.*72\.\dk", capsys.readouterr().err)  # the progress bar


def test_a_second_time_the_cache_answers(hub: HubServer, files: dict[str, bytes], model: Any) -> None:
    hub.add(REPO, files)
    load()
    hub.requests.clear()
    _, params = load()
    assert_same(params, model[1])
    assert get_requests(hub) == []  # HEAD alone: is it still this commit?


def test_revision(hub: HubServer, files: dict[str, bytes], model: Any) -> None:
    repository = hub.add(REPO, files)
    other = json.dumps(json.loads(files["config.json"]) | {"hidden_act": "relu"}).encode()
    commit = repository.commit({"config.json": other}, branch="experiment")
    repository.commit(files, branch="experiment-2")
    assert load()[0].config.hidden_act == "gelu"
    assert load(revision="experiment")[0].config.hidden_act == "relu"
    assert load(revision=commit)[0].config.hidden_act == "relu"
    with pytest.raises(CheckpointError, match=f"the Hub repository {REPO} has no revision missing"):
        load(revision="missing")


def test_all_files_come_from_one_commit(
    hub: HubServer, files: dict[str, bytes], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody pushes another model between the config and the weights."""
    repository = hub.add(REPO, files)
    original = repository.find

    def find(revision: str) -> str | None:
        commit = original(revision)
        if "model.safetensors" not in hub.requests[-1][1]:
            return commit
        repository.commit({"model.safetensors": b"another model" * LARGE})
        return original(revision)

    monkeypatch.setattr(repository, "find", find)
    _, params = load()
    assert_same(params, model[1])


def test_token_is_sent(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add(REPO, files, private=True)
    with pytest.raises(CheckpointError, match=f"no repository {REPO} on the Hub, or it is private and needs a token"):
        load()
    load(token=READ_TOKEN)
    to_the_hub = [headers for _, path, headers in hub.requests if path.startswith(f"/{REPO}")]
    assert to_the_hub[-1]["authorization"] == f"Bearer {READ_TOKEN}"


def test_gated(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add(REPO, files, gated=True)
    for token in (None, "hf_without_access"):
        with pytest.raises(CheckpointError, match=f"access to {REPO} must be granted: ask for it on the Hub"):
            load(token=token)
    load(token=READ_TOKEN)


def test_sharded(hub: HubServer, model: Any, tmp_path: Path) -> None:
    module, params = model
    module.save_pretrained(tmp_path / "sharded", params, max_shard_size="20KB")
    sharded = {file.name: file.read_bytes() for file in (tmp_path / "sharded").iterdir()}
    assert sum(name.endswith(".safetensors") for name in sharded) > 2
    hub.add(REPO, sharded)
    assert_same(load()[1], params)
    del sharded[max(name for name in sharded if name.endswith(".safetensors"))]
    hub.add("someone/incomplete", sharded)
    with pytest.raises(CheckpointError, match=r"the Hub repository someone/incomplete has no model-\d+-of-\d+\.safe"):
        load("someone/incomplete")


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""])
def test_index_that_leaves_the_repository(hub: HubServer, files: dict[str, bytes], shard: str) -> None:
    index = json.dumps({"weight_map": {"classifier.weight": shard}}).encode()
    hub.add(REPO, {"config.json": files["config.json"], "model.safetensors.index.json": index})
    with pytest.raises(CheckpointError, match="names the shard"):
        load()
    assert not any("passwd" in path or "secret" in path for _, path, _ in hub.requests)


def test_nothing_to_load(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("someone/empty", {"README.md": b"hello"})
    with pytest.raises(CheckpointError, match=r"the Hub repository someone/empty has no config\.json"):
        load("someone/empty")
    hub.add("someone/half", {"config.json": files["config.json"], "flax_model.msgpack": b"x"})
    with pytest.raises(CheckpointError, match="someone/half has no weights that can be read: one of "):
        load("someone/half")
    with pytest.raises(CheckpointError, match="there is no repository someone/missing on the Hub"):
        load("someone/missing")


@pytest.mark.parametrize(
    "name", ["nowhere", "a/b/c", "a b", "no such dir/", "~/nowhere", "-x/--y", "x..y/z", "a" * 300]
)
def test_names_that_are_no_hub_id_never_reach_the_hub(hub: HubServer, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist|nor a valid Hub id|can't be read"):
        load(name)
    assert hub.requests == []


def test_a_connection_that_drops_is_resumed(
    hub: HubServer, files: dict[str, bytes], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, files)
    hub.faults.drop_after, hub.faults.drops = 30_000, 2
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is cut with a chunk is lost
    _, params = load()
    assert_same(params, model[1])
    ranges = [headers.get("range") for method, path, headers in hub.requests if path.startswith("/cdn/")]
    assert [r for r in ranges if r and not r.startswith("bytes=0")]  # it went on where it was cut


def test_a_connection_that_keeps_dropping(
    hub: HubServer, files: dict[str, bytes], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, files)
    hub.faults.drop_after, hub.faults.drops = 0, 10**6
    with pytest.raises(CheckpointError, match=rf"^model\.safetensors of {REPO} could not be downloaded \(.+\)\.$"):
        load()
    hub.faults.drops = 0
    assert_same(load()[1], model[1])  # and nothing broken stayed in the cache


def test_a_file_of_another_length_than_promised(hub: HubServer, files: dict[str, bytes], model: Any) -> None:
    hub.add(REPO, files)
    hub.faults.false_size = 100
    with pytest.raises(CheckpointError, match=rf"^model\.safetensors of {REPO} could not be downloaded \(.+size"):
        load()
    hub.faults.false_size = 0
    assert_same(load()[1], model[1])


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_a_hub_out_of_order(
    hub: HubServer, files: dict[str, bytes], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, files)
    hub.faults.status = status
    with pytest.raises(CheckpointError, match=rf"config\.json of {REPO}.*{status}"):
        load()


@pytest.mark.skipif(
    not huggingface_hub.__version__.startswith("0."), reason="from 1.0 on it asks again and waits for a minute"
)
def test_a_hub_too_slow(hub: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.add(REPO, files)
    hub.faults.delay = 0.3
    with pytest.raises(CheckpointError, match=r"is not in the cache, and the Hub gave no answer \(.*timed out.*\)\.$"):
        load()


def test_a_slow_hub_is_waited_for(hub: HubServer, files: dict[str, bytes], model: Any) -> None:
    hub.add(REPO, files)
    hub.faults.delay = 0.1
    assert_same(load()[1], model[1])


@pytest.mark.parametrize("extra", ["", "video_preprocessor_config.json"])  # with it, no file is asked for in vain
@pytest.mark.parametrize("way", ["argument", "environment", "no network"])
def test_offline_uses_the_cache_and_says_so(
    hub: HubServer,
    files: dict[str, bytes],
    model: Any,
    way: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = files | ({extra: files["preprocessor_config.json"]} if extra else {})
    commit = hub.add(REPO, files).find("main")
    assert commit is not None
    load()
    assert not caplog.messages
    go_offline(hub, way, monkeypatch)
    _, params = load(local_files_only=way == "argument")
    assert_same(params, model[1])
    assert [record for record in caplog.record_tuples if not record[0].startswith("huggingface_hub")] == [
        (
            "timesformer_jax",
            logging.WARNING,
            f"{REPO}: offline, so commit {commit[:12]} is used, which was downloaded earlier",
        )
    ]


@pytest.mark.parametrize("way", ["argument", "environment", "no network"])
def test_offline_without_the_cache(hub: HubServer, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(hub, way, monkeypatch)
    reason = r"gave no answer \(.*refused.*\)" if way == "no network" else r"is not asked \(offline\)"
    with pytest.raises(CheckpointError, match=rf"^config\.json of {REPO} is not in the cache, and the Hub {reason}\.$"):
        load(local_files_only=way == "argument")
    with pytest.raises(CheckpointError, match=r"at revision v1 is not in the cache"):
        load(revision="v1", local_files_only=way == "argument")


def test_offline_with_half_of_it_in_the_cache(
    hub: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, files)
    huggingface_hub.hf_hub_download(REPO, "config.json")
    go_offline(hub, "environment", monkeypatch)
    with pytest.raises(CheckpointError, match="has no weights that can be read in the cache"):
        load()


def go_offline(hub: HubServer, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "environment":  # HF_HUB_OFFLINE=1, which huggingface_hub reads once
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if way == "no network":
        hub.shutdown()
        hub.server_close()
    reset_sessions()
    hub.requests.clear()


def test_cache_dir(hub: HubServer, files: dict[str, bytes], model: Any, tmp_path: Path) -> None:
    hub.add(REPO, files)
    load(cache_dir=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").glob("models--*/snapshots/*/model.safetensors"))
    assert not (tmp_path / "cache").exists()


def test_push_makes_a_repository_that_loads(hub: HubServer, model: Any) -> None:
    module, params = model
    url = module.push_to_hub("someone/new", params, token=WRITE_TOKEN, private=True, commit_message="First weights")
    repository = hub.repositories["someone/new"]
    assert repository.private
    assert url == f"{hub.endpoint}/someone/new/commit/{repository.find('main')}"
    assert hub.commit_messages == ["First weights"]
    assert {"config.json", "model.safetensors"} <= repository.commits[repository.find("main") or ""].keys()
    assert any(method == "PUT" for method, _, _ in hub.requests)  # the weights went through LFS
    loaded, again = load("someone/new", token=READ_TOKEN)
    assert loaded.config.replace(extra={}) == CONFIG
    assert_same(again, params)


def test_push_to_a_branch(hub: HubServer, files: dict[str, bytes], model: Any) -> None:
    module, params = model
    hub.add(REPO, files)
    changed = jax.tree.map(lambda leaf: leaf + 1, params)
    module.push_to_hub(REPO, changed, token=WRITE_TOKEN, revision="plus-one")
    assert_same(load()[1], params)
    assert_same(load(revision="plus-one")[1], changed)


def test_push_without_the_right_to(hub: HubServer, model: Any) -> None:
    module, params = model
    for token in (None, READ_TOKEN):
        with pytest.raises(CheckpointError, match=r"^the Hub does not take an upload to someone/new: .+\.$"):
            module.push_to_hub("someone/new", params, token=token)
    with pytest.raises(CheckpointError, match="nor a valid Hub id"):
        module.push_to_hub("not a/valid/id", params, token=WRITE_TOKEN)
    assert "someone/new" not in hub.repositories


def test_push_checks_the_parameters_first(hub: HubServer, model: Any) -> None:
    with pytest.raises(CheckpointError, match=r"unknown: classifier/bias"):
        TimesformerModel(CONFIG).push_to_hub("someone/new", {"classifier": {"bias": np.zeros(3)}}, token=WRITE_TOKEN)
    assert hub.requests == []


def adapter_files(base: str | None, **settings: Any) -> dict[str, bytes]:
    """An adapter that adds 1 x 2 x 3 to the whole weight of the first layer's last dense layer."""
    module = "base_model.model.timesformer.encoder.layer.0.output.dense"
    tensors = {f"{module}.lora_A.weight": np.full((1, 40), 2.0, np.float32)}
    tensors[f"{module}.lora_B.weight"] = np.full((24, 1), 3.0, np.float32)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["layer.0.output.dense"]}
    config |= {"base_model_name_or_path": base} | settings
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}


def assert_merged(params: Any, base: Any) -> None:
    def kernel(tree: Any) -> Any:
        return np.array(tree["timesformer"]["encoder"]["layers"]["mlp"]["output"]["kernel"])

    expected = kernel(base)
    expected[0] += 6
    np.testing.assert_allclose(kernel(params), expected, rtol=1e-6)


def test_an_adapter_brings_its_base(
    hub: HubServer, files: dict[str, bytes], model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A repository of an adapter has no config.json; the base is another, at the revision it was trained on."""
    repository = hub.add("someone/base", files)
    commit = repository.commit(files, branch="as-it-was")
    repository.commit({"model.safetensors": b"newer" * LARGE})
    hub.add(REPO, adapter_files("someone/base", revision="as-it-was"))
    assert_merged(load()[1], model[1])
    assert any(commit in path for path in get_requests(hub))
    hub.requests.clear()
    hub.faults.status = 503
    assert_merged(load(local_files_only=True)[1], model[1])
    assert "someone/base: offline" in caplog.text
    assert hub.requests == []
    hub.faults.status = None
    hub.add("someone/lost", adapter_files("someone/nothing"))
    with pytest.raises(CheckpointError, match=r"is an adapter for someone/nothing, which is not found .*--base"):
        load("someone/lost")


@pytest.mark.parametrize("base", [REPO, None, ""])
def test_an_adapter_and_its_base_in_one_repository(
    hub: HubServer, files: dict[str, bytes], model: Any, base: str | None
) -> None:
    hub.add(REPO, files | adapter_files(base))
    assert_merged(load()[1], model[1])


def test_weights_beside_an_adapter_of_another_base_stay_on_the_hub(
    hub: HubServer, files: dict[str, bytes], model: Any
) -> None:
    hub.add("someone/base", files)
    hub.add(REPO, files | {"model.safetensors": b"merged" * LARGE} | adapter_files("someone/base"))
    assert_merged(load()[1], model[1])
    assert not any(f"{REPO}/" in path and path.endswith("/model.safetensors") for path in get_requests(hub))
