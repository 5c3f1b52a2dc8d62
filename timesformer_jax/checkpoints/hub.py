"""Downloads from and uploads to the Hugging Face Hub, with errors that a person can act on."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError, first_line
from ..support.files import read_json
from ..video.processor_files import PROCESSOR_FILES
from .adapter_config import ADAPTER_CONFIG
from .adapters import ADAPTER_WEIGHTS
from .huggingface import WEIGHTS_FILES
from .tensors import shard_names

logger = logging.getLogger("timesformer_jax")


@dataclasses.dataclass(frozen=True)
class HubOptions:
    """Options for reaching a repository.

    Attributes:
        revision: branch, tag or commit; None is the main branch.
        token: access token; None uses the one stored on this machine, if there is one.
        cache_dir: where downloads are kept; None is huggingface_hub's own place.
        local_files_only: use the cache alone; so does the environment variable HF_HUB_OFFLINE=1.
    """

    revision: str | None = None
    token: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def download(repo_id: str, options: HubOptions) -> Path:
    """Brings the config, the processor's settings and the weights of a repository, or of an adapter, into the cache.

    Without the network, or with `local_files_only`, it uses what an earlier download left there, and logs a warning.

    Returns:
        The directory that holds them.

    Raises:
        CheckpointError: the repository, the revision or a file is missing or not accessible, or the Hub can't be
            reached and the cache does not have it.
    """
    repository = _Repository(repo_id, options)
    repository.notice_silence()
    directory = repository.fetch_config().parent
    # All files from one commit, whatever is pushed meanwhile.
    repository.revision = directory.name
    for name in PROCESSOR_FILES:
        repository.fetch_if_there(name)
    adapter = repository.fetch_if_there(ADAPTER_CONFIG)
    found = False if adapter is None else repository.fetch_first(ADAPTER_WEIGHTS)
    base = None if adapter is None else read_json(adapter, CheckpointError).get("base_model_name_or_path")
    if base in (None, "", repo_id):
        found = repository.fetch_first(WEIGHTS_FILES) or found
    if not found:
        raise CheckpointError(
            f"the Hub repository {repo_id} has no weights that can be read"
            f"{' in the cache (the Hub is not asked or not reached)' if repository.offline else ''}: one of "
            f"{', '.join(WEIGHTS_FILES)} is needed."
        )
    if repository.offline:
        logger.warning("%s: offline, so commit %s is used, which was downloaded earlier", repo_id, directory.name[:12])
    return directory


class _Repository:
    """A repository that is being downloaded."""

    def __init__(self, repo_id: str, options: HubOptions) -> None:
        from huggingface_hub import constants

        self.repo_id, self.options, self.revision = repo_id, options, options.revision
        self.offline = options.local_files_only or constants.HF_HUB_OFFLINE

    def notice_silence(self) -> None:
        """Goes offline if the Hub can't be reached and the cache has the config: huggingface_hub would not say so."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        name, revision, cache = "config.json", self.revision, self.options.cache_dir
        try:
            cached = try_to_load_from_cache(self.repo_id, name, cache_dir=cache, revision=revision)
            if self.offline or not isinstance(cached, str):
                return
            address = hf_hub_url(self.repo_id, name, revision=revision)
            get_hf_file_metadata(address, token=self.options.token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except (HfHubHTTPError, HFValidationError):
            return  # an answer, if not a good one: the download says what it means
        except Exception:  # noqa: BLE001  requests', httpx's or httpx2's errors, by the version of huggingface_hub
            self.offline = True

    def fetch_config(self) -> Path:
        """The path of the config.json in the cache, or of an adapter_config.json where it is alone.

        Raises:
            CheckpointError: it can't be downloaded.
        """
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return self.fetch("config.json")
        except CheckpointError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):
                raise
            self.offline = self.offline or isinstance(error.__cause__, LocalEntryNotFoundError)
            adapter = self.fetch_if_there(ADAPTER_CONFIG)
            if adapter is None:
                raise
            return adapter

    def fetch_first(self, names: Sequence[str]) -> bool:
        """Whether one of several weights files is there; it is brought into the cache, with its shards."""
        path = next((path for path in map(self.fetch_if_there, names) if path is not None), None)
        if path is not None and path.name.endswith(".index.json"):
            for shard in shard_names(path):
                self.fetch(shard)
        return path is not None

    def fetch_if_there(self, name: str) -> Path | None:
        """The path of a file in the cache; None if the repository, or without network the cache, lacks the file."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return self.fetch(name)
        except CheckpointError as error:
            if not isinstance(error.__cause__, EntryNotFoundError):
                raise
            # The Hub itself did not answer: go on with what there is.
            self.offline = self.offline or isinstance(error.__cause__, LocalEntryNotFoundError)
            return None

    def fetch(self, name: str) -> Path:
        """The path of a file in the cache, to which it is downloaded if need be.

        Raises:
            CheckpointError: it can't be downloaded; the cause is what huggingface_hub raised.
        """
        from huggingface_hub import hf_hub_download

        tries_left = 5
        while True:
            try:
                path = hf_hub_download(
                    self.repo_id,
                    name,
                    revision=self.revision,
                    token=self.options.token,
                    cache_dir=self.options.cache_dir,
                    local_files_only=self.offline,
                )
            except Exception as error:  # requests', httpx's or httpx2's errors, by the version of huggingface_hub
                tries_left -= 1
                # A connection that broke midway. Versions before 1.0 go on from there, but only when called again.
                if type(error).__name__ != "ChunkedEncodingError" or tries_left == 0:
                    raise CheckpointError(f"{self._problem(name, error)}.") from error
            else:
                return Path(path)

    def _problem(self, name: str, error: Exception) -> str:
        from huggingface_hub import errors

        revision = f" at revision {self.options.revision}" if self.options.revision else ""
        match error:
            case errors.LocalEntryNotFoundError() if self.offline:
                return f"{name} of {self.repo_id}{revision} is not in the cache, and the Hub is not asked (offline)"
            case errors.LocalEntryNotFoundError():
                return (
                    f"{name} of {self.repo_id}{revision} is not in the cache, and the Hub gave no answer "
                    f"({_reason(error)})"
                )
            case errors.EntryNotFoundError():
                return f"the Hub repository {self.repo_id}{revision} has no {name}"
            case _:
                return _access_problem(error, self.repo_id, self.options.revision) or (
                    f"{name} of {self.repo_id} could not be downloaded ({_reason(error)})"
                )


def upload(directory: Path, repo_id: str, *, private: bool | None, options: HubOptions, message: str | None) -> str:
    """Uploads the files of a directory in one commit, and makes the repository and the branch if need be.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the Hub refuses them.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.token)
    try:
        # The full name, where only the model's was given.
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if options.revision is not None:
            api.create_branch(repo_id, branch=options.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            revision=options.revision,
            commit_message=message or "Upload a TimeSformer",
        )
    except Exception as error:  # requests', httpx's or httpx2's errors, by the version of huggingface_hub
        problem = _access_problem(error, repo_id, options.revision) or _reason(error)
        raise CheckpointError(f"the Hub does not take an upload to {repo_id}: {problem}.") from error
    return str(commit.commit_url)


def _access_problem(error: Exception, repo_id: str, revision: str | None) -> str | None:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"access to {repo_id} must be granted: ask for it on the Hub, then pass token="
        case errors.RepositoryNotFoundError():
            return f"there is no repository {repo_id} on the Hub, or it is private and needs a token"
        case errors.RevisionNotFoundError():
            return f"the Hub repository {repo_id} has no revision {revision}"
        case errors.HFValidationError():
            return f"{repo_id!r} is neither a file or directory here nor a valid Hub id"
        case errors.LocalTokenNotFoundError():
            return "no access token is stored on this machine; pass token="
        case _:
            return None


def _reason(error: BaseException) -> str:
    """The first line of the Hub's answer, or else of the error that caused all others."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    while deeper := error.__cause__ or error.__context__:
        if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
            break
        error = deeper
    return first_line(error).rstrip(".:")
