"""The benchmark for GPUs runs whole, on a CPU with a tiny model; what it measures there means nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_runs_whole(part: int, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="it compares with PyTorch")
    command = [sys.executable, str(BENCHMARK), "--part", str(part), "--tiny", "--json", str(tmp_path / "found.json")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["card"] == "CPU"
    found = content["found"]
    if part == 1:
        assert found[0]["float32"] < 1e-5  # the same sums of float32
    else:
        rows = found if part == 2 else found["training"]
        assert {"model", "eager", "compiled", "clips a second"} <= rows[0].keys()
    if part == 3:
        assert [row["tokens"] for row in found["attention"]] == [8]


def test_without_a_gpu_it_says_so() -> None:
    pytest.importorskip("torch", reason="it compares with PyTorch")
    run = subprocess.run([sys.executable, str(BENCHMARK), "--part", "1"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "PyTorch sees no GPU; --tiny runs a tiny model on the CPU" in run.stderr
