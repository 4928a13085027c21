"""The two reports' levels: all of them at a small size, what each leaves behind, and what is refused before anything trains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from synthetic import made
from torch import Tensor, nn

from cifar_small.cli.main import main
from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import load_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.published import PUBLISHED, Published
from cifar_small.config.schema import Config, LibraryModel
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.inference.ensemble import combine
from cifar_small.models import counting
from cifar_small.models.blocks import Dropout, SqueezeExcitation
from cifar_small.sweep.levels import LADDERS, Plan, levels_table, run_levels

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = ("--engine.threads", "1")


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def rows_of(summary: Path) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    plain = re.sub(r"\\(.)", r"\1", summary.read_text())  # without the escapes of Markdown
    lines = [line for line in plain.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not set(line) <= set("|-: ")]


class TinyLibraryNet(nn.Module):
    """In place of any library's net: one convolution under the names that freezing and the head need."""

    def __init__(self, model: LibraryModel, num_classes: int) -> None:
        super().__init__()
        width = 16 + sum(map(ord, model.family)) % 16  # nets of other families differ
        norm = nn.BatchNorm2d(width)
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3, 2, bias=False), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.attention = SqueezeExcitation(width, 16) if model.head == "se" else nn.Identity()
        self.dropout = Dropout(model.dropout)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.fc(self.dropout(torch.flatten(self.attention(self.backbone(images)), 1)))  # type: ignore[no-any-return]


@pytest.fixture
def _small_nets_and_few_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands, their order and their files are what is looked at; the nets and the pictures of mistakes are elsewhere."""
    monkeypatch.setattr("cifar_small.models.LibraryNet", TinyLibraryNet)
    monkeypatch.setattr("cifar_small.reporting.evaluation_files.draw_mistakes", lambda *given: Figure())
    for counted in (counting.trainable_parameters, counting.footprint):  # kept for a process, by the config of a net
        counted.cache_clear()
    yield
    for counted in (counting.trainable_parameters, counting.footprint):
        counted.cache_clear()


@pytest.mark.parametrize("ladder", list(LADDERS))
@pytest.mark.usefixtures("_small_nets_and_few_pictures")
def test_all_levels_run_small(ladder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_and_check(ladder, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("ladder", list(LADDERS))
def test_all_levels_run_with_the_libraries_nets(ladder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_and_check(ladder, tmp_path, capsys)


def run_and_check(ladder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["levels", ladder, "--smoke", "--output", str(tmp_path), *ONE_THREAD]) == 0
    printed = capsys.readouterr().out
    header, *rows = rows_of(tmp_path / f"{ladder}.md")
    names = [name for level in LADDERS[ladder].values() for name in (*level.runs, *level.views, *level.ensembles)]
    assert [row[header.index("run")] for row in rows] == names
    for row in rows:
        assert (row[header.index("start")], row[header.index("data")]) == ("random weights", "digits, 200 images")
        assert row[header.index("px")] == "64"
        assert re.fullmatch(r"\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", row[header.index("val %")])
        assert row[header.index("test %")] == ""  # nobody asked for it
    for number, level in LADDERS[ladder].items():
        here = tmp_path / f"{ladder}_level{number}"
        for run in level.runs:
            for name in ("best.pt", "metrics.csv", "curves.png", "confusion.png", "predictions/val.npz"):
                assert (here / run / name).stat().st_size > 0, name
            assert (here / f"{run}_val_evaluation" / "per_class.png").exists()
        compared = {row[0] for row in rows_of(here / "comparison_val.md")}
        assert compared >= {*level.beside, *level.runs, *level.views, *level.ensembles}
        with Image.open(here / "comparison_val.png") as picture:
            assert picture.size[0] > 1000
    if ladder == "resnet18_ladder":
        here = tmp_path / "resnet18_ladder_level5"
        assert "torch int8 Linear" in (here / "latency.md").read_text()
        assert list((here / "uncertainty").glob("*.csv"))
        summary = json.loads((here / "student" / "summary.json").read_text())
        assert [one["run"] for one in summary["teachers"]] == ["efficientnet_b0"]
    else:
        assert "majority vote" in printed
        assert re.search("better than its best member|no better", printed)
    # What is trained stays: a second call trains nothing, and ends with the same table.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.pt")}
    assert main(["levels", ladder, "--level", "1", "--smoke", "--output", str(tmp_path), *ONE_THREAD]) == 0
    assert "is already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.pt")} == before


@pytest.fixture
def _weights_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_small.sweep.levels.locate", lambda published: Path("cache", published.source))


def dry(plan: Plan) -> list[list[str]]:
    """The command lines of a plan, none of which runs."""
    lines: list[list[str]] = []

    def call(line: Sequence[str]) -> int:
        lines.append(list(line))
        return 0

    with pytest.raises(Exception, match="no run of"):  # there is nothing for the table
        run_levels(plan, call)
    return lines


@pytest.mark.usefixtures("_weights_are_here")
def test_the_runs_are_those_of_the_reports(tmp_path: Path) -> None:
    lines = dry(Plan("resnet18_ladder", (1, 2, 3, 4, 5), tmp_path))
    trained = [line for line in lines if line[0] == "train"]
    assert [Path(line[2]).stem for line in trained] == [
        "resnet18_ladder_level1",
        *["resnet18_ladder_level2"] * 2,
        "resnet18_ladder_level3",
        "resnet18_ladder_level4",
        "resnet18_ladder_level5",
    ]
    plain = trained[1]
    config = load_config(plain[2], [("augment", plain[plain.index("--augment") + 1])])
    assert (config.augment.crop, config.augment.flip) == (0, "none")  # type: ignore[union-attr]
    student = trained[-1]
    assert student[student.index("--distill.teachers") + 1] == f"[{tmp_path}/resnet18_ladder_level4/efficientnet_b0]"
    ensemble = next(line for line in lines if line[0] == "ensemble")
    assert ensemble[ensemble.index("--method") + 1] == "logits"
    assert not any(part == "test" or part.endswith("test.npz") for line in lines for part in line)


@pytest.mark.usefixtures("_weights_are_here")
def test_with_test_each_run_reads_it_once_and_ensembles_follow(tmp_path: Path) -> None:
    lines = dry(Plan("resnet50_ladder", (1, 2, 3, 4), tmp_path, test=True))
    read = [line for line in lines if line[:1] == ["predict"] and "test" in line and "--views" not in line]
    assert [Path(line[1]).name for line in read] == [run for level in LADDERS["resnet50_ladder"].values() for run in level.runs]
    votes = [line for line in lines if line[0] == "ensemble" and "vote" in line]
    assert [line[1].rpartition("/")[2] for line in votes] == ["val.npz", "test.npz"]


@pytest.mark.usefixtures("_weights_are_here")
@pytest.mark.parametrize("ladder", list(LADDERS))
def test_lite_nets_stand_in_and_no_vote_has_one_twice(ladder: str, tmp_path: Path) -> None:
    lines = [line for line in dry(Plan(ladder, tuple(LADDERS[ladder]), tmp_path, lite=True)) if line[0] == "train"]
    families = {Path(line[line.index("--output") + 1]).name: line[line.index("--model.family") + 1] for line in lines}
    assert set(families) == {run for level in LADDERS[ladder].values() for run in level.runs}
    assert all(family.startswith("timm/tf_efficientnet_lite") for family in families.values())
    for level in LADDERS[ladder].values():
        for ensemble in level.ensembles.values():
            assert len({families[member] for member in ensemble.members}) == len(ensemble.members)
    for line in lines:  # each is a config with its own head, at its own size, from weights of its own preprocessing
        changes = list(zip(line[line.index("--resume") + 1 :: 2], line[line.index("--resume") + 2 :: 2], strict=True))
        config = load_config(line[2], [(key.removeprefix("--"), value) for key, value in changes])
        assert (config.model.family, config.weights, config.input.mean) == (changes_of(changes), "imagenet", (0.5, 0.5, 0.5))


def changes_of(changes: list[tuple[str, str]]) -> str:
    return dict(changes)["--model.family"]


@pytest.mark.usefixtures("_small_nets_and_few_pictures")
def test_the_table_says_which_net_stands_in(tmp_path: Path) -> None:
    small = ["--smoke", "--level", "1", "--output", str(tmp_path), *ONE_THREAD]
    assert main(["levels", "resnet18_ladder", "--lite", *small]) == 0
    header, row = rows_of(tmp_path / "resnet18_ladder.md")
    assert row[header.index("net")] == "timm/tf_efficientnet_lite0 for timm/resnet18"
    assert "a stand-in takes the size nearest to the report's" in (tmp_path / "resnet18_ladder.md").read_text()


@pytest.mark.usefixtures("_small_nets_and_few_pictures")
def test_any_folder_knows_what_stands_in_and_in_a_vote_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the shipped configs are not beside it
    standing = {"resnet50": (1, 1), "efficientnet_b2": (3, 2), "convnext_tiny": (4, 0)}
    members = []
    for run, (level, lite) in standing.items():
        config = load_config(f"configs/levels/resnet50_ladder_level{level}.yaml")
        raw = config_dict(config) | {"model": {"family": f"timm/tf_efficientnet_lite{lite}"}}
        facts = {"name": config.name, "run": run, "config": raw, "split": "val"}
        members.append(made([3, 1, 4], labels=[3, 1, 5], seed=lite, **facts))
    for method in ("vote", "probabilities"):
        file = tmp_path / "resnet50_ladder_level4" / f"{'vote' if method == 'vote' else 'soft_vote'}-val.npz"
        combine(members, method).save(file)
    table = levels_table(Plan("resnet50_ladder", (4,), tmp_path))
    expected = (
        "timm/tf_efficientnet_lite1 for timm/resnet50 + timm/tf_efficientnet_lite2 for timm/efficientnet_b2 + "
        "timm/tf_efficientnet_lite0 for timm/convnext_tiny"
    )
    assert [row[table.header.index("net")] for row in table.rows] == [expected, expected]


def halved(side: int) -> list[int]:
    """What the layers of stride 2 see."""
    return [side := -(-side // 2) if number else side for number in range(5)]


@pytest.mark.usefixtures("_weights_are_here")
@pytest.mark.parametrize(
    ("ladder", "sides"),
    [("resnet18_ladder", [224, 224, 224, 224, 228, 224]), ("resnet50_ladder", [112, 112, 112, 132, 128])],
)
def test_lite_nets_have_sizes_at_which_they_are_padded_as_trained(ladder: str, sides: list[int], tmp_path: Path) -> None:
    def configs(*overrides: tuple[str, str]) -> list[Config]:
        plan = Plan(ladder, tuple(LADDERS[ladder]), tmp_path, lite=True, overrides=overrides)
        lines = [line for line in dry(plan) if line[0] == "train"]
        assert all(len({"--input", "--input.size"} & set(line)) <= 1 for line in lines)
        changes = [line[line.index("--resume") + 1 :] for line in lines]
        given = [[(key[2:], value) for key, value in zip(one[::2], one[1::2], strict=True)] for one in changes]
        return [load_config(line[2], one) for line, one in zip(lines, given, strict=True)]

    found = configs()
    assert [config.side for config in found] == sides
    for config in found:  # TensorFlow's padding at stride 2 depends on whether a side is even
        own, published = halved(config.side), halved(PUBLISHED[config.model.family].size)
        assert [side % 2 for side in own] == [side % 2 for side in published]
    assert {config.side for config in configs(("input.size", "96"))} == {96}
    assert {config.side for config in configs(("input", "{size: 96}"))} == {96}


def test_a_net_that_nothing_stands_in_for_is_said(tmp_path: Path) -> None:
    text = (ROOT / "configs/levels/resnet18_ladder_level1.yaml").read_text().replace("timm/resnet18", "timm/resnet50")
    (tmp_path / "resnet18_ladder_level1.yaml").write_text(text)
    plan = Plan("resnet18_ladder", (1,), tmp_path / "runs", configs=tmp_path, lite=True)
    with pytest.raises(ConfigError, match=r"no EfficientNet-Lite stands in for timm/resnet50; expected one of timm/resnet18, "):
        run_levels(plan, lambda line: pytest.fail("nothing may run"))


def test_a_settings_override_reaches_every_run(tmp_path: Path) -> None:
    lines = dry(Plan("resnet18_ladder", (2,), tmp_path, overrides=(("weights", "null"), ("input.size", "64"))))
    for line in lines[:2]:
        assert line[line.index("--weights") + 1] == "null"
        assert line[line.index("--input.size") + 1] == "64"


@pytest.mark.usefixtures("_weights_are_here")
def test_a_failed_command_stops_with_its_code(tmp_path: Path) -> None:
    called: list[str] = []

    def call(line: Sequence[str]) -> int:
        called.append(line[0])
        return 3 if len(called) == 2 else 0

    assert run_levels(Plan("resnet18_ladder", (1, 2), tmp_path), call) == 3
    assert called == ["train", "evaluate"]


def test_a_level_that_needs_another_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["levels", "resnet18_ladder", "--level", "4", "--output", str(tmp_path)]) == 2
    assert "needs augmented of level 2" in (error := capsys.readouterr().err)
    assert "run level 2 first; use --level 2" in error
    assert main(["levels", "resnet18_ladder", "--level", "6"]) == 2
    assert "resnet18_ladder has no level 6; expected some of 1, 2, 3, 4, 5" in capsys.readouterr().err
    assert main(["levels", "resnet18_ladder", "--configs", str(tmp_path)]) == 2
    assert "resnet18_ladder_level1.yaml does not exist" in capsys.readouterr().err
    assert main(["levels", "resnet18_ladder", "--batch_sise", "3"]) == 2
    assert "batch_size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_weights_is_looked_through_before_anything_trains(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "timm_resnet18.pth").touch()
    plan = Plan("resnet18_ladder", (1, 2, 3, 4), tmp_path / "runs", weights=weights)
    with pytest.raises(
        ConfigError, match=r"no weights of timm/efficientnet_b0; expected .*efficientnet_b0\.ra_in1k\.safetensors"
    ):
        run_levels(plan, lambda line: pytest.fail("nothing may run"))
    lines = dry(Plan("resnet18_ladder", (1,), tmp_path / "runs", weights=weights))
    assert lines[0][lines[0].index("--weights") + 1] == str(weights / "timm_resnet18.pth")


def test_weights_that_are_nowhere_are_missed_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(published: Published) -> Path:
        raise CheckpointError(f"weights imagenet of {published.family} are not here")

    monkeypatch.setattr("cifar_small.sweep.levels.locate", missing)
    assert main(["levels", "resnet18_ladder", "--output", str(tmp_path)]) == 4
    assert "weights imagenet of timm/resnet18 are not here" in capsys.readouterr().err
    assert main(["levels", "r1", "--smoke", "--weights-dir", str(tmp_path), "--output", str(tmp_path / "runs")]) == 2
    assert "--smoke trains from random weights, so --weights-dir has no effect" in capsys.readouterr().err
    assert main(["levels", "resnet18_ladder", "--weights", "null", "--weights-dir", str(tmp_path)]) == 2
    assert "a folder of ImageNet weights has no effect on baseline, whose weights are random" in capsys.readouterr().err
    assert main(["levels", "resnet18_ladder", "--weights-dir", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", list(LADDERS["resnet18_ladder"]))
def test_configs_start_from_published_weights_at_their_size(number: int) -> None:
    config = load_config(ROOT / f"configs/levels/resnet18_ladder_level{number}.yaml")
    assert (config.weights, config.side, config.data.val_size) == ("imagenet", 224, 10_000)
    assert config.interpolation == PUBLISHED[config.model.family].interpolation


RECIPES = {  # optimizer, its rate, schedule, freeze, epochs, mixing, smoothing of each phase, as the reports have them
    "resnet18_ladder_level1": [("adam", 1e-3, "constant", (), 5, False, 0.0)],
    "resnet18_ladder_level2": [("adamw", 3e-4, "cosine", (), 5, False, 0.1)],
    "resnet18_ladder_level3": [("adamw", 3e-4, "cosine", (), 5, False, 0.1)],
    "resnet18_ladder_level4": [("adamw", 3e-4, "cosine", (), 5, False, 0.1)],
    "resnet18_ladder_level5": [("adamw", 1e-3, "cosine", (), 3, False, 0.0)],
    "resnet50_ladder_level1": [
        ("adamw", 1e-3, "cosine", ("backbone",), 5, False, 0.0),
        ("adamw", 1e-4, "cosine", (), 15, False, 0.0),
    ],
    "resnet50_ladder_level2": [
        ("adamw", 1e-3, "cosine", ("backbone",), 5, False, 0.1),
        ("adamw", 1e-4, "cosine", (), 20, True, 0.1),
    ],
    "resnet50_ladder_level3": [
        ("adamw", 1e-3, "cosine", ("backbone",), 5, False, 0.0),
        ("adamw", 5e-5, "cosine", (), 20, False, 0.0),
    ],
    "resnet50_ladder_level4": [
        ("adamw", 1e-3, "cosine", ("backbone",), 5, False, 0.0),
        ("adamw", 1e-4, "cosine", (), 15, False, 0.0),
    ],
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_the_reports(name: str) -> None:
    phases = resolve_phases(load_config(ROOT / f"configs/levels/{name}.yaml"))
    found = [
        (one.optim.name, one.optim.lr, one.schedule.name, one.freeze, one.epochs, one.mixes, one.label_smoothing)
        for one in (phase.settings for phase in phases)
    ]
    assert found == RECIPES[name]
    assert [phase.schedule_start for phase in phases] == [phase.start for phase in phases]  # each phase has its own descent
