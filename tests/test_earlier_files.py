"""What an earlier version wrote goes on loading, and gives what it gave then; earlier/make.py says how it was made."""

import datetime
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from earlier.small_run import make_pictures, recipe
from reference import FLOAT64_TOLERANCE, assert_close
from runs import finish, start

from timesformer_jax import TimesformerForVideoClassification, VideoClassifier
from timesformer_jax.checkpoints import load_checkpoint
from timesformer_jax.support.files import read_lines
from timesformer_jax.video.sampling import evenly_spread_indices

FILES = Path(__file__).parent / "earlier"

EXPORTED_BY = (0, 10, 2)
GUARANTEED_UNTIL = datetime.date(2026, 12, 17)
"""What jax.export writes is read by every JAX that is built in the six months after the one that wrote it.

(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees; 0.10.2 is of 17 June 2026.)
"""


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """Clips, and the logits of then."""
    with np.load(FILES / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[str], Path]:
    """Unpacks an archive of this name; gives its directory."""

    def unpack(name: str) -> Path:
        shutil.unpack_archive(FILES / f"{name}.zip", tmp_path)
        return tmp_path / name

    return unpack


def float64_logits(checkpoint: Path, clips: np.ndarray, **options: Any) -> np.ndarray:
    """The logits of a checkpoint."""
    model, params = TimesformerForVideoClassification.from_pretrained(
        checkpoint, dtype=np.float64, param_dtype=np.float64, **options
    )
    return np.asarray(model.apply({"params": params}, (clips / 255 - 0.5) / 0.25).logits)


@pytest.mark.usefixtures("x64")
def test_a_converted_directory(unpacked: Callable[[str], Path], expected: dict[str, np.ndarray]) -> None:
    converted = unpacked("converted")
    found = float64_logits(converted, expected["clips"])
    assert_close(found, expected["converted"], FLOAT64_TOLERANCE, "the logits")


def test_preprocessing_and_labels_of_a_converted_directory(
    unpacked: Callable[[str], Path], expected: dict[str, np.ndarray]
) -> None:
    classify = VideoClassifier.from_pretrained(unpacked("converted"))
    # That version spread even a clip over its parts; now it is taken as it is, so it gets the frames that were taken.
    clips = expected["clips"][:, evenly_spread_indices(4, 4)]
    # float32: the same sums of some dozen terms, in an order that is the compiler's.
    assert_close(classify.logits(list(clips)), expected["classifier"], 1e-5, "the logits")
    names = [predictions[0].label for predictions in classify(list(expected["clips"]))]
    assert names == [f"class {number}" for number in expected["classifier"].argmax(axis=1)]


def test_a_tree_of_parameters_that_was_kept_without_this_package(unpacked: Callable[[str], Path]) -> None:
    converted = unpacked("converted")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restore = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            checkpointer.metadata(converted / "params").item_metadata.tree,
        )
        kept = checkpointer.restore(converted / "params", args=ocp.args.PyTreeRestore(restore_args=restore))
    loaded = load_checkpoint(converted)
    model = TimesformerForVideoClassification(loaded.config)
    wanted = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4, 15, 15, 3), np.float32))["params"]
    shapes = [jax.tree.map(np.shape, tree) for tree in (kept, loaded.params, wanted)]
    assert shapes[0] == shapes[1] == shapes[2]
    jax.tree.map(np.testing.assert_array_equal, kept, loaded.params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weights", ["ema", "last"])
def test_the_parameters_of_a_run(
    weights: str, unpacked: Callable[[str], Path], expected: dict[str, np.ndarray]
) -> None:
    found = float64_logits(unpacked("run"), expected["clips"][:, :3, :8, :8], training_weights=weights)
    assert_close(found, expected[weights], FLOAT64_TOLERANCE, "the logits")


def test_a_run_goes_on_where_it_was_stopped(unpacked: Callable[[str], Path], tmp_path: Path) -> None:
    run = unpacked("run")
    before = (run / "metrics.jsonl").read_bytes()
    make_pictures(tmp_path / "videos")
    process = start(recipe(str(tmp_path / "videos")), run, tmp_path / "compiled", environment={"JAX_PLATFORMS": "cpu"})
    assert "going on after step 5 of 8" in finish(process)  # not anew, which would give the same numbers
    assert (run / "metrics.jsonl").read_bytes().startswith(before)
    found, wanted = read_lines(run / "metrics.jsonl"), read_lines(FILES / "metrics.jsonl")
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for line, expected_line in zip(found, wanted, strict=True):
        # float32: other instructions and optimisations, which sum in other orders, differ by up to 2.3e-6. (The clips
        # are the same: PNG files keep every pixel.)
        assert line == pytest.approx(expected_line, rel=5e-5)


def test_an_export(unpacked: Callable[[str], Path], expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    if jax.__version_info__ < EXPORTED_BY:
        pytest.skip(f"JAX {jax.__version__} is older than the one that wrote the export, which it need not read.")
    if jax.__version_info__ > EXPORTED_BY and datetime.datetime.now(datetime.UTC).date() > GUARANTEED_UNTIL:
        pytest.skip(f"JAX {jax.__version__} may be newer than {GUARANTEED_UNTIL}, up to when the export can be read.")
    exported = unpacked("exported")
    np.save(tmp_path / "clips.npy", expected["clips"])
    command = [sys.executable, exported / "run.py", "clips.npy"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    rows = [line.rsplit(maxsplit=7) for line in printed.splitlines()]
    # float32: the same operations, compiled anew.
    assert_close(np.array([row[1:] for row in rows], float), expected["exported"], 1e-5, "the logits")
    assert [row[0] for row in rows] == [f"class {number}" for number in expected["exported"].argmax(axis=1)]
