"""How much memory the base model takes to load and to convert, beyond what the imports take."""

import subprocess
import sys
from pathlib import Path

import pytest
from pytorch import torch, transformers

from timesformer_jax.conversion.convert import convert_hf_to_flax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc"),
]

# VmHWM and not ru_maxrss, which a process inherits from the one that started it.
SCRIPT = """
import sys
from pathlib import Path
import jax, numpy, orbax.checkpoint, huggingface_hub.serialization, safetensors.numpy, tensorstore
import timesformer_jax, timesformer_jax.conversion.convert
if {torch}:
    import torch, torch.utils.serialization
jax.numpy.zeros(3).block_until_ready()

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

source, target = sys.argv[1:]
before = peak()
{work}
print("peak", peak() - before)
"""
LOAD = """
_, params = timesformer_jax.TimesformerForVideoClassification.from_pretrained(source)
jax.block_until_ready(params)
"""
TO_FLAX = "timesformer_jax.conversion.convert.convert_hf_to_flax(source, target)"
TO_HF = "timesformer_jax.conversion.convert.convert_flax_to_hf(source, target)"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model in every format."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(num_labels=400))
    model.save_pretrained(directory / "safetensors")
    model.save_pretrained(directory / "sharded", max_shard_size="100MB")
    model.save_pretrained(directory / "bin", safe_serialization=False)
    model.save_pretrained(directory / "sharded bin", safe_serialization=False, max_shard_size="100MB")
    convert_hf_to_flax(directory / "safetensors", directory / "converted")
    return directory


def peak_ratio(base: Path, kind: str, work: str) -> float:
    """The largest memory that some work takes in a process of its own, relative to the size of the file."""
    script = SCRIPT.format(torch="bin" in kind, work=work)
    command = [sys.executable, "-c", script, str(base / kind), str(base / f"target of {kind}")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    size = (base / "safetensors" / "model.safetensors").stat().st_size
    assert size > 480e6
    return int(done.stdout.split("peak")[1]) / size


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "sharded bin", "converted"])
def test_loading(base: Path, kind: str) -> None:
    assert peak_ratio(base, kind, LOAD) <= 1.2


@pytest.mark.parametrize("kind", ["safetensors", "sharded bin"])
def test_converting(base: Path, kind: str) -> None:
    assert peak_ratio(base, kind, TO_FLAX) <= 2.2


def test_converting_back(base: Path) -> None:
    assert peak_ratio(base, "converted", TO_HF) <= 2.2


def test_the_measure_itself(base: Path) -> None:
    assert 1 <= peak_ratio(base, "safetensors", "data = Path(source, 'model.safetensors').read_bytes()") < 1.05
