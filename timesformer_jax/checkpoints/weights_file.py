"""Opens weights files: their tensors, not yet read, and the notes that training left beside them."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from ..errors import CheckpointError
from .prefixes import is_average, prefixes_before, without_wrappers
from .tensors import Shapes, Tensors, load_pickle, open_tensors, pickled_tensors
from .training_run import TrainingWeights

logger = logging.getLogger("timesformer_jax")

_WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict")
"""Where training codes put a state dict among their other notes (the original, timm, DeiT and MAE, plain PyTorch)."""

_AVERAGES = ("state_dict_ema", "model_ema", "model_state_ema", "ema_state_dict")
"""Where they put its moving average, if they keep one. mmengine's file has the two in each other's place."""

_COUNTERS = ("n_averaged", "steps")
"""How many steps a moving average has seen, in the averaged models of PyTorch and mmengine."""

_NOTES = ("cfg", "epoch", "meta")


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """An opened weights file.

    Attributes:
        path: the file, or the index of its shards.
        tensors: the tensors by the names that they have in the file.
        wrapper: the key of a pickle that holds the state dict; None where the pickle is one.
        notes: the pickle's other entries "cfg", "epoch" and "meta".
        weights: which of a file's two copies of a model is wanted, its moving average or the last step's.
        average: whether the state dict is a moving average; None where the file has none beside another.
        root: the prefix that all tensors have, those of the classifier, too.
    """

    path: Path
    tensors: Tensors
    wrapper: str | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: TrainingWeights | None = None
    average: bool | None = None
    root: str = ""

    @property
    def shapes(self) -> Shapes:
        """Shape and type of each tensor."""
        return {name: (tensor.shape, tensor.dtype or "unknown type") for name, tensor in self.tensors.items()}

    @property
    def facts(self) -> dict[str, str]:
        """The notes that training left beside the tensors, in words."""
        facts, meta = {}, self.notes.get("meta")
        epoch = self.notes.get("epoch", meta.get("epoch") if isinstance(meta, Mapping) else None)
        if isinstance(epoch, int):
            facts["training"] = f"saved after epoch {epoch}"
        if self.wrapper is not None:
            facts["state dict"] = f"in {self.wrapper!r}"
        if self.average is not None:
            facts["weights"] = "moving average" if self.average else "of the last step; a moving average is there, too"
        return facts

    def prefix_before(self, name: str) -> str | None:
        """The prefix of a name among those of the tensors, such as "module.model."; None if the name is not there.

        Raises:
            CheckpointError: the name is there more than once, so that the file holds several models, and `weights`
                does not say which; or it asks for a moving average that is not there.
        """
        prefixes = prefixes_before(self.tensors, name)
        averages = [prefix for prefix in prefixes if is_average(prefix)]
        has_both = len(prefixes) == 2 and len(averages) == 1
        if has_both and self.weights is not None:
            return next(prefix for prefix in prefixes if is_average(prefix) == (self.weights == "ema"))
        if len(prefixes) > 1:
            choice = ", or choose with training_weights: ema or last" if has_both else ""
            raise CheckpointError(
                f"{self.path} holds {len(prefixes)} models, under {', '.join(map(repr, prefixes))}; save one of them "
                f"by itself{choice}."
            )
        if prefixes and self.weights is not None and (self.weights == "ema") != bool(averages or self.average):
            there = "none but a" if self.weights == "last" else "no"
            raise CheckpointError(f"{self.path} keeps {there} moving average of the weights (training_weights).")
        return prefixes[0] if prefixes else None

    def without_prefix(self, prefix: str) -> Tensors:
        """The tensors without a prefix (the others without `root`), and without wrappers such as "_orig_mod.".

        Raises:
            CheckpointError: two tensors would get the same name.
        """
        tensors: Tensors = {}
        for name, tensor in self.tensors.items():
            inner = self._inner_name(name, prefix)
            if inner in tensors:
                raise CheckpointError(f"{self.path} holds {inner} twice, with different prefixes.")
            tensors[inner] = tensor
        return tensors

    def naming(self, prefix: str) -> Callable[[str], str]:
        """A function that gives the name in the file for one that `without_prefix` gave, or would give."""
        names = {self._inner_name(name, prefix): name for name in self.tensors}
        return lambda name: names.get(name, prefix + name)

    def _inner_name(self, name: str, prefix: str) -> str:
        return without_wrappers(name.removeprefix(prefix if name.startswith(prefix) else self.root))

    def below(self, root: str) -> tuple[Self, tuple[str, ...]]:
        """The file without the modules beside the one that has a prefix, and the names of the tensors left out.

        A tensor that is in no module stays: it belongs to the module that holds the model, and the model has no place
        for it. Counters of moving averages compute nothing.
        """
        others = tuple(
            name for name in self.tensors if not name.startswith(root) and ("." in name or name in _COUNTERS)
        )
        inside = {name: tensor for name, tensor in self.tensors.items() if name not in others}
        return dataclasses.replace(self, tensors=inside, root=root), others


def open_weights_file(path: Path, weights: TrainingWeights | None = None) -> WeightsFile:
    """Opens a weights file of any format.

    Args:
        path: the file, or the index of its shards.
        weights: which copy of the model to take where there are a moving average and that of the last step; None takes
            what the code that wrote the file loads first, with a warning, if each is a state dict by itself.

    Raises:
        CheckpointError: the file is damaged, or holds no tensors.
    """
    if path.name.endswith((".index.json", ".safetensors")):
        return WeightsFile(path, open_tensors(path), weights=weights)
    contents = load_pickle(path)
    wrapper, average = (
        next((key for key in keys if isinstance(contents.get(key), Mapping) and contents[key]), None)
        for keys in (_WRAPPERS, _AVERAGES)
    )
    if wrapper is None and average is None:
        return WeightsFile(path, pickled_tensors(path, contents), weights=weights)
    chosen, is_ema = _choose(path, wrapper, average, weights)
    # The optimizer's state, as large as the weights, is left in the file.
    notes = {key: contents[key] for key in _NOTES if key in contents}
    return WeightsFile(path, pickled_tensors(path, contents, chosen), chosen, notes, weights, is_ema)


def _choose(
    path: Path, wrapper: str | None, average: str | None, weights: TrainingWeights | None
) -> tuple[str, bool | None]:
    """The key of the state dict to take, and whether it is the moving average."""
    if wrapper is None or average is None:
        return (wrapper, None) if wrapper is not None else (str(average), True)
    last, ema = (average, wrapper) if average == "ema_state_dict" else (wrapper, average)
    if weights is None:
        logger.warning(
            "%s holds a moving average of the weights (%r) and those of the last step (%r); %r is taken, "
            "training_weights chooses the other",
            *(path, ema, last, wrapper),
        )
        return wrapper, wrapper == ema
    return (ema, True) if weights == "ema" else (last, False)
