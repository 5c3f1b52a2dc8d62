"""Tensors below the prefixes that trainings leave, in every layout and file format; and which of two copies is read."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import save_torch_state_dict
from mmaction2_checkpoints import config_text, tiny_recognizer
from pytorch import save_file, torch
from pytorch_checkpoints import original_cfg, original_reference, original_state, timm_state, tiny_vit
from reference import ATTENTION_TYPES, tiny_reference

from timesformer_jax.checkpoints.inspection import inspect_checkpoint
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import Checkpoint, load_checkpoint
from timesformer_jax.checkpoints.prefixes import around, is_average, prefixes_before
from timesformer_jax.errors import CheckpointError

State = dict[str, torch.Tensor]

PREFIXES = [
    *("module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.model.", "model.module._orig_mod."),
    *("_fsdp_wrapped_module.model._orig_mod.", "net.video.encoder."),
]


def below(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def save_bin(directory: Path, state: State) -> Path:
    torch.save(state, directory / "pytorch_model.bin")
    return directory


def save_safetensors(directory: Path, state: State) -> Path:
    save_file(state, directory / "model.safetensors")
    return directory


def save_sharded(directory: Path, state: State) -> Path:
    save_torch_state_dict(state, directory, max_shard_size="20KB")
    assert (directory / "model.safetensors.index.json").is_file()
    return directory


def save_sharded_bin(directory: Path, state: State) -> Path:
    save_torch_state_dict(state, directory, max_shard_size="20KB", safe_serialization=False)
    return directory


def save_lightning(directory: Path, state: State) -> Path:
    """A file with the entries that Lightning 2.5 writes."""
    path = directory / "epoch=3-step=120.ckpt"
    callback = "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'every_n_train_steps': 0}"
    contents = {
        "epoch": 3, "global_step": 120, "pytorch-lightning_version": "2.5.1", "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "completed": 3}}}},
        "callbacks": {callback: {"best_model_score": torch.tensor(0.25), "best_model_path": str(path)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}],
        "lr_schedulers": [], "hparams_name": "kwargs", "hyper_parameters": {"lr": 1e-4, "num_labels": 7, "name": "a"},
    }  # fmt: skip
    torch.save(contents, path)
    return path


FORMATS: list[Callable[[Path, State], Path]] = [
    save_bin, save_safetensors, save_sharded, save_sharded_bin, save_lightning,
]  # fmt: skip


def assert_same(actual: Checkpoint, expected: Checkpoint) -> None:
    """The same model in the same bits, with nothing changed or dropped."""
    assert not str(actual.changes)
    assert actual.config == expected.config
    wanted = flat_names(expected.params)
    assert flat_names(actual.params).keys() == wanted.keys()
    for name, leaf in flat_names(actual.params).items():
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)


@pytest.fixture(scope="module", params=[True, False], ids=["classifier", "bare"])
def reference(request: pytest.FixtureRequest) -> Any:
    return tiny_reference(head=request.param, dtype=torch.float32)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("save", FORMATS)
def test_transformers_layout(save: Callable[[Path, State], Path], prefix: str, reference: Any, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path / "plain")
    (tmp_path / "prefixed").mkdir()
    path = save(tmp_path / "prefixed", below(prefix, reference.state_dict()))
    reference.config.save_pretrained(tmp_path / "prefixed")
    assert_same(load_checkpoint(path), load_checkpoint(tmp_path / "plain"))
    report = inspect_checkpoint(path)
    assert (report.kind, report.problems) == ("TimeSformer in the format of Transformers", ())


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("head", [True, False], ids=["classifier", "bare"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_without_a_config(
    prefix: str, head: bool, attention_type: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shapes tell the model; what they don't tell is said."""
    caplog.set_level(logging.WARNING)
    reference = tiny_reference(head=head, dtype=torch.float32, attention_type=attention_type)
    reference.save_pretrained(tmp_path / "plain")
    path = save_lightning(tmp_path, below(prefix, reference.state_dict()))
    known = {"num_attention_heads": 3} | ({"num_frames": 5} if attention_type == "space_only" else {})
    actual, expected = load_checkpoint(path, **known), load_checkpoint(tmp_path / "plain")
    assert "has no config.json beside it: the shapes of its tensors tell the model" in caplog.text
    assert "num_attention_heads is 3, layer_norm_eps 1e-06 and hidden_act gelu" in caplog.text
    extra = {"extra": {}} if head else {"extra": {}, "num_labels": None}
    assert_same(
        Checkpoint(**vars(actual) | {"config": actual.config.replace(**extra)}),
        Checkpoint(**vars(expected) | {"config": expected.config.replace(**extra)}),
    )


def test_without_a_config_what_no_shape_tells_is_asked_for(tmp_path: Path) -> None:
    """Heads are guessed for the width of the published models alone, of which all have heads of 64."""
    path = save_lightning(tmp_path, below("model.", tiny_reference(dtype=torch.float32).state_dict()))
    with pytest.raises(CheckpointError, match="give num_attention_heads"):
        load_checkpoint(path)
    state = tiny_reference(dtype=torch.float32, hidden_size=128, num_attention_heads=4).state_dict()
    with pytest.raises(CheckpointError, match="give num_attention_heads"):
        load_checkpoint(save_lightning(tmp_path, state))
    state = tiny_reference(dtype=torch.float32, hidden_size=768, num_attention_heads=12).state_dict()
    assert load_checkpoint(save_lightning(tmp_path, state)).config.num_attention_heads == 12
    state = tiny_reference(dtype=torch.float32, attention_type="space_only").state_dict()
    with pytest.raises(CheckpointError, match="give num_frames"):
        load_checkpoint(save_lightning(tmp_path, state), num_attention_heads=3)
    del state["timesformer.embeddings.position_embeddings"]
    with pytest.raises(CheckpointError, match=r"model\.timesformer\.embeddings\.position_embeddings is missing"):
        load_checkpoint(save_lightning(tmp_path, below("model.", state)), num_attention_heads=3, num_frames=5)
    with pytest.raises(
        CheckpointError, match=r"has no config\.json beside it"
    ):  # a ViT's shapes don't tell its epsilon
        load_checkpoint(save_lightning(tmp_path, below("model.", tiny_vit(dtype=torch.float32).state_dict())))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("timesformer.", "timesformer._orig_mod."),
        ("encoder.layer.0.", "encoder.layer.0._checkpoint_wrapped_module."),
        ("encoder.layer.", "encoder.layer.module."),
        ("embeddings.patch_embeddings.", "_fsdp_wrapped_module.embeddings.patch_embeddings._orig_mod."),
    ],
)
def test_wrappers_inside_a_model(old: str, new: str, tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(tmp_path)
    expected = load_checkpoint(tmp_path)
    state = {f"module.{name}".replace(old, new): tensor for name, tensor in reference.state_dict().items()}
    assert_same(load_checkpoint(save_safetensors(tmp_path, state)), expected)
    del state["module.classifier.bias"]
    save_safetensors(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"missing: module\.classifier\.bias"):
        load_checkpoint(tmp_path)


def test_a_tensor_with_and_without_a_wrapper(tmp_path: Path) -> None:
    state = tiny_reference(dtype=torch.float32).state_dict()
    tiny_reference().config.save_pretrained(tmp_path)
    state["timesformer._orig_mod.layernorm.bias"] = torch.ones(24)
    with pytest.raises(CheckpointError, match=r"holds timesformer\.layernorm\.bias twice"):
        load_checkpoint(save_safetensors(tmp_path, state))


def save_original_state(path: Path, state: State) -> Path:
    torch.save({"model_state": state, "cfg": original_cfg(original_reference())}, path)
    return path


@pytest.mark.parametrize("prefix", PREFIXES)
def test_original_timm_and_vit(prefix: str, tmp_path: Path) -> None:
    reference = original_reference(dtype=torch.float32)
    paths = [
        save_original_state(tmp_path / f"{number}.pyth", original_state(reference, p))
        for number, p in enumerate(("model.", prefix))
    ]
    assert_same(*map(load_checkpoint, paths))
    vit = tiny_vit(head=True, dtype=torch.float32)
    for number, p in enumerate(("", prefix)):
        torch.save(below(p, timm_state(vit)), tmp_path / f"{number}.pth")
    known: dict[str, Any] = {"attention_type": "space_only", "num_attention_heads": 3}
    assert_same(*(load_checkpoint(tmp_path / f"{number}.pth", **known) for number in range(2)))
    vit.save_pretrained(tmp_path / "plain")
    (tmp_path / "vit").mkdir()
    path = save_lightning(tmp_path / "vit", below(prefix, vit.state_dict()))
    vit.config.save_pretrained(tmp_path / "vit")
    assert_same(*(load_checkpoint(vit, attention_type="space_only") for vit in (path, tmp_path / "plain")))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_mmaction2(prefix: str, tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    for number, p in enumerate(("", prefix)):
        contents = {"state_dict": below(p, model.state_dict()), "meta": {"cfg": config_text(model)}}
        torch.save(contents, tmp_path / f"{number}.pth")
    assert_same(load_checkpoint(tmp_path / "1.pth"), load_checkpoint(tmp_path / "0.pth"))


@pytest.mark.parametrize(
    ("other", "is_ema"),
    [("ema_model.", True), ("model_ema.module.", True), ("ema.", True), ("teacher.", False), ("teacher.ema2.", False)],
)
@pytest.mark.parametrize("layout", ["transformers", "original", "mmaction2", "vit"])
def test_two_copies(layout: str, other: str, is_ema: bool, tmp_path: Path) -> None:
    """Refused with the names of both, or one of them by `training_weights` where one is a moving average."""
    model: Any
    match layout:
        case "transformers":
            model = tiny_reference(dtype=torch.float32)
            model.config.save_pretrained(tmp_path)
            state = model.state_dict()
        case "original":
            state = original_state(original_reference(dtype=torch.float32), "")
        case "mmaction2":
            state = tiny_recognizer(torch.float32).state_dict()
        case _:
            model = tiny_vit(head=True, dtype=torch.float32)
            model.config.save_pretrained(tmp_path)
            state = model.state_dict()
    head = next(name for name in state if name.endswith(("head.bias", "classifier.bias", "fc_cls.bias")))
    second = state | {head: state[head] + 1}
    path = tmp_path / "a.pth"
    torch.save(below("model.", state) | below(other, second), path)
    known = {"num_attention_heads": 2, "image_size": (8, 12), "num_frames": 3} if layout == "mmaction2" else {}
    both = rf"holds 2 models, under '{'(model|teacher.*|.*ema.*)'}\..*', '.*\.'"
    choice = "or choose with training_weights: ema or last"
    for weights in (None,) if is_ema else (None, "ema", "last"):
        with pytest.raises(CheckpointError, match=both) as error:
            load_checkpoint(path, training_weights=weights, **known)
        assert (choice in str(error.value)) == is_ema
        assert "\n" not in str(error.value)
    if not is_ema:
        return
    for weights, copy in (("ema", second), ("last", state)):
        checkpoint = load_checkpoint(path, training_weights=weights, **known)
        np.testing.assert_array_equal(checkpoint.params["classifier"]["bias"], copy[head])
        assert checkpoint.changes.dropped, "the other copy, by name"


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_a_moving_average_in_a_state_dict_of_its_own(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    state = original_state(original_reference(dtype=torch.float32), "")
    average = state | {"head.bias": state["head.bias"] + 1}
    path = tmp_path / "a.pyth"
    torch.save({"state_dict": state, key: average, "cfg": original_cfg(original_reference())}, path)
    for weights, expected, told in ((None, state, True), ("ema", average, False), ("last", state, False)):
        caplog.clear()
        checkpoint = load_checkpoint(path, training_weights=weights)
        np.testing.assert_array_equal(checkpoint.params["classifier"]["bias"], expected["head.bias"])
        assert (f"holds a moving average of the weights ('{key}')" in caplog.text) == told
    assert "of the last step; a moving average is there, too" in str(inspect_checkpoint(path))


def test_a_moving_average_that_is_not_there(tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="keeps no moving average"):
        load_checkpoint(tmp_path, training_weights="ema")
    save_safetensors(tmp_path, below("ema_model.", reference.state_dict()))
    with pytest.raises(CheckpointError, match="keeps none but a moving average"):
        load_checkpoint(tmp_path, training_weights="last")
    load_checkpoint(tmp_path, training_weights="ema")


def test_what_is_beside_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other modules are left out by name; a tensor of the module that holds the model is refused."""
    caplog.set_level(logging.WARNING)
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(tmp_path / "plain")
    reference.config.save_pretrained(tmp_path)
    state = below("model.", reference.state_dict()) | {"criterion.weight": torch.ones(7)}
    checkpoint = load_checkpoint(save_lightning(tmp_path, state))
    assert "dropped: criterion.weight" in caplog.text
    wanted = flat_names(load_checkpoint(tmp_path / "plain").params)
    for name, leaf in flat_names(checkpoint.params).items():
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)
    with pytest.raises(CheckpointError, match=r"unknown: prompt \(3,\)"):
        load_checkpoint(save_lightning(tmp_path, state | {"prompt": torch.ones(3)}))


def test_averaged_model_of_torch(tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.config.save_pretrained(tmp_path)
    averaged = torch.optim.swa_utils.AveragedModel(reference)
    torch.save(averaged.state_dict(), tmp_path / "swa.pt")
    assert load_checkpoint(tmp_path / "swa.pt").changes.dropped == ["n_averaged"]


def test_a_head_of_another_make_is_no_classifier(tmp_path: Path) -> None:
    """It may be for other features than CLS's: answers of it, or of a new one, would be wrong."""
    reference = tiny_reference(head=False, dtype=torch.float32)
    reference.config.save_pretrained(tmp_path)
    state = below("backbone.", reference.state_dict()) | {"head.weight": torch.ones(7, 24), "head.bias": torch.ones(7)}
    path = save_lightning(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"without a classifier of its own, beside head\.weight, head\.bias"):
        load_checkpoint(path, head=True)
    assert load_checkpoint(path, head=True, num_labels=4).changes.dropped == ["head.weight", "head.bias"]
    assert "classifier" not in load_checkpoint(path, head=False).params


def test_names() -> None:
    names = [
        "model.timesformer._orig_mod.a.b.weight",
        "module.a.module.b.weight",
        "xa.b.weight",
        "a.b.weight.c",
        "b.weight",
    ]
    assert prefixes_before(names, "a.b.weight") == ["model.timesformer._orig_mod.", "module."]
    assert around("model.timesformer._orig_mod.", "timesformer") == "model."
    assert around("module.", "timesformer") == "module."
    assert around("module.", None) == "module."
    assert around("", "timesformer") == ""
    assert around("a.module.b.", None) == "a.module."
    assert [is_average(p) for p in ("ema.", "model_ema.x.", "ema_model.", "EMA.", "schema.", "remap.", "")] == [
        *([True] * 4), *([False] * 3),
    ]  # fmt: skip
