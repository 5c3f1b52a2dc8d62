"""Exports run in a process that can't import this package, on any number of clips."""

import json
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
from timesformer_jax.inference.export import MODEL, SCRIPT, SETTINGS, WEIGHTS

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
        assert len((out / SCRIPT).read_text().splitlines()) <= 12
        exported = jax.export.deserialize(bytearray((out / MODEL).read_bytes()))
        assert exported.platforms == ("cpu", "cuda", "tpu")
        assert (out / MODEL).stat().st_size < 200_000, "weights are in the function"
        assert (out / WEIGHTS).is_file()


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
