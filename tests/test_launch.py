"""The launch scripts, with stand-ins for the commands that need a cloud or a cluster."""

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from timesformer_jax.cli import parse_command
from timesformer_jax.commands.train import Train

LAUNCH = Path(__file__).parents[1] / "launch"
OPTIONS = ["large-k400", "--data.train", "my videos/train.csv", "--mesh.frames", "8"]


def parsed(arguments: list[str]) -> Train:
    return parse_command(arguments)


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """Programs that note how they were called, and succeed."""
    for name in ("gcloud", "srun"):
        program = tmp_path / name
        program.write_text(
            f"""#!/usr/bin/env bash
printf '%s\\0' {name} "$@" >> {tmp_path}/calls; printf '\\036' >> {tmp_path}/calls
case "$*" in
  *'value(state.state)'*) echo ACTIVE ;;
  *describe*) exit 1 ;;
esac
read -r code 2> /dev/null < {tmp_path}/code && sed -i 1d {tmp_path}/code
exit "${{code:-0}}"
"""
        )
        program.chmod(0o755)
    return tmp_path


def run(script: str, stand_ins: Path, **environment: str) -> tuple[int, list[list[str]]]:
    """Exit code and calls of a script."""
    path = f"{stand_ins}:{Path(shutil.which('bash') or '').parent}:/usr/bin:/bin"
    command = ["bash", str(LAUNCH / script), *OPTIONS]
    result = subprocess.run(command, env={"PATH": path, **environment}, capture_output=True, text=True, check=False)
    calls = (stand_ins / "calls").read_text().split("\x1e")[:-1] if (stand_ins / "calls").exists() else []
    return result.returncode, [call.split("\0")[:-1] for call in calls]


def options_at_the_other_end(command: str) -> list[str]:
    """What the shell of the other machine makes of the last line that it is sent."""
    line = next(line for line in command.splitlines() if "timesformer train" in line)
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return split.stdout.split("\0")[1:-1]


def test_one_tpu_vm_is_made_and_removed(stand_ins: Path) -> None:
    assert run("tpu_vm.sh", stand_ins)[0] != 0  # without a zone
    code, calls = run("tpu_vm.sh", stand_ins, ZONE="z", BUCKET="gs://b", HOME="/h")
    assert code == 0
    assert [call[4] for call in calls] == ["describe", "create", "ssh", "delete"]
    train = parsed(options_at_the_other_end(calls[2][-1]))
    assert train.config.data.train == "my videos/train.csv"
    assert train.output == Path("/mnt/run/timesformer")


def test_a_queued_resource_is_asked_for_and_given_back(stand_ins: Path) -> None:
    code, calls = run("tpu_queued.sh", stand_ins, ZONE="z", BUCKET="gs://b", HOME="/h")
    assert code == 0
    queued, direct = "queued-resources", "tpu-vm"
    assert [(call[3], call[4]) for call in calls] == [
        (queued, "describe"),
        (queued, "create"),
        (queued, "describe"),
        (direct, "describe"),
        (direct, "create"),  # the stand-in has no VM, whatever was asked for
        (direct, "ssh"),
        (queued, "delete"),
    ]


@pytest.mark.parametrize(
    ("codes", "attempts", "expected"), [([0], 1, 0), ([1, 0], 2, 0), ([1, 137, 1], 3, 1), ([2], 1, 2)]
)
def test_slurm_starts_all_again_unless_the_input_is_bad(
    codes: list[int], attempts: int, expected: int, stand_ins: Path
) -> None:
    (stand_ins / "code").write_text("".join(f"{code}\n" for code in codes))
    code, calls = run("gpu_slurm.sh", stand_ins)
    assert (code, len(calls)) == (expected, attempts)
    _, _, program, *arguments = calls[0]
    train = parsed([*arguments, "--output", "run"])
    assert program == "timesformer"
    assert train.processes.cluster == "slurm"
    assert train.config.data.train == "my videos/train.csv"


@pytest.mark.parametrize(("file", "devices_per_chip"), [("tpu_gke.yaml", 1), ("tpu7x_gke.yaml", 2)])
def test_gke_asks_for_the_chips_that_the_mesh_has(file: str, devices_per_chip: int) -> None:
    service, job = yaml.safe_load_all((LAUNCH / file).read_text())
    template: Any = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    topology = template["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = job["spec"]["completions"] * container["resources"]["limits"]["google.com/tpu"]
    assert chips == math.prod(map(int, topology.split("x")))
    assert template["subdomain"] == service["metadata"]["name"]
    program, *arguments = container["command"]
    config = parsed(arguments).config
    assert program == "timesformer"
    data, fsdp, _, _ = config.mesh.shape(chips * devices_per_chip)
    assert config.batch_size % (data * fsdp) == 0
