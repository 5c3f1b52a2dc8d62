"""Checkpoints: asynchronous saves hold what they were given, damage is noticed, the best and the last are kept."""

import gc
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timesformer_jax.checkpoints.fingerprints import different, fingerprints
from timesformer_jax.checkpoints.training_run import steps_in
from timesformer_jax.training.checkpointing import Checkpoints
from timesformer_jax.training.recipe import Checkpointing
from timesformer_jax.training.state import TrainState

# Orbax leaves coroutines behind that it never awaited when a checkpoint is damaged.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)


@pytest.fixture(autouse=True)
def collected() -> Any:
    """They are collected here, and not in the middle of another test."""
    yield
    gc.collect()


def state_at(step: int) -> TrainState:
    params = {"a": {"kernel": jnp.arange(3000.0).reshape(50, 60) + step, "bias": jnp.full((7,), float(step))}}
    trace = jax.tree.map(lambda leaf: -leaf, params)
    return TrainState(step=jnp.asarray(step, jnp.int32), params=params, optimizer=(trace,), ema=None)


def template() -> TrainState:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state_at(0))


def saved(directory: Path, steps: dict[int, float | None], keep: int = 10) -> Path:
    checkpoints = Checkpoints(directory / "checkpoints", Checkpointing(keep=keep))
    for step, validation in steps.items():
        checkpoints.save(state_at(step), {"data": {"step": step}})
        if validation is not None:
            checkpoints.accuracies[step] = validation
    checkpoints.wait()
    checkpoints.close()
    return directory / "checkpoints"


def restored(directory: Path) -> tuple[TrainState, dict[str, Any]] | None:
    return Checkpoints(directory, Checkpointing()).restore(template())


def test_a_save_is_not_touched_by_the_steps_after_it(tmp_path: Path) -> None:
    advance = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "checkpoints", Checkpointing(keep=10))
    state = state_at(0)
    for _ in range(4):
        state = advance(state)
        checkpoints.save(state, {})
        for _ in range(3):
            state = advance(state)
        state = jax.tree.map(lambda leaf: leaf - 3, state)
    checkpoints.wait()
    checkpoints.close()
    found = restored(tmp_path / "checkpoints")
    assert found is not None
    assert int(found[0].step) == 4
    np.testing.assert_array_equal(found[0].params["a"]["bias"], np.full(7, 4.0))


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    directory = saved(tmp_path, {1: 0.2, 2: 0.9, 3: None, 4: 0.5, 5: None, 6: 0.3, 7: None}, keep=2)
    assert steps_in(directory) == [2, 6, 7]
    # So they are when another process goes on.
    checkpoints = Checkpoints(directory, Checkpointing(keep=2))
    assert checkpoints.restore(template()) is not None
    checkpoints.accuracies |= {2: 0.9, 4: 0.5, 6: 0.3}
    checkpoints.save(state_at(8), {})
    checkpoints.wait()
    checkpoints.close()
    assert steps_in(directory) == [2, 7, 8]


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_damage_is_noticed_and_the_one_before_taken(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, {1: 0.5, 2: 0.6})
    # What the arrays are in; all other files are found by their own names.
    data = [path for path in files(tmp_path / "checkpoints" / "2") if path.parent.name == "d"]
    victim = max(data, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "removed":
        victim.unlink()
    else:
        victim.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    found = restored(tmp_path / "checkpoints")
    assert found is not None
    state, run = found
    assert run["data"] == {"step": 1}
    np.testing.assert_array_equal(state.params["a"]["kernel"], state_at(1).params["a"]["kernel"])
    assert "step 2 is damaged" in capsys.readouterr().err
    assert steps_in(tmp_path / "checkpoints") == [1]
    assert (tmp_path / "damaged" / "2").is_dir()


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Damage anywhere in a checkpoint: what is restored is what was saved, or the one before, and saving goes on."""
    saved(tmp_path / "origin", {1: 0.5, 2: 0.6})
    generator = np.random.default_rng(0)
    damaged = 0
    for number, file in enumerate(files(tmp_path / "origin" / "checkpoints")):
        run = tmp_path / str(number)
        shutil.copytree(tmp_path / "origin", run)
        victim = run / file.relative_to(tmp_path / "origin")
        content = bytearray(victim.read_bytes())
        content[generator.integers(len(content))] ^= 0x41
        victim.write_bytes(content)
        checkpoints = Checkpoints(run / "checkpoints", Checkpointing(keep=2))
        found = checkpoints.restore(template())
        if found is None:
            damaged += 1
            continue
        state, saved_run = found
        step = int(state.step)
        damaged += step == 1
        expected = state_at(step)
        assert not different(fingerprints(expected), fingerprints(state))
        assert saved_run["data"] == {"step": step}
        checkpoints.save(state_at(3), {})
        checkpoints.wait()
        checkpoints.close()
    assert damaged >= 3


def test_fingerprints_see_any_change() -> None:
    tree = {"a": jnp.arange(24.0).reshape(2, 3, 4), "b": jnp.arange(5, dtype=jnp.bfloat16), "c": jnp.int32(3)}
    before = fingerprints(tree)
    assert before.keys() == {"a", "b", "c"}
    swapped = tree | {"a": tree["a"].at[0, 0, 0].set(tree["a"][1, 2, 3]).at[1, 2, 3].set(tree["a"][0, 0, 0])}
    assert different(before, fingerprints(swapped)) == ["a"]
    assert different(before, fingerprints(tree | {"b": tree["b"].at[2].add(0.0625)})) == ["b"]
    assert different(before, fingerprints(tree | {"a": tree["a"].at[1, 0, 1].multiply(-1)})) == ["a"]
    assert different(before, fingerprints(tree | {"c": jnp.int32(4)})) == ["c"]
    assert different(before, {"a": before["a"]}) == ["b", "c"]


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert restored(tmp_path / "nowhere") is None


# Two processes restore what spreads over both; the second alone can't read its part of the last checkpoint.
RESTORE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from timesformer_jax.support.distributed import ProcessOptions, joined
from timesformer_jax.training.checkpointing import Checkpoints
from timesformer_jax.training.recipe import Checkpointing
from timesformer_jax.training.state import TrainState

address, index, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
with joined(ProcessOptions(coordinator=address, count=2, index=index)):
    spread = NamedSharding(jax.make_mesh((2,), ("x",)), PartitionSpec("x"))
    whole = NamedSharding(spread.mesh, PartitionSpec())

    def state_at(step):
        values = np.arange(6000.0, dtype=np.float32).reshape(100, 60) + step
        kernel = jax.make_array_from_callback(values.shape, spread, lambda part: values[part])
        number = jax.make_array_from_callback((), whole, lambda _: np.int32(step))
        return TrainState(step=number, params={"kernel": kernel}, optimizer=(), ema=None)

    checkpoints = Checkpoints(directory, Checkpointing(keep=10))
    for step in (1, 2):
        checkpoints.save(state_at(step), {"data": step})
    checkpoints.wait()
    checkpoints.close()
    if index == 1:  # the numbers are there in no other process
        read = Checkpoints._read
        def fails(self, path, template):
            if path.name == "2":
                raise OSError("bad block")
            return read(self, path, template)
        Checkpoints._read = fails
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))
    state, run = Checkpoints(directory, Checkpointing()).restore(template)
    (part,) = state.params["kernel"].addressable_shards
    assert float(part.data[0, 0]) == 3000 * index + 1
    print(int(state.step), run["data"])
"""


@pytest.mark.slow
def test_processes_agree_on_the_checkpoint_that_all_can_read(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    directory = tmp_path / "checkpoints"
    command = [sys.executable, "-c", RESTORE, address]
    both = [
        subprocess.Popen([*command, str(i), str(directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [out.splitlines()[-1:] for out, _ in said] == [["1 1"]] * 2, said  # Gloo has a line of its own
    assert "checkpoint of step 2 is damaged (another process can't read it)" in said[0][1]
    assert "damaged" not in said[1][1]
    assert (steps_in(directory), steps_in(tmp_path / "damaged")) == ([1], [2])
