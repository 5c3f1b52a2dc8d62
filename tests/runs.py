"""Training runs for the tests: tiny videos, a tiny recipe, and the command in a process that can be killed."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from videos import moving_pictures, write_video

from timesformer_jax.data.config import Augmentation, DataConfig
from timesformer_jax.support.files import read_lines
from timesformer_jax.training.recipe import Checkpointing, ModelOptions, Optimizer, Schedule, TrainConfig

MODEL = ModelOptions(
    num_frames=3,
    image_size=8,
    patch_size=4,
    sampling_rate=2,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
)


def make_videos(directory: Path, classes: int = 3, training: int = 4, validation: int = 2) -> None:
    """Folders of class folders: `train` and `validation`."""
    for split, count in (("train", training), ("validation", validation)):
        for label in range(classes):
            folder = directory / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + number + (50 if split == "validation" else 0)
                write_video(folder / f"{number}.mp4", moving_pictures(12, 16, 20, seed=seed))


def recipe(videos: Path, **changes: Any) -> TrainConfig:
    """A recipe that uses most of what there is."""
    config = TrainConfig(
        data=DataConfig(
            train=str(videos / "train"),
            validation=str(videos / "validation"),
            workers=0,
            augmentation=Augmentation(short_side=(9, 12), mixup=0.4, label_smoothing=0.1),
        ),
        model=MODEL,
        optimizer=Optimizer(kind="adamw", learning_rate=3e-3, clip_norm=1.0, ema_decay=0.9, layer_decay=0.9),
        schedule=Schedule(kind="cosine", warmup_epochs=1),
        checkpoints=Checkpointing(every=4, validate_every=3),
        batch_size=4,
        accumulation=2,
        steps=12,
        log_every=3,
    )
    return dataclasses.replace(config, **changes)


def arguments(config: TrainConfig, preset: str = "base-k400") -> list[str]:
    """The options of `timesformer train` that make a recipe."""

    def options(value: Any, prefix: str) -> list[str]:
        listed: list[str] = []
        for field in dataclasses.fields(value):
            part, name = getattr(value, field.name), f"--{prefix}{field.name}".replace("_", "-")
            if dataclasses.is_dataclass(part):
                listed += options(part, f"{prefix}{field.name}.")
            elif isinstance(part, tuple):
                listed += [name, *map(str, part)]
            elif isinstance(part, bool):
                listed.append(name if part else f"{name[:2]}{prefix}no-{field.name}".replace("_", "-"))
            else:
                listed += [name, str(part)]
        return listed

    return [preset, *options(config, "")]


def start(config: TrainConfig, run: Path, cache: Path, **options: Any) -> subprocess.Popen[str]:
    """The command, in a new process.

    Args:
        config: the recipe.
        run: the run directory.
        cache: of compiled programs, so that only the first process compiles.
        **options: of Popen; `environment` adds variables.
    """
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    environment |= options.pop("environment", {})
    command = [sys.executable, "-m", "timesformer_jax.cli", "train", "--output", str(run), *arguments(config)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a process that must end well; what it said."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


def wait_for(process: subprocess.Popen[str], event: Callable[[], bool]) -> bool:
    """Whether an event came before the process ended."""
    deadline = time.monotonic() + 300
    while not event():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)
    return True


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a process as a power cut would."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def steps_taken(run: Path) -> int:
    """The last step that is noted in a run."""
    lines = read_lines(run / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


def is_saving(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any("tmp" in path.name for path in (run / "checkpoints").glob("*"))


def kill_while_saving(process: subprocess.Popen[str], run: Path) -> bool:
    """Kills a process with a checkpoint half written; whether that succeeded before it ended by itself."""
    while wait_for(process, lambda: is_saving(run)):
        process.send_signal(signal.SIGSTOP)  # so that it can't get done between the look and the kill
        if is_saving(run):
            kill(process)
            return True
        process.send_signal(signal.SIGCONT)
    return False


def outcome(run: Path) -> dict[str, bytes]:
    """What must be equal bit for bit: final parameters, the whole final state, and metrics."""
    last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return {
        "parameters": (run / "export" / "model.safetensors").read_bytes(),
        "state": (last / "run" / "metadata").read_bytes(),  # the fingerprint of each array
        "metrics": (run / "metrics.jsonl").read_bytes(),
    }


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny videos of three classes."""
    directory = tmp_path_factory.mktemp("videos")
    make_videos(directory)
    return directory


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs."""
    return tmp_path_factory.mktemp("compiled")
