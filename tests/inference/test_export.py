"""Exports run in a process that can't import this package, on any number of clips."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from pytorch import torch
from reference import tiny_reference
from tiny_flax import tiny_flax

from timesformer_jax import VideoClassifier, VideoProcessor
from timesformer_jax.cli import main
from timesformer_jax.inference.export import MODEL, SCRIPT, SETTINGS, WEIGHTS, guaranteed_until

# Nothing of this package's environment: the script is run as text, where importing the package fails.
WITHOUT = "import sys; sys.modules['timesformer_jax'] = sys.modules['flax'] = None; sys.argv = sys.argv[1:]; "
WITHOUT += "__file__ = sys.argv[0]; exec(open(__file__).read())"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    names = {i: f"class {i}" for i in range(7)}
    tiny_reference(dtype=torch.float32, id2label=names, label2id={v: k for k, v in names.items()}).save_pretrained(
        directory
    )
    return directory


@pytest.mark.parametrize(
    ("arguments", "bound"),
    # float32: the same operations, compiled apart. bfloat16 has 8 bits.
    [([], 1e-5), (["--dtype", "bfloat16", "--weights", "int8"], 0.1)],
)
def test_an_export_runs_without_this_package(
    arguments: list[str], bound: float, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    timesformer = str(Path(sys.executable).parent / "timesformer")  # (symbolic sizes are no int to the tests' checks)
    command = [timesformer, "export", str(checkpoint), str(out), *arguments]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stdout.split()[:2] == ["python", str(out / SCRIPT)]
    settings = json.loads((out / SETTINGS).read_text())
    assert settings["labels"] == [f"class {i}" for i in range(7)]
    clips = np.random.default_rng(0).integers(0, 256, (3, *settings["input"]["shape"][1:]), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    command = [sys.executable, "-c", WITHOUT, str(out / SCRIPT), str(tmp_path / "clips.npy")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    expected = VideoClassifier.from_pretrained(checkpoint).forward(clips)
    found = np.array([[float(value) for value in line.split()[2:]] for line in printed])
    np.testing.assert_allclose(found, expected, atol=bound * np.abs(expected).max())
    if not arguments:
        assert [line.split()[1] for line in printed] == [str(row.argmax()) for row in expected]
        assert len((out / SCRIPT).read_text().splitlines()) <= 22
        exported = jax.export.deserialize(bytearray((out / MODEL).read_bytes()))
        assert exported.platforms == ("cpu", "cuda", "tpu")
        made = settings["made_by_jax"]
        assert (made["version"], made["platforms"]) == (jax.__version__, ["cpu", "cuda", "tpu"])
        assert made["guaranteed_until"] == guaranteed_until(jax.__version__).isoformat()
        assert (out / MODEL).stat().st_size < 200_000, "weights are in the function"
        assert (out / WEIGHTS).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 2])
def test_exports_travel_between_versions_of_jax(batch_size: int | None, tmp_path: Path) -> None:
    """A newer JAX reads all; an older one what has a fixed batch, and it says in one sentence what it can't read."""
    other = os.environ.get("OTHER_JAX_PYTHON")
    if other is None:
        pytest.skip("OTHER_JAX_PYTHON names no Python with another version of JAX")
    version = subprocess.run(
        [other, "-c", "import jax; print(jax.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert version != jax.__version__
    out = tmp_path / "out"
    arguments = [] if batch_size is None else ["--batch-size", str(batch_size)]
    timesformer = str(Path(sys.executable).parent / "timesformer")
    subprocess.run([timesformer, "export", "motion-tiny", str(out), *arguments], capture_output=True, check=True)
    shape = json.loads((out / SETTINGS).read_text())["input"]["shape"]
    clips = np.random.default_rng(0).integers(0, 256, (2, *shape[1:]), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    command = [other, str(out / SCRIPT), str(tmp_path / "clips.npy")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    newer = [int(part) for part in version.split(".")[:2]] > [int(part) for part in jax.__version__.split(".")[:2]]
    if batch_size is None and not newer:
        assert run.returncode == 1
        assert run.stderr.splitlines()[-1] == (  # MLIR may print a line of its own before
            f"JAX {version} can't read this program of JAX {jax.__version__}; install JAX {jax.__version__} or a later "
            "one."
        )
        assert "Traceback" not in run.stderr
        return
    assert run.returncode == 0, run.stderr
    found = np.array([[float(value) for value in line.split()[1:]] for line in run.stdout.splitlines()])
    expected = VideoClassifier.from_pretrained("motion-tiny").forward(clips)
    # Two compilers order the same float32 sums differently.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 8, 32, 32, 3), "uint8"), ((2, 8, 32, 32, 3), "float32"), ((8, 32, 32, 3), "uint8")]
)
def test_clips_that_do_not_fit_end_in_one_sentence(
    shape: tuple[int, ...], dtype: str, fixed: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "clips.npy", np.zeros(shape, dtype))
    command = [sys.executable, str(fixed / SCRIPT), str(tmp_path / "clips.npy")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        f"{tmp_path / 'clips.npy'} holds {dtype} of shape {shape}; clips are uint8 of shape [2, 8, 32, 32, 3].\n"
    )


@pytest.mark.parametrize(
    ("version", "day"),
    [("0.10.2", "2026-12-17"), ("0.12.0", "2027-04-16"), ("0.12.0.1", "2027-04-16"), ("99.0", "2027-04-16")],
)
def test_the_guarantee_ends_six_months_after_the_release(version: str, day: str) -> None:
    """Of a version that is newer than the table, at least the newest one's day holds."""
    assert guaranteed_until(version) >= datetime.date.fromisoformat(day)
    if version.startswith("0."):
        assert guaranteed_until(version).isoformat() == day


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of two clips in a batch."""
    out = tmp_path_factory.mktemp("exports") / "fixed"
    timesformer = str(Path(sys.executable).parent / "timesformer")
    command = [timesformer, "export", "motion-tiny", str(out), "--batch-size", "2", "--platforms", "cpu"]
    subprocess.run(command, capture_output=True, check=True)
    return out


def test_an_empty_batch_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "motion-tiny", str(tmp_path / "out"), "--batch-size", "0"]) == 2
    assert "at least one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("attention_type", ["axial", "sparse_local_global"])
def test_schemes_that_transformers_has_not(attention_type: str, tmp_path: Path) -> None:
    """From a converted directory; an odd number of frames."""
    model, params = tiny_flax(attention_type, dtype=np.float32)
    model.save_converted(tmp_path / "model", params, processor=VideoProcessor(size=8, crop_size=(8, 16)))
    timesformer = str(Path(sys.executable).parent / "timesformer")
    command = [timesformer, "export", str(tmp_path / "model"), str(tmp_path / "out"), "--platforms", "cpu"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    clips = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 16, 3), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "out" / SCRIPT), str(tmp_path / "clips.npy")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    found = np.array([[float(value) for value in line.split()[1:]] for line in printed])
    expected = VideoClassifier.from_pretrained(tmp_path / "model").forward(clips)
    # float32: the same operations, compiled apart.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_nothing_is_replaced_unasked(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.txt").write_text("mine")
    assert main(["export", str(checkpoint), str(tmp_path), "--platforms", "cpu", "--overwrite"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "file.txt").read_text() == "mine"
