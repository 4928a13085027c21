"""What commands share: the advice that the command line adds to an error, and how its numbers read."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_small.cli.command import exit_code
from cifar_small.cli.options import split_config
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.wording import command_line, plural


def refuse(error: UserError) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "options", "line"),
    [
        (UserError("a is there", remedy="overwrite"), Namespace(overwrite=False), "a is there; add --overwrite to replace it"),
        (UserError("a is there", remedy="overwrite"), Namespace(output=None), "a is there"),  # this command has no such option
        (UserError("a is there", remedy="overwrite"), None, "a is there"),
        (UserError("a\n  is there"), Namespace(overwrite=False), "a is there"),
        (UserError("no slope", remedy="max_slope=3"), Namespace(max_slope=1), "no slope; use --max-slope 3"),
        (
            CheckpointError("r holds a run", remedy=("resume", "overwrite", "output")),
            Namespace(resume=False, output=None),
            "r holds a run; add --resume to continue it, or choose another --output",
        ),
    ],
)
def test_an_error_names_the_options_that_mend_it(
    error: UserError, options: Namespace | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("prog", lambda: refuse(error), options) == error.exit_code
    assert capsys.readouterr().err == f"prog: error: {line}\n"


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(DataError("wrong", remedy="layout=CHW")))
    assert (str(error), error.remedy) == ("wrong", ("layout=CHW",))


def test_plural() -> None:
    assert [plural(n, "run") for n in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert [plural(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_a_command_is_written_to_be_copied() -> None:
    assert command_line("predict", "runs/a b", split="val", views=None) == "cifar-small predict 'runs/a b' --split val"
    assert command_line("check", allow_rows=3, overwrite=True, strict=False) == "cifar-small check --allow-rows 3 --overwrite"


@pytest.mark.parametrize(
    ("config", "arguments", "rest"),
    [
        (None, ["a.yaml", "--seed", "1"], ["--seed", "1"]),
        (None, ["--seed", "1", "a.yaml"], ["--seed", "1"]),
        (None, ["--seed=1", "a.yaml", "--optim.lr", "0.2"], ["--seed=1", "--optim.lr", "0.2"]),
        (Path("a.yaml"), ["--seed", "1"], ["--seed", "1"]),
        (Path("a.yaml"), ["b.yaml"], ["b.yaml"]),  # which is refused then
    ],
)
def test_a_config_may_stand_without_its_option(config: Path | None, arguments: list[str], rest: list[str]) -> None:
    assert split_config(config, arguments) == (Path("a.yaml"), rest)


@pytest.mark.parametrize("command", ["train", "slurm", "preview", "schedule"])
def test_without_a_config_it_is_said_what_is_expected(said: Callable[..., tuple[int, str, str]], command: str) -> None:
    code, _, error = said(command, "--seed", 1)
    assert (code, "no config; expected a YAML file" in error) == (2, True)
