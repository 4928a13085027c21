"""Fetch one file over https, check its sum while it streams in, and put it in place only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Literal

from cifar_small.environment import no_bar
from cifar_small.errors import DataError
from cifar_small.files import sync_folder

TIMEOUT = 8.0  # seconds to connect, and between two pieces
MAX_BYTES = 2**30
_PIECE = 2**18


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but not from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl[:100]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    digest: str,
    target: str | Path,
    *,
    algorithm: Literal["md5", "sha256"] = "md5",
    allow_http: bool = False,
) -> None:
    """Fetch `url` to the file `target`, whole and with a sum that starts with `digest`, or leave nothing there.

    A `.part` file stands next to the target meanwhile. `allow_http` is for tests against a local server. Raises DataError:
    not https, offline, refused, too large, or another sum.
    """
    target = Path(target)
    if not url.startswith(("https://", "http://") if allow_http else "https://"):
        raise DataError(f"will not download {url}: expected an https:// address")
    # The process id keeps two runs that start at once from writing into each other's file.
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        size, got = _fetch(url, part, algorithm)
        if not got.startswith(digest):
            with part.open("rb") as file:
                start = file.read(32)
            raise DataError(
                f"{url}: {algorithm} is {got}, expected {digest}; got {size:,} bytes starting with {start!r}; nothing was "
                f"kept; download again, or put the right file at {target}"
            )
        os.replace(part, target)
        sync_folder(target.parent)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"cannot download {url} ({reason}); fetch it on a machine that can and put it at {target.absolute()}, "
            "or set CIFAR_SMALL_DATA to the folder it is in"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, part: Path, algorithm: str) -> tuple[int, str]:
    """Stream the address into `part`; its size and sum."""
    from tqdm.auto import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "cifar_small"})
    opener = urllib.request.build_opener(_SameScheme)
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
    with opener.open(request, timeout=TIMEOUT) as response, part.open("wb") as file:
        declared = int(response.headers.get("Content-Length") or 0) or None
        # disable=no_bar(): no bar where stderr is not a terminal
        with tqdm(total=declared, unit="B", unit_scale=True, desc=part.name.split(".")[0], disable=no_bar()) as bar:
            while piece := response.read(_PIECE):
                size += len(piece)
                if size > MAX_BYTES:
                    raise DataError(f"{url}: sends more than {MAX_BYTES:,} bytes; expected a CIFAR archive; nothing was kept")
                digest.update(piece)
                file.write(piece)
                bar.update(len(piece))
        file.flush()
        os.fsync(file.fileno())
    if declared and size != declared:
        raise OSError(f"the connection closed after {size:,} of {declared:,} bytes")
    return size, digest.hexdigest()
