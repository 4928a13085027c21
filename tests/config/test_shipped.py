"""The configs that come with the package, found by name in any folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_small.config.loading import load_config
from cifar_small.config.shipped import find_config, shipped_configs, shipped_folder, shipped_name
from cifar_small.errors import ConfigError
from cifar_small.sweep.spec import load_sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_config_is_found_by_its_names() -> None:
    shipped = shipped_configs()
    assert sorted(shipped.values()) == sorted((ROOT / "configs").rglob("*.yaml"))
    assert len({path.stem for path in shipped.values()}) == len(shipped)  # or a name alone would be ambiguous
    for name, path in shipped.items():
        for spelling in (name, path.stem, f"{name}.yaml", f"configs/{name}.yaml"):
            assert find_config(spelling) == path
        assert shipped_name(path) == name


def test_a_file_or_folder_that_is_there_comes_first(tmp_path: Path) -> None:
    (tmp_path / "smoke").write_text(
        "name: mine\nmodel: {family: wideresnet, depth: 10, widen_factor: 1}\nphases: [{epochs: 1}]\n"
    )
    assert load_config("smoke").name == "mine"
    assert load_config("configs/smoke.yaml").name == "smoke"
    assert find_config("levels") == shipped_folder() / "levels"
    (tmp_path / "levels").mkdir()
    assert find_config("levels") == Path("levels")


def test_sweeps_have_names_too() -> None:
    assert Path(load_sweep("ablation_augment").config).name == "ablation_base.yaml"


@pytest.mark.parametrize("name", ["resnet_hou", "levels/resnet_hour", "configs/levels/smoke.yaml"])
def test_other_names_are_no_configs(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^there is no config {name}; did you mean (configs/)?(resnet_hour|smoke)"):
        load_config(name)


def test_configs_lists_all_and_copies_with_what_they_extend(said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, _ = said("configs")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, len(shipped_configs()))
    hour = next(line for line in lines if line.startswith("resnet_hour "))
    assert hour.endswith("A strong legal CIFAR-10 entry from scratch within one hour on two CPU cores.")
    assert said("configs", "cifar10_94_12min", "sweeps/ablation_augment.yaml")[0] == 0
    copied = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.yaml"))
    stems = ["speed/cifar10_94", "speed/cifar10_94_12min", "sweeps/ablation_augment", "sweeps/ablation_base"]
    assert copied == [f"configs/{stem}.yaml" for stem in stems]
    assert all((tmp_path / name).read_bytes() == (ROOT / name).read_bytes() for name in copied)


def test_copies_replace_nothing_unasked(said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    mine = tmp_path / "configs" / "smoke.yaml"
    mine.write_text("mine")
    code, _, line = said("configs", "resnet_hour", "smoke")
    assert code == 2
    assert "configs/smoke.yaml exists already; add --overwrite" in line
    assert [path.name for path in (tmp_path / "configs").iterdir()] == ["smoke.yaml"]  # and nothing was copied
    assert said("configs", "smoke", "--overwrite")[0] == 0
    assert mine.read_text() != "mine"
    assert said("configs", "levels", "--output", "elsewhere")[0] == 0
    assert len(list((tmp_path / "elsewhere" / "levels").iterdir())) == 9
    assert "no shipped config is called smok; cifar-small configs lists them" in said("configs", "smok")[2]


def test_a_copy_in_configs_is_what_its_names_mean(said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert said("configs", "smoke", "cifar10_94_12min")[0] == 0
    mine = tmp_path / "configs" / "smoke.yaml"
    mine.write_text(mine.read_text().replace("name: smoke", "name: edited"))
    for spelling in ("smoke", "smoke.yaml", "configs/smoke", "configs/smoke.yaml"):
        assert load_config(spelling).name == "edited"
    base = tmp_path / "configs" / "speed" / "cifar10_94.yaml"
    base.write_text(base.read_text().replace("label_smoothing: 0.2", "label_smoothing: 0.25"))
    for spelling in ("cifar10_94_12min", "speed/cifar10_94_12min"):  # itself as it came, what it extends edited
        assert load_config(spelling).label_smoothing == 0.25
    code, out, err = said("train", "--config", "smoke", "--print-config")
    assert (code, out.splitlines()[0]) == (0, "name: edited")
    assert err == "note: smoke is configs/smoke.yaml, the copy in this folder, not the one that comes with the package\n"
    assert said("train", "--config", "configs/smoke.yaml", "--print-config")[2] == ""
    assert "configs/smoke.yaml" in said("param_count", "smoke")[1]
    assert said("train", "--config", "resnet_hour", "--print-config")[2] == ""


def test_param_count_takes_names_and_folders(said: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = said("param_count", "resnet_hour", "configs/transfer")
    assert code == 0
    rows = [line.split()[:2] for line in out.splitlines()[1:]]
    assert rows[0] == ["resnet_hour", "2,703,690"]
    assert ["transfer/transfer_scratch", "672,480"] in rows
    assert all(name.startswith("transfer/") for name, _ in rows[1:])
