"""Real SIGKILLs: the tool that people run, with one kill here and twenty when slow tests are asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "kill_resume"


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_same_bits(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, str(TOOL), "--kills", str(kills), "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["identical"] == figures["trials"] == kills
    assert figures["killed_mid_run"] == kills  # otherwise nothing was tried
