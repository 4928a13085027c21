"""Shell completion: the script is loaded by a real bash and asked what it would complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_small.cli.completion import SHELLS, _choices
from cifar_small.cli.main import ALL
from cifar_small.config.settings import all_settings

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script(tmp_path: Path, said: Said) -> Path:
    pytest.importorskip("shtab")
    (tmp_path / "cifar-small").write_text(said("completion", "bash")[1])
    return tmp_path / "cifar-small"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["predict", "--spl"], ["--split"]),
        (["predict", "--split", "t"], ["test", "train"]),
        (["train", "--config", "resnet_h"], ["resnet_hour"]),
        (["train", "--config", "my"], ["my.yaml", "mynets"]),
        (["param_count", "resnet_h"], ["resnet_hour"]),
        (["train", "--optim.weight"], ["--optim.weight_decay"]),
        (["train", "--engine.precision", "b"], ["bf16"]),
        (["train", "--engine.sync_batchnorm", ""], ["false", "true"]),
        (["predict", "--optim.l"], []),  # overrides nothing
        (["evaluate", "my"], ["my.yaml", "mynets"]),  # any file
        (["predict", "my"], ["mynets"]),  # a run directory
    ],
)
def test_bash_completes(words: list[str], expected: list[str], script: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    (tmp_path / "mynets").mkdir()
    ask = 'source cifar-small; COMP_WORDS=(cifar-small "$@"); COMP_CWORD=$#; f=$(complete -p cifar-small)'
    ask += '; f=${f#*-F }; ${f%% *} cifar-small "${@: -1}" "${@: -2:1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask, "ask", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert sorted({line.rstrip("/ ") for line in done.stdout.split("\n") if line}) == expected, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_in_every_script_and_the_shell_can_read_it(shell: str, said: Said, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    code, text, _ = said("completion", shell)
    assert code == 0
    for command in ALL:
        assert command.name in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        assert subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, check=False).stderr == b""


def test_settings_of_few_values_offer_them() -> None:
    found = {setting.key: _choices(setting) for setting in all_settings()}
    assert found["selection"] == ["best", "last"]
    assert found["engine.sync_batchnorm"] == ["true", "false"]
    assert found["engine.compile"] == ["true", "false", "reduce-overhead", "max-autotune"]
    assert found["optim.lr"] is None


def test_without_its_package_one_line_says_what_to_install(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, error = said("completion", "bash")
    assert (code, error.count("\n")) == (2, 1)
    assert "pip install 'cifar_small[completion]'" in error
