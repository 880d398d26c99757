"""Uploading an export to the Hugging Face hub, when it is requested.

The client of the hub reads its own token (HF_TOKEN, or what `hf auth login` stored) and its own
address (HF_ENDPOINT); neither is asked for here, nor printed.
"""

from __future__ import annotations

from pathlib import Path

from trainer.errors import HistoprepError, OutputError, UsageError


def check_push(repository: str) -> None:
    """Check, before anything is written, that an export could be uploaded.

    Raises:
        UsageError: When that is no name of a repository, or there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(
            "this is not the name of a repository on the hub",
            seen=repository,
            expected="OWNER/NAME",
        ) from error
    if "/" not in repository:
        raise UsageError("the repository has no owner", seen=repository, expected="OWNER/NAME")
    if get_token() is None:
        raise UsageError(
            "there is no token for the hub",
            expected="a token that may write, in HF_TOKEN or stored by hf auth login",
            hint="hf auth login; or leave --push out and upload the folder later",
        )


def push_folder(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload an export and return the address of its repository, which is made if it is not there.

    Files of the same name there are replaced, others are left.

    Args:
        folder: What `export_run` wrote.
        repository: OWNER/NAME.
        public: Whether everybody may see a new repository, or an old one already does.

    Raises:
        UsageError: When the repository is there and everybody can see it, unless `public`.
        OutputError: When the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = str(hub.create_repo(repository, private=not public, exist_ok=True))
        if not public and not hub.model_info(repository).private:
            raise UsageError(
                "everybody can see that repository",
                seen=address,
                hint="--public, if that is meant; the export is in its folder only",
                path=folder,
            )
        hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export of HistoPrep"
        )
    except HistoprepError:
        raise
    except Exception as error:  # the errors of its HTTP client change from version to version
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        private = "" if public else " --private"
        raise OutputError(
            "the export could not be uploaded; it is whole in its folder",
            path=folder,
            seen=reason[0][:300],
            hint=f"hf upload {repository} {folder}{private}, when the cause is gone",
        ) from error
    return address
