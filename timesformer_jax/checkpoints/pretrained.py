"""The methods by which models and checkpoints meet: `from_pretrained`, `save_pretrained` and their relatives."""

import logging
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ..config import AttentionImplementation, TimesformerConfig
from ..errors import CheckpointError
from ..support.dtypes import require_x64
from ..support.files import fill_directory, write_atomically
from ..video.processing import VideoProcessor
from .hub import HubOptions, upload
from .huggingface import is_weights_file, require_known, require_params, save_state_dict
from .mapping import Params
from .model_card import model_card
from .open import Checkpoint, load_checkpoint
from .orbax_directory import is_converted, save_params
from .source import Source

logger = logging.getLogger("timesformer_jax")


class PretrainedModel:
    """A base class of the Flax modules whose parameters checkpoints hold."""

    config: TimesformerConfig

    has_head: ClassVar[bool]
    """Whether the parameters include the classifier."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str] | Source,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike | None = None,
        precision: jax.lax.PrecisionLike = None,
        attention_implementation: AttentionImplementation = "auto",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> tuple[Self, Params]:
        """Makes a model and its parameters from a checkpoint.

        Args:
            source: a Hub id, a Transformers directory or weights file (safetensors, sharded or not, or .bin), a
                directory that `convert_hf_to_flax` wrote, an original .pyth file, a checkpoint of mmaction2 or
                Lightning, a Trainer's output directory, a ViT to start training from, or a LoRA adapter of PEFT's,
                which is merged into its base.
            dtype: the type of the computation.
            param_dtype: the type of the parameters; None keeps the file's own.
            precision: the precision of matrix products; "highest" for parity on a TPU or a recent GPU.
            attention_implementation: "auto", "plain", "blocks" (memory in proportion to the tokens) or "cudnn"; see
                `choose_implementation` in kernels/choice.py.
            revision: branch, tag or commit of a Hub repository.
            token: for private and gated Hub repositories.
            cache_dir: where Hub downloads are kept.
            local_files_only: never ask the Hub, use what was downloaded before.
            **overrides: config fields to change, such as `num_labels`, `num_frames`, `image_size`, `attention_type`.
                Embeddings are resized, a classifier of another size is made anew; the names of both are logged as a
                warning. Further arguments of `load_checkpoint`: `labels`, `channel_order`, `resize`, `patch_order`,
                `base`.

        Returns:
            The module, and a tree of arrays for `model.apply({"params": params}, ...)`.

        Raises:
            CheckpointError: the checkpoint is missing, damaged or not what its config describes.
            ConfigError: its config, or an override, is impossible; or float64 is asked for while jax_enable_x64 is off.
        """
        require_x64(dtype, param_dtype)
        hub = HubOptions(revision, token, None if cache_dir is None else Path(cache_dir), local_files_only)
        storage = None if param_dtype is None else np.dtype(jnp.dtype(param_dtype))
        checkpoint = load_checkpoint(source, head=cls.has_head, dtype=storage, hub=hub, **overrides)
        if checkpoint.unknown_order is not None:  # the model runs without, frames don't
            logger.warning("%s", checkpoint.unknown_order)
        return cls.from_checkpoint(
            checkpoint, dtype=dtype, precision=precision, attention_implementation=attention_implementation
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: DTypeLike = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        attention_implementation: AttentionImplementation = "auto",
    ) -> tuple[Self, Params]:
        """Makes a model and its parameters, on the device, from a checkpoint in memory, which gives its arrays away.

        Args:
            checkpoint: the checkpoint, which holds the parameters of this class of model.
            dtype: as for `from_pretrained`.
            precision: as for `from_pretrained`.
            attention_implementation: as for `from_pretrained`.
        """
        require_x64(*{leaf.dtype for leaf in jax.tree.leaves(checkpoint.params)})
        params = _to_device(checkpoint.params)
        module: Any = cls
        param_dtype = jax.tree.leaves(params)[0].dtype
        return module(
            checkpoint.config,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            attention_implementation=attention_implementation,
        ), params

    def save_pretrained(
        self,
        directory: str | PathLike[str],
        params: Params,
        *,
        processor: VideoProcessor | None = None,
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Writes what Transformers loads: config.json, the weights in safetensors, preprocessing and a model card.

        Args:
            directory: where the files go. Once they are complete, they replace those of an earlier checkpoint in it;
                others stay.
            params: the parameters.
            processor: the preprocessing, for preprocessor_config.json; left out when None.
            max_shard_size: bytes, or a text such as "500MB", above which the weights are cut into several files.

        Raises:
            CheckpointError: the parameters are not this model's, or Transformers has no such model (see
                `save_converted`).
        """
        require_known(self.config)
        self._say_other_size(processor)
        with fill_directory(Path(directory), stale=is_weights_file) as temporary:
            save_state_dict(temporary, params, self.config, max_shard_size)
            if processor is not None:
                processor.save_pretrained(temporary)
            (temporary / "README.md").write_text(model_card(self.config, params), encoding="utf-8")

    def save_converted(
        self, directory: str | PathLike[str], params: Params, *, processor: VideoProcessor | None = None
    ) -> None:
        """Writes a directory for `from_pretrained` as `convert_hf_to_flax` does: in Orbax, for any model.

        Args:
            directory: the directory, which is written as a whole or not at all. It may replace a converted directory.
            params: the parameters.
            processor: the preprocessing, for preprocessor_config.json; left out when None.

        Raises:
            CheckpointError: the parameters are not this model's, or other things are in the directory.
        """
        directory = Path(directory)
        if directory.exists() and not is_converted(directory) and (directory.is_file() or any(directory.iterdir())):
            raise CheckpointError(f"{directory} is no converted directory, so it is not replaced; choose another name.")
        require_params(params, self.config)
        self._say_other_size(processor)
        with write_atomically(directory) as temporary:
            temporary.mkdir()
            self.config.save_json_file(temporary / "config.json")
            if processor is not None:
                processor.save_pretrained(temporary)
            save_params(temporary, params)

    def _say_other_size(self, processor: VideoProcessor | None) -> None:
        """Logs that a preprocessing is not of the model's size."""
        size, own = processor and processor.output_size, self.config.image_shape
        if size is not None and size != own:
            logger.warning(
                "the preprocessing that is saved makes frames of %d x %d pixels, the model's image_size is %d x %d; "
                "processor.with_output_size(%d, %d) makes it fit.",
                *(*size, *own, *own),
            )

    def push_to_hub(
        self,
        repo_id: str,
        params: Params,
        *,
        processor: VideoProcessor | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        max_shard_size: int | str = "5GB",
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face Hub.

        Args:
            repo_id: the repository, such as "someone/timesformer"; it is made if need be.
            params: the parameters.
            processor: the preprocessing; left out when None.
            private: whether a new repository is private; None leaves it to the account's settings.
            token: a token with the right to write; None uses the one stored on this machine.
            revision: the branch, which is made if need be; None is the main one.
            commit_message: the message of the commit.
            max_shard_size: as for `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: the parameters are not this model's, Transformers has no such model, or the Hub does not
                take the upload.
        """
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, params, processor=processor, max_shard_size=max_shard_size)
            options = HubOptions(revision=revision, token=token)
            return upload(Path(directory), repo_id, private=private, options=options, message=commit_message)


def _to_device(params: Params) -> Params:
    """Puts a tree of numpy arrays on the device, one at a time: each is free before the next is copied.

    A CPU adopts well aligned arrays (see `empty_array`) as they are, so nothing else may use these.
    """
    return {
        key: _to_device(value) if isinstance(value, dict) else jax.device_put(value).block_until_ready()
        for key, value in ((key, params.pop(key)) for key in list(params))
    }
