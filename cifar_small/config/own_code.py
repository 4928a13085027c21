"""Nets and augmentations of the user's own: `my_nets.py:Net` or `package.module:Net`, known by the hash of their file.

A file runs only where its user named it in a config that is given to a command; its content is then kept in the cache by its
hash. A run directory names hashes, so a run of somebody else's runs no code of theirs, and a file that was edited since does
not change the runs that were trained with it. A file must hold all that it uses, but for installed packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path, PureWindowsPath
from typing import Any

from cifar_small.errors import ConfigError
from cifar_small.files import sha256_bytes, write_atomic

# The place may begin with a drive of Windows (C:\nets.py), and contain blanks.
OWN = re.compile(r"(?P<place>(?:[A-Za-z]:[\\/])?[^\s:](?:[^\n:]*[^\s:])?):(?P<name>[A-Za-z_]\w*)")
MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
KEYS = ("family", "engine")  # of a config's sections that may name a class or function of the user's own
ARGUMENTS = "arguments"  # beside them: for that class or function, whatever they look like
KEPT = Path("~/.cache/cifar_small/own_code")  # content of the files, each called by its hash


def with_hashes(raw: Any, trusted: bool) -> Any:
    """A plain config with the SHA-256 of each file of the user's own beside its name, unless it is there.

    trusted: the user gave this config to a command, so the files it names may run; their content is kept.
    Raises ConfigError for a file or module that does not exist, or that is not the one a hash tells of, and for two files of
    one name, which a run could not keep.
    """
    plain = _hashed(raw, trusted)
    files_of(plain)
    return plain


def _hashed(raw: Any, trusted: bool) -> Any:
    if isinstance(raw, list | tuple):
        return [_hashed(value, trusted) for value in raw]
    if not isinstance(raw, Mapping):
        return raw
    plain = {key: value if key == ARGUMENTS else _hashed(value, trusted) for key, value in raw.items()}
    named = next((str(plain[key]) for key in KEYS if isinstance(plain.get(key), str) and OWN.fullmatch(plain[key])), None)
    if named is None:
        return plain
    expected = plain.get("sha256")
    if expected is None and not trusted:
        raise ConfigError(
            f"{named}: this config names code without the hash that a run's config.yaml has, so it cannot be told whether the "
            "code may run; give the config itself to the command"
        )
    if expected is None or (trusted and not _kept(str(expected)).is_file()):
        content = _read(named)
        found = sha256_bytes(content)
        if expected not in (None, found):
            raise ConfigError(
                f"{named}: the file has the SHA-256 {found[:12]}, the config was written with {str(expected)[:12]}; restore "
                "the file, or drop sha256 to use it as it is now"
            )
        plain["sha256"] = found
        if trusted and not _kept(found).is_file():
            write_atomic(_kept(found), content)
    return plain


def files_of(plain: Any) -> dict[str, str]:
    """The files of the user's own that a plain config names: what a copy is called, and its SHA-256."""
    if isinstance(plain, list | tuple):
        return _joined(files_of(value) for value in plain)
    if not isinstance(plain, Mapping):
        return {}
    found = files_of([value for key, value in plain.items() if key != ARGUMENTS])
    for key in KEYS:
        match = OWN.fullmatch(plain[key]) if isinstance(plain.get(key), str) and plain.get("sha256") else None
        if match is not None:
            found = _joined((found, {file_name(match["place"]): str(plain["sha256"])}))
    return found


def _joined(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Several such mappings as one. Raises ConfigError where one name stands for two files."""
    found: dict[str, str] = {}
    for name, sha256 in (item for part in parts for item in part.items()):
        if found.setdefault(name, sha256) != sha256:
            raise ConfigError(f"two files of this config are called {name}; rename one of them")
    return found


def file_name(place: str) -> str:
    """What a copy of the file of a place is called. Raises ConfigError for a place that is neither a file nor a module."""
    if place.endswith(".py"):
        return PureWindowsPath(place).name  # whose rules know both kinds of slash
    if not MODULE.fullmatch(place):
        raise ConfigError(f"{place}: expected a file such as my_nets.py, or an installed module such as package.my_nets")
    return f"{place}.py"


def source_of(sha256: str) -> bytes | None:
    """The content of a file of the user's own, if it is known on this machine."""
    path = _kept(sha256)
    content = path.read_bytes() if path.is_file() else None
    return content if content is not None and sha256_bytes(content) == sha256 else None


def trusted_source_of(name: str, sha256: str) -> bytes:
    """The content of a file of the user's own. Raises ConfigError where it has not been used on this machine."""
    content = source_of(sha256)
    if content is None:
        raise ConfigError(
            f"{name} (SHA-256 {sha256[:12]}) is code that has not been used on this machine; read it, and if you trust it, "
            "put the file at that place and run cifar-small param_count with the run's config.yaml"
        )
    return content


@cache
def load_own(named: str, sha256: str | None) -> Any:
    """The class or function that `named` names, from the file with this hash. Raises ConfigError with the reason."""
    if sha256 is None:  # of a config that was made by hand: configs are read with these hashes
        raise ConfigError(f"{named}: its config lacks the hash of that code; expected sha256 beside it, as training writes it")
    match = OWN.fullmatch(named)
    assert match is not None, named
    place, name = match["place"], match["name"]
    trusted_source_of(named, sha256)
    try:
        module = _run_file(sha256) if place.endswith(".py") else _run_module(named, sha256)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        alone = "; the file must hold all that it uses, but for installed packages" if isinstance(error, ImportError) else ""
        raise ConfigError(f"{named} does not run: {_what_was_raised(error)}{alone}") from error
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and value.__module__ == module.__name__]
        raise ConfigError(f"{place} has no {name}; it defines {', '.join(known) or 'nothing that can be called'}")
    return getattr(module, name)


def _what_was_raised(error: BaseException) -> str:
    """The error in words; of wrong syntax without the name by which the file is kept."""
    text = f"{error.msg}, line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else str(error)
    return f"{type(error).__name__}: {text}"


def _run_file(sha256: str, package: str = "", origin: Path | None = None) -> Any:
    """The module of a kept file; package, origin: of one that can be imported, where its relative imports and data are."""
    name = f"own_{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(f"{package}.{name}" if package else name, _kept(sha256))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(origin or _kept(sha256))
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


IMPORTED: dict[str, str] = {}  # by name of an installed module: the hash of its file when it was first asked for


def _run_module(named: str, sha256: str) -> Any:
    """The module that `named` names, from its file with this hash.

    Python imports a module once: in a notebook that goes on after nets.py was edited, an import would give the old code under
    the new hash. So a file outside of site-packages is run for each hash, whatever was imported before. Raises ConfigError for
    an installed package that was replaced since it was imported.
    """
    place = named.rpartition(":")[0]
    origin, content = _source(named)
    if sha256_bytes(content) != sha256:
        raise ConfigError(f"{named}: the module is not the one the config was written with; install that version again")
    if origin.suffix == ".py" and not _in_site_packages(origin):
        return _run_file(sha256, place if origin.name == "__init__.py" else place.rpartition(".")[0], origin)
    if IMPORTED.setdefault(place, sha256) != sha256:
        raise ConfigError(
            f"{place} was imported with the SHA-256 {IMPORTED[place][:12]}, and its file has {sha256[:12]} by now; restart "
            "Python (in a notebook: the kernel)"
        )
    return importlib.import_module(place)


def _read(named: str) -> bytes:
    place = named.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise ConfigError(f"{named}: {path} does not exist; the path is relative to the current folder")
        return path.read_bytes()
    return _source(named)[1]


def _source(named: str) -> tuple[Path, bytes]:
    """The file of a module that can be imported, and its content. Raises ConfigError where there is none."""
    place = named.rpartition(":")[0]
    origin = _origin(place)
    if origin is None or not origin.is_file():
        raise ConfigError(f"{named}: no module {place} is installed; name a file of your own as my_nets.py:Net")
    return origin, origin.read_bytes()


def is_installed(named: str) -> bool:
    """Is this a module of an installed package, which others can install too, rather than a file of the user's own?"""
    origin = _origin(named.rpartition(":")[0])
    return origin is not None and _in_site_packages(origin)


def _in_site_packages(origin: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(origin.parts))


def _origin(place: str) -> Path | None:
    """The file of a module; unlike `importlib.util.find_spec`, which imports the packages around it, it runs no code."""
    if not MODULE.fullmatch(place):
        return None
    parts = place.split(".")
    spec: ModuleSpec | None = None
    for count in range(1, len(parts) + 1):
        locations = None if spec is None else list(spec.submodule_search_locations or ())
        name = ".".join(parts[:count])
        tried = (finder.find_spec(name, locations) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((found for found in tried if found is not None), None)
        if spec is None:
            return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _kept(sha256: str) -> Path:
    return KEPT.expanduser() / f"{sha256}.py"
