"""The package as users have it: a fresh environment without torch, with the newest huggingface_hub and Transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytorch import torch
from reference import tiny_reference

from timesformer_jax import TimesformerConfig
from timesformer_jax.presets import PRESETS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True, timeout=120)
    python = directory / "bin" / "python"
    # Transformers' configs need no torch; its models are tried in test_conversion.py.
    packages = [str(ROOT), "transformers>=5", "pytest", "pytest-xdist", "beartype"]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True, timeout=600)
    return python


def run(python: Path, *arguments: Any, **environment: str) -> str:
    command = [python, *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_safetensors_load_without_torch(python: Path, tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(tmp_path / "safetensors")
    reference.save_pretrained(tmp_path / "bin", safe_serialization=False)
    script = """
import importlib.util, sys
assert importlib.util.find_spec("torch") is None
from timesformer_jax import TimesformerForVideoClassification
model, params = TimesformerForVideoClassification.from_pretrained(sys.argv[1] + "/safetensors")
print(float(params["classifier"]["bias"][3]))
try:
    TimesformerForVideoClassification.from_pretrained(sys.argv[1] + "/bin")
except ValueError as error:
    print(error)
"""
    value, error = run(python, "-c", script, tmp_path).strip().splitlines()
    assert float(value) == reference.classifier.bias[3].item()
    assert "is a PyTorch pickle, which only torch can read; install it" in error


def test_the_hub_s_tests_pass_with_the_newest_huggingface_hub(python: Path) -> None:
    version = run(python, "-c", "import huggingface_hub; print(huggingface_hub.__version__)")
    assert int(version.partition(".")[0]) >= 1
    printed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("test_hub.py"))
    assert " passed" in printed


def test_transformers_5_reads_what_is_written_and_writes_what_is_read(python: Path, tmp_path: Path) -> None:
    configs = {name: TimesformerConfig.preset(name) for name in PRESETS} | {
        "other": TimesformerConfig(
            image_size=(12, 20),
            patch_size=(4, 5),
            drop_path_rate=0.1,
            hidden_dropout_prob=0,
            initializer_range=0,
            layer_norm_eps=1,
            id2label={0: "a", 1: "b", 2: "c"},
            problem_type="regression",
            attention_type="joint_space_time",
        ),
        "no classes": TimesformerConfig(num_labels=0),
    }
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        config.save_json_file(tmp_path / name / "config.json")
    script = """
import json, pathlib, sys
import transformers
assert transformers.__version__.startswith("5.")
for file in pathlib.Path(sys.argv[1]).glob("*/config.json"):
    config = transformers.TimesformerConfig.from_pretrained(file.parent)
    config.save_pretrained(file.parent / "again")
    print(json.dumps([file.parent.name, config.num_labels, config.hidden_size, config.image_size]))
"""
    seen = [json.loads(line) for line in run(python, "-c", script, tmp_path).splitlines()]
    assert {name for name, *_ in seen} == set(configs)
    for name, num_labels, hidden_size, image_size in seen:
        config = configs[name]
        assert (num_labels, hidden_size) == (config.num_labels, config.hidden_size)
        assert image_size == (list(config.image_size) if isinstance(config.image_size, tuple) else config.image_size)
        again = TimesformerConfig.from_json_file(tmp_path / name / "again" / "config.json")
        assert again.replace(extra={}) == config
