"""A tour of the commands with all warnings shown: none of what this package calls is deprecated by its dependencies.

(The other tests turn warnings into errors, but run in one process, where a library warns once or not at all.)
"""

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

COMMANDS = """
timesformer motion clips --train 16 --test 8 --task.size 32
timesformer train motion --output run --data.train clips/train --data.validation clips/test --steps 2 --batch-size 8
timesformer evaluate run --data.validation clips/test
timesformer pack clips/test packed
timesformer classify clips/test/down/00002.mp4 --model motion-tiny
timesformer features clips/test/down/00002.mp4 --model motion-tiny --out features.npz
timesformer visualize clips/test/down/00002.mp4 --model motion-tiny --out picture.png
timesformer export motion-tiny exported --platforms cpu
timesformer inspect motion-tiny
convert_flax_to_hf motion-tiny transformers
convert_hf_to_flax transformers converted
"""

WARNING = re.compile(
    r"^(?P<file>\S+\.py):\d+: (?P<category>(?:Pending)?DeprecationWarning|FutureWarning): (?P<message>.*)$",
    re.MULTILINE,
)


def package_of(file: str) -> str:
    """The package that a file belongs to."""
    _, _, inside = file.rpartition("site-packages/")
    return inside.partition("/")[0]


@pytest.mark.slow
def test_no_command_shows_a_deprecation(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONWARNINGS": "default", "JAX_PLATFORMS": "cpu"}
    found: dict[str, set[str]] = collections.defaultdict(set)
    for line in COMMANDS.strip().splitlines():
        command, *arguments = line.split()
        run = subprocess.run(
            [str(BIN / command), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{line}\n{run.stderr}"
        for warning in WARNING.finditer(run.stderr):
            found[package_of(warning["file"])].add(f"{warning['category']}: {warning['message']}")
    assert not found, "\n".join(f"{package}: {message}" for package in sorted(found) for message in found[package])
