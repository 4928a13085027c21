"""Run a tool with the project's own .venv, whether or not it is activated."""

import importlib.util
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def enter() -> str:
    """Start again under .venv/bin/python if this is another Python; returns the project's folder.

    Without a .venv this Python will do where it has the packages, as on a machine that comes with a torch of its own.
    """
    venv = os.path.join(ROOT, ".venv")
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python) and all(importlib.util.find_spec(name) for name in ("torch", "pydantic")):
        sys.path.insert(0, ROOT)
        return ROOT
    if not os.path.exists(python):
        print(f"{venv} is missing: run `make setup` in {ROOT} first", file=sys.stderr)
        sys.exit(2)
    if os.path.realpath(sys.prefix) != os.path.realpath(venv):
        os.execv(python, [python, os.path.realpath(sys.argv[0]), *sys.argv[1:]])
    sys.path.insert(0, ROOT)
    return ROOT
