"""Every command in README, CONTRIBUTING and docs/: it parses, its configs exist, and it runs on digits or says why not."""

from __future__ import annotations

import argparse
import glob
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from benchmarks import cli as bench
from benchmarks import gpu_check, versions
from conftest import tiny_raw

from cifar_small.cli.main import ALL, STAGES, _parser, main
from cifar_small.cli.options import split_config, split_overrides
from cifar_small.config.loading import load_config
from cifar_small.config.strict_yaml import dump_yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# What is not run here, by the start of the command, and why not.
NOT_RUN = {
    "make ": "CI and tests/cli/test_demo.py run what these call",
    "cifar-small train --config resnet_hour": "tests/test_wheel.py, with a smaller config",
    "tools/bench ": "takes minutes; tests/tools/test_benchmarks.py runs each with few steps",
    "tools/version_matrix": "makes environments of gigabytes; tests/tools/test_versions.py",
    "tools/kill_resume": "takes minutes; tests/tools/test_kill.py",
    "tools/gpu_check": "needs a GPU and minutes; tests/tools/test_gpu_check.py",
    "cifar-small sweep proxy.yaml": "two finished sweeps; tests/sweep/test_ranks.py",
    "torchrun ": "starts processes; tests/training/test_distributed.py",
    "cifar-small sweep configs/sweeps/resnet44_grid.yaml --submit slurm": "needs a cluster; tests/sweep/test_sweep.py",
    "cifar-small weights": "needs a network or the weights; tests/models/test_pretrained.py",
    "cifar-small train --config configs/transfer/lite": "needs ImageNet weights; tests/config/test_configs.py",
    "cifar-small sweep configs/transfer/lite": "needs ImageNet weights; tests/config/test_configs.py",
    "cifar-small sweep configs/transfer/students": "needs a teacher with ImageNet weights; tests/training/test_distillation.py",
    "cifar-small levels": "tests/sweep/test_levels.py",
    "cifar-small runs runs --watch": "runs until it is stopped; tests/reporting/test_run_list.py",
    "cifar-small push": "needs a network; tests/export/test_hub.py",
    "cifar-small onnx": "tests/export/test_onnx_and_int8.py",
    "cifar-small quantize": "tests/export/test_onnx_and_int8.py",
    "cifar-small bench": "tests/export/test_onnx_and_int8.py",
    "cifar-small predict runs/resnet_hour-seed0 --split val --onnx": "tests/export/test_onnx_and_int8.py",
    "cifar-small completion": "needs the extra completion; tests/cli/test_completion.py",
    "cifar-small soup runs/kept-seed0/": "needs a run that kept epochs; tests/inference/test_soup.py",
    "cifar-small results --picture": "needs a record of CIFAR-10; tests/reporting/test_results.py",
    "cifar-small report runs/a-seed0 runs/b-seed0 --output paper.html --paper": "tests/reporting/test_page.py",
    "cifar-small report runs/resnet_hour-seed0 --bench": "tests/export/test_onnx_and_int8.py",
}


def commands_of(page: Path) -> list[str]:
    """The command lines of a page's fenced blocks without a language, comments and continuations taken away."""
    found, fence = [], None
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.strip().startswith("```"):
            fence = line.strip().removeprefix("```") if fence is None else None
        elif fence == "":
            found.append(re.sub(r"\s+#\s.*$", "", line).strip())
    return [line for line in found if line]


COMMANDS = {page: commands_of(page) for page in PAGES}
DISTINCT = sorted({command for commands in COMMANDS.values() for command in commands})


def reason(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if f"{command} ".startswith(start)), None)


def parsed(words: list[str]) -> None:
    """Parse the words after `cifar-small` with the real parser; settings of a config must be its own."""
    options, rest = _parser().parse_known_args(words)
    assert not rest or options.chosen.overrides, f"unknown options {rest}"
    if rest and "config" in options:
        config, rest = split_config(options.config, rest)
        load_config(config, split_overrides(rest))
    elif rest:
        split_overrides(rest)


@pytest.mark.parametrize("command", DISTINCT)
def test_a_command_parses_and_names_what_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(command.partition(" > ")[0])
    for word in words:
        if word.startswith(("configs/", "tools/")):
            assert (ROOT / word).exists(), word
    try:
        if program == "cifar-small":
            parsed(words)
        elif program == "torchrun":
            parsed(words[words.index("cifar_small") + 1 :])
        elif program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        elif program == "tools/version_matrix":
            versions._parser().parse_args(words)
        elif program == "tools/bench":
            bench._parser().parse_args(words)
        elif program == "tools/gpu_check":
            gpu_check.parser().parse_args(words)
        else:
            assert program == "tools/kill_resume", f"{program} is no program of this project"
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def test_options_named_in_sentences_are_there() -> None:
    subparsers = next(action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    count = 0
    for page in PAGES:
        for inline in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8").partition("results: begin")[0]):
            name, *words = inline.removeprefix("cifar-small ").split()
            options = {word for word in words if word.startswith("--") and "." not in word} if name in subparsers else set()
            assert options <= set(subparsers[name]._option_string_actions if options else ()), f"{page.name}: {inline}"
            count += len(options)
    assert count


def test_every_reason_is_needed() -> None:
    assert set(NOT_RUN) == {start for start in NOT_RUN for command in DISTINCT if f"{command} ".startswith(start)}


def test_readme_and_the_help_list_every_command_at_the_same_stage() -> None:
    assert sorted(name for names in STAGES.values() for name in names) == sorted(command.name for command in ALL)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Commands") : readme.index("## What it promises")]
    found: dict[str, list[str]] = {}
    for stage, commands in re.findall(r"^\| ([a-z ]*?) ?\| (`.*?`) \|", table, re.MULTILINE):
        stage = stage or list(found)[-1]
        found.setdefault(stage, []).extend(re.findall("`([^`]+)`", commands))
    assert [name for name in STAGES["look"] if name not in found["look"]] == ["demo"]  # which is `make demo`
    shown = {stage: [name for name in names if name != "demo"] for stage, names in STAGES.items()}
    assert {stage: names for stage, names in found.items() if stage != "measure"} == shown


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, quick_runs: None) -> Iterator[Path]:
    """A folder in which the configs of the docs stand for tiny nets on digits, with the runs that the pages speak of."""
    folder = tmp_path_factory.mktemp("project")
    tiny = {"phases": [{"epochs": 3}], "views": "shift"}
    data = {"source": "digits", "val_size": 200, "train_limit": 256}
    for name, rate in {"resnet_hour": 0.2, "smoke": 0.1, "speed/cifar10_94": 0.1, "a": 0.1, "b": 0.15}.items():
        write(folder / f"configs/{name}.yaml", dump_yaml(tiny_raw(**tiny, name=Path(name).name, optim={"lr": rate})))
    taught = {"distill": {"predictions": "runs/teachers_train.npz"}}
    write(folder / "configs/distill_compact.yaml", dump_yaml(tiny_raw(**tiny, **taught, name="distill_compact")))
    for name in ("transfer_pretrain", "transfer_scratch"):
        rules = {"max_params": 100_000, "rows": 360, "pretrained": True}
        write(folder / f"configs/transfer/{name}.yaml", dump_yaml(tiny_raw(**tiny, rules=rules, name=name, data=data)))
    cells = [{"label": "tuned", "weights": "runs/transfer_pretrain-seed0"}, {"label": "scratch"}]
    for name in ("transfer_few", "transfer_all"):
        sweep = {"name": name, "config": "transfer_scratch.yaml", "cells": cells, "seeds": [0]}
        write(folder / f"configs/transfer/{name}.yaml", dump_yaml(sweep))
    sweep = {
        "name": "ablation_augment",
        "config": "../a.yaml",
        "cells": [{"label": "plain"}, {"label": "cutout", "augment.cutout": 4}],
    }
    write(folder / "configs/sweeps/ablation_augment.yaml", dump_yaml({**sweep, "seeds": [0]}))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("environment", "inference.predict", "submission.submission_file"):  # `audit` wants committed code
            patch.setattr(f"cifar_small.{module}.commit", lambda: {"commit": 40 * "0", "dirty": False})
        patch.chdir(folder)
        for name, seed in (("a", 0), ("b", 0), ("a", 1), ("resnet_hour", 0)):
            run("cifar-small", "train", "--config", f"configs/{name}.yaml", "--seed", str(seed))
        run("cifar-small", "unlabelled", "--config", "configs/a.yaml", "--output", "cifar_test_nolabel.pkl")
        for name in ("a", "b", "resnet_hour"):
            run("cifar-small", "predict", f"runs/{name}-seed0", "--split", "submit", "--file", "cifar_test_nolabel.pkl")
        run("cifar-small", "predict", "runs/a-seed0", "--split", "test")
        run("cifar-small", "submit", "runs/b-seed0/predictions/submit.npz", "--output", "submissions/theirs/submission.csv")
        write(folder / "docs/results.md", "<!-- results: begin -->\n<!-- results: end -->\n")
        yield folder


def run(*words: str) -> None:
    """Run one command line of cifar-small as a shell would: patterns expanded, output to a file after `>`."""
    line = [found for word in words[1:] for found in (sorted(glob.glob(word)) if "*" in word else [word])]
    if line[0] == "check":
        line += ["--allow-rows", "360"]  # as many as there are digits
    output = StringIO()
    if ">" in line:
        line, target = line[: line.index(">")], Path(line[-1])
        with redirect_stdout(output):
            code = main(line)
        target.write_text(output.getvalue())
    else:
        code = main(line)
    assert code == 0, shlex.join(words)


RUN = {page: [command for command in commands if reason(command) is None] for page, commands in COMMANDS.items()}


def test_readme_shows_no_command_that_docs_do_not() -> None:
    """So that it need not be run by itself."""
    assert set(RUN[ROOT / "README.md"]) <= {
        command for page, commands in RUN.items() if page.parent != ROOT for command in commands
    }


@pytest.mark.parametrize("page", [page for page in RUN if RUN[page] and page.parent != ROOT], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_their_order(
    page: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "project"))
    if "cifar-small train --config configs/resnet_hour.yaml" in RUN[page]:
        shutil.rmtree("runs/resnet_hour-seed0")
    if page.stem == "installed":  # which trains and predicts anew what the project has predicted already
        Path("runs/resnet_hour-seed0/predictions/submit.npz").unlink()
    for command in RUN[page]:
        run(*shlex.split(command))
