"""Publishing an exported folder on the Hugging Face hub; the token is read from the environment only."""

from __future__ import annotations

import os
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cifar_small.errors import UserError
from cifar_small.export.weights_folder import FILES, require_exported
from cifar_small.models.pretrained import require_answer

TIMEOUT = 8.0  # seconds until the hub counts as out of reach; its own client would wait and retry for minutes
TOKENS = "https://huggingface.co/settings/tokens"


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload the files of an exported folder to a model repository, created if needed; returns its address.

    repo: OWNER/NAME. Raises CheckpointError for a folder that is not a complete export, UserError for everything else: no
    token, no connection, a refusal, or an existing repository of another visibility.
    """
    facts = require_exported(folder)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII):
        raise UserError(f"{repo!r} is no repository of the hub; expected OWNER/NAME, such as me/resnet-5m")
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError(f"HF_TOKEN is not set; expected a token that may write, from {TOKENS}, in the environment")
    hub = _import_hub()
    api = hub.HfApi(token=token)
    _require_reachable(api.endpoint)
    message = f"{facts['facts']['parameters']:,} parameters, weights {facts['facts']['weights_sha256'][:12]}"
    # The client's errors descend from those of the HTTP library that its version is built on.
    http_errors = hub.errors.HfHubHTTPError.__bases__
    files = [*FILES, *(name for name in facts["sha256"] if name not in FILES)]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        is_private = bool(api.model_info(repo).private)
        if is_private == private:
            api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=message)
    except hub.errors.HfHubHTTPError as error:
        raise UserError(_refusal(error, api.endpoint, repo)) from None
    except (OSError, ValueError, *http_errors) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"the upload to {api.endpoint}/{repo} failed ({reason}); try again") from None
    if is_private != private:  # creating an existing repository does not change it
        visibility = "private" if is_private else "public"
        raise UserError(f"{repo} exists already and is {visibility}; choose another name", remedy=visibility)
    return f"{api.endpoint}/{repo}"


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            f"huggingface_hub is needed and is not installed ({error}); pip install 'cifar_small[pretrained]'"
        ) from None
    return huggingface_hub


def _require_reachable(endpoint: str) -> None:
    """Ask for the hub's front page, without the token. Raises UserError when no answer comes, of whatever kind."""
    if not endpoint.startswith(("http://", "https://")):
        raise UserError(f"HF_ENDPOINT is {endpoint!r}; expected an address that begins with https://")
    try:
        require_answer(endpoint, TIMEOUT)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"cannot reach {endpoint} ({error}); nothing was uploaded; push again from a machine with a "
            "connection to the hub (it needs only the folder)"
        ) from None


def _refusal(error: Any, endpoint: str, repo: str) -> str:
    """The message for the user about the hub's answer."""
    status = error.response.status_code
    if status == 401:
        return f"{endpoint} does not accept the token in HF_TOKEN (401); make a new one at {TOKENS}"
    if status == 403:
        return f"the token in HF_TOKEN may not write to {repo} (403); use one that may, from {TOKENS}"
    reason = " ".join(str(error).split())[:300]
    return f"{endpoint} refused the upload to {repo} ({status}): {reason}; nothing was committed"
