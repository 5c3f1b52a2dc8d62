"""The output directory of Transformers' Trainer, and the sharded states of trainings that another tool has to merge."""

import re
from pathlib import Path

from ..errors import CheckpointError
from ..support.files import read_json
from ..support.progress import say
from .huggingface import find_weights
from .orbax_directory import is_converted

_STATE = "trainer_state.json"
_ADAPTER = "adapter_config.json"


def model_in_trainer_directory(path: Path) -> Path:
    """The directory whose model to take: this one, or a `checkpoint-N` in it. What is chosen is said.

    The model that `save_model` wrote into the directory itself comes first, as for Transformers' own
    `from_pretrained`. Without one the best checkpoint comes first, if the training kept a best one, then the newest.

    Raises:
        CheckpointError: a file that tells the state of the training can't be read.
    """
    steps = _checkpoints(path)
    if not steps:
        return path
    if find_weights(path) is not None or is_converted(path) or (path / _ADAPTER).is_file():
        say(f"{path}: the model in the directory itself is taken, not one of its {len(steps)} checkpoints.")
        return path
    newest = max(steps)
    # The Trainer writes its state last: a checkpoint without is one that was cut short, or copied in part.
    complete = [step for step in steps if (steps[step] / _STATE).is_file()] or list(steps)
    chosen = steps[max(complete)]
    best = _best(chosen)
    if best in [steps[step].name for step in complete]:
        say(f"{path}: its best checkpoint {best} is taken, as {chosen.name}/{_STATE} says.")
        return path / best
    reasons = [f"{steps[newest].name} is not complete"] if newest not in complete else []
    reasons += [f"its best one, {best}, is not there"] if best else ["it tells no best one"]
    say(f"{path}: its newest checkpoint {chosen.name} is taken; {' and '.join(reasons)}.")
    return chosen


def _checkpoints(path: Path) -> dict[int, Path]:
    """The checkpoints of a Trainer in a directory, by their steps."""
    found = {child: re.fullmatch(r"checkpoint-(\d+)", child.name) for child in path.iterdir()}
    return {int(match[1]): child for child, match in found.items() if match and child.is_dir()}


def _best(checkpoint: Path) -> str:
    """The name of the best checkpoint so far; "" where the state tells none."""
    state = checkpoint / _STATE
    best = read_json(state, CheckpointError).get("best_model_checkpoint") if state.is_file() else None
    # Where it was on the machine of the training, which may have been another, with other separators.
    return re.split(r"[\\/]", best.rstrip("\\/"))[-1] if isinstance(best, str) else ""


def require_merged(path: Path) -> None:
    """Checks that a file or directory is not a state that a training on several devices has split.

    Raises:
        CheckpointError: it is; the message names the tool that merges it.
    """
    inside = [child.name for child in path.iterdir()] if path.is_dir() else []
    names = [path.name, *inside]
    if any(name == "zero_to_fp32.py" or re.fullmatch(r"global_step\d+", name) for name in names) or any(
        re.fullmatch(r"\w*zero_pp_rank_\d+_mp_rank_\d+_\w+\.pt|mp_rank_\d+_model_states\.pt", name) for name in names
    ):
        raise CheckpointError(
            f"{path} holds DeepSpeed's state of a training, split over its devices; merge it with the zero_to_fp32.py "
            "that DeepSpeed left in the checkpoint (`python zero_to_fp32.py . OUTPUT`, run there), and give the result."
        )
    shards = [path] if _is_distributed(path) else []
    shards += [path / name for name in sorted(inside) if re.match(r"pytorch_model_fsdp_\d+$", name)]
    if not shards:
        return
    if (shards[0] / "meta.pt").is_file():
        tool = f"python -m lightning.pytorch.utilities.consolidate_checkpoint {shards[0]}"
    elif shards[0].name.startswith("pytorch_model_fsdp_"):
        tool = f"accelerate merge-weights {shards[0]} OUTPUT_DIRECTORY"
    else:
        place = shards[0] if shards[0].is_dir() else shards[0].parent
        tool = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {place} OUTPUT.pt"
    raise CheckpointError(
        f"{shards[0]} holds the shards of a distributed checkpoint of PyTorch (FSDP); merge them with `{tool}`, and "
        "give the result."
    )


def _is_distributed(path: Path) -> bool:
    if path.is_dir():
        return any(child.suffix == ".distcp" for child in path.iterdir())
    return path.suffix == ".distcp"
