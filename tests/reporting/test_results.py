"""The results table says what the records say, and the README's copy of it is the generated one."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_raw
from synthetic import reading_of, session_of, summary_of

from cifar_small.config.hashing import dump_config
from cifar_small.config.loading import parse_config
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.figures.run import Progress, draw_accuracy_over_time
from cifar_small.metrics.classification import wilson_interval
from cifar_small.reporting import results
from cifar_small.reporting.results import BEGIN, END, render_results, replace_section
from cifar_small.runs.directory import Run
from cifar_small.runs.formats import FORMAT
from cifar_small.runs.recording import write_record

ROOT = Path(__file__).resolve().parents[2]
SHA = "a" * 64


MADE = {"name": "mean of logits: a, b", "parameters": 2500, "rules": {}, "images_sha256": SHA}
SUBMITTED = {"submission": "a.csv", "sha256": SHA, "rows": 1, "written": "", "class_counts": {"a": 1}, "predictions": MADE}


def reading(accuracy: float, views: str = "flip") -> dict[str, Any]:
    return reading_of(accuracy, views=views)


def record(
    folder: Path,
    seed: int = 0,
    readings: tuple[dict[str, Any], ...] = (),
    *,
    recipe: str = SHA,
    val: float = 0.93,
    seconds: float = 600.0,
    name: str = "net",
    file: str = "record.json",
    selection: str = "last",
    device: str = "a CPU",
    **data: Any,
) -> None:
    """A record as `cifar-small record` writes it, in a folder of its own."""
    summary = summary_of(
        name=name,
        seed=seed,
        parameters=4_999_999,
        val_accuracy=val,
        selection=selection,
        seconds=seconds,
        data={"source": "cifar10", **data},
        recipe_sha256=recipe,
        weights_sha256=f"{name} {seed}",
    )
    session = session_of(command=f"cifar-small train --seed {seed}", device=device)
    own = folder / f"{name}-{seed}"
    own.mkdir(parents=True, exist_ok=True)
    content = {"run": {"summary": summary, "sessions": [session], "test_readings": list(readings)}}
    (own / file).write_text(json.dumps(content if file == "record.json" else {**SUBMITTED, **content}))


def rows(table: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_no_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="submissions is no folder"):
        render_results(tmp_path / "submissions")
    (tmp_path / "submissions").mkdir()
    assert render_results(tmp_path / "submissions") == "No records under submissions/ yet."


def test_one_seed_gives_the_wilson_interval(tmp_path: Path) -> None:
    record(tmp_path / "submissions", 3, (reading(0.9412),), train_limit=20_000)
    table = render_results(tmp_path / "submissions")
    low, high = wilson_interval(9412, 10_000)
    assert rows(table) == [
        {
            "recipe": "net",
            "data": "cifar10, 20,000 images",
            "parameters": "4,999,999",
            "epochs": "30",
            "seeds": "1 (3)",
            "views": "flip",
            "val %": "93.00 (5,000)",
            "test %": f"94.12 [{100 * low:.2f}, {100 * high:.2f}] (read once)",
            "minutes": "10.0",
            "hardware": "a CPU, 2 threads, fp32",
        }
    ]
    assert "94.12 [93.64, 94.56] (read once)" in table
    assert "- `net`: `cifar-small train --seed 3` ([record](submissions/net-3))" in table


def test_two_seeds_give_mean_sd_and_n(tmp_path: Path) -> None:
    record(tmp_path, 0, (reading(0.94),), val=0.93, seconds=600)
    record(tmp_path, 1, (reading(0.95),), val=0.94, seconds=1200)
    table = render_results(tmp_path)
    (row,) = rows(table)
    assert row["seeds"] == "2 (0, 1)"
    assert row["val %"] == "93.50 (5,000)"
    assert "`cifar-small train --seed 0` ([record](" + tmp_path.name + "/net-0), [2](" + tmp_path.name + "/net-1))" in table
    assert row["test %"] == f"94.50 ± {math.sqrt(0.5):.2f} sd (read once)" == "94.50 ± 0.71 sd (read once)"
    assert row["minutes"] == "15.0"


def test_minutes_of_one_processor_are_not_averaged_with_those_of_another(tmp_path: Path) -> None:
    record(tmp_path, 0, seconds=600, device="an older CPU")
    record(tmp_path, 1, seconds=360, device="a newer CPU")
    record(tmp_path, 2, seconds=720, device="an older CPU")
    (row,) = rows(render_results(tmp_path))
    assert row["minutes"] == "11.0; 6.0"
    assert row["hardware"] == "an older CPU, 2 threads, fp32; a newer CPU, 2 threads, fp32"


def test_a_recipe_that_started_from_other_weights_says_so(tmp_path: Path) -> None:
    record(tmp_path, 0, val=0.93)
    record(tmp_path, name="tuned", recipe="b" * 64, val=0.92)
    path = tmp_path / "tuned-0/record.json"
    content = json.loads(path.read_text())
    content["run"]["summary"]["lineage"] = ["ImageNet weights of a net"]
    path.write_text(json.dumps(content))
    scratch, tuned = rows(render_results(tmp_path))
    assert (scratch["data"], tuned["data"]) == ("cifar10", "cifar10, pretrained")
    same = {"source": "cifar10", "sha256": SHA, "val_sha256": SHA, "train_sha256": SHA}
    first = {"name": "ImageNet weights", "data": same, "weights_sha256": SHA}  # which the name alone says
    content["run"]["summary"] |= {"lineage": ["ImageNet weights, trained on cifar10"], "ancestors": [first], "data": same}
    path.write_text(json.dumps(content))
    assert [row["data"] for row in rows(render_results(tmp_path))] == ["cifar10", "cifar10"]


def test_a_val_that_chose_the_epoch_says_so(tmp_path: Path) -> None:
    record(tmp_path, selection="best")
    assert rows(render_results(tmp_path))[0]["val %"] == "93.00 (5,000, *best*)"


def test_a_seed_whose_test_was_not_read_leaves_no_mean(tmp_path: Path) -> None:
    record(tmp_path, 0, (reading(0.94),))
    record(tmp_path, 1)
    (row,) = rows(render_results(tmp_path))
    assert row["test %"] == "1 of 2 seeds read"
    assert row["seeds"] == "2 (0, 1)"


def test_reading_with_other_views_is_no_result_but_counts_as_a_reading(tmp_path: Path) -> None:
    record(tmp_path / "a", 0, (reading(0.99, "none"),))
    assert rows(render_results(tmp_path / "a"))[0]["test %"] == "read once with other views"
    record(tmp_path / "b", 0, (reading(0.91), reading(0.99, "none"), reading(0.92)))
    assert rows(render_results(tmp_path / "b"))[0]["test %"].startswith("92.00 [")
    assert rows(render_results(tmp_path / "b"))[0]["test %"].endswith("(read 3 times)")


def test_a_reading_by_an_int8_file_is_not_the_nets_own(tmp_path: Path) -> None:
    int8 = reading_of(0.875, onnx_sha256="8" * 64)
    record(tmp_path / "a", 0, (reading(0.8722), int8))
    assert rows(render_results(tmp_path / "a"))[0]["test %"].startswith("87.22 [")
    record(tmp_path / "b", 0, (int8,))
    assert rows(render_results(tmp_path / "b"))[0]["test %"] == "read once with other weights or forms"


def test_a_run_that_patience_ended_says_so(tmp_path: Path) -> None:
    record(tmp_path / "submissions")
    path = tmp_path / "submissions/net-0/record.json"
    content = json.loads(path.read_text())
    content["run"]["summary"] |= {"epochs": 7, "epochs_planned": 20, "ended": "patience"}
    path.write_text(json.dumps(content))
    (row,) = rows(render_results(tmp_path / "submissions"))
    assert row["epochs"] == "7 of 20, by patience"
    record(tmp_path / "submissions", seed=1)
    other = tmp_path / "submissions/net-1/record.json"
    content["run"]["summary"] |= {"seed": 1, "weights_sha256": "other", "epochs": 12}
    other.write_text(json.dumps(content))
    (row,) = rows(render_results(tmp_path / "submissions"))
    assert row["epochs"] == "7 to 12 of 20, by patience"


def test_minutes_of_a_run_that_moved_are_of_both_machines(tmp_path: Path) -> None:
    record(tmp_path / "submissions")
    path = tmp_path / "submissions/net-0/record.json"
    content = json.loads(path.read_text())
    content["run"]["sessions"] += [session_of(device=device) for device in ("a CPU", "another")]
    path.write_text(json.dumps(content))
    (row,) = rows(render_results(tmp_path / "submissions"))
    first, then = row["hardware"].split(" then ")
    assert (first.startswith("a CPU, "), then.startswith("another, ")) == (True, True)


def test_readings_of_test_in_the_runs_of_a_soup_count(tmp_path: Path) -> None:
    record(tmp_path / "submissions", readings=(reading(0.9),))
    path = tmp_path / "submissions/net-0/record.json"
    content = json.loads(path.read_text())
    for counts, expected in (([2, 3], "read 6 times"), ([2, None], "perhaps in the runs that it was made of")):
        member = {"name": "a", "parameters": 1, "epoch": 1, "val_accuracy": 0.5, "weights_sha256": SHA, "config_sha256": SHA}
        content["run"]["summary"]["soup"] = [
            {**member, "seed": seed, "lineage": [], "taken": True, "test_readings": count} for seed, count in enumerate(counts)
        ]
        path.write_text(json.dumps(content))
        (row,) = rows(render_results(tmp_path / "submissions"))
        assert expected in row["test %"]


def test_other_recipes_have_rows_of_their_own_best_first(tmp_path: Path) -> None:
    record(tmp_path, 0, name="weak", recipe="b" * 64, val=0.5)
    record(tmp_path, 0, name="strong", recipe="c" * 64, val=0.9)
    record(tmp_path, 0, name="digits", recipe="d" * 64, val=0.99, source="digits")
    assert [row["recipe"] for row in rows(render_results(tmp_path))] == ["strong", "weak", "digits"]


def test_a_run_recorded_twice_is_one_seed(tmp_path: Path) -> None:
    record(tmp_path, 0, (reading(0.94),))
    record(tmp_path, 0, (reading(0.94),), file="submission.json")
    (row,) = rows(render_results(tmp_path))
    assert row["seeds"] == "1 (0)"
    assert "±" not in row["test %"]


def test_the_record_of_a_submission_counts_as_well(tmp_path: Path) -> None:
    record(tmp_path, 4, (reading(0.94),), file="submission.json")
    assert [row["seeds"] for row in rows(render_results(tmp_path))] == ["1 (4)"]


def test_submissions_without_a_run_are_listed_wherever_they_lie(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "ensemble"):
        place.mkdir(exist_ok=True)
        (place / "submission.json").write_text(
            json.dumps(
                {"submission": "a.csv", "sha256": SHA, "rows": 1, "written": "", "class_counts": {"a": 1}, "predictions": MADE}
            )
        )
    table = render_results(tmp_path)
    assert "- mean of logits: a, b: 2,500 parameters, submission alone" in table
    assert f"({tmp_path.name}/ensemble)" in table
    assert f"({tmp_path.name})" in table


@pytest.mark.parametrize("content", ['{"run": ', "[]", '{"run": {"summary": {}}}', b"\xff"])
def test_a_damaged_record_is_named(content: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"one/record\.json"):
        render_results(tmp_path)


def test_figures_of_a_benchmark_beside_the_records_are_no_record(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "speed.json").write_text('{"bench": "inference", "results": []}')
    (tmp_path / "some" / "evaluation.json").write_text('{"predictions": {"sha256": "1"}, "images": 10, "accuracy": 0.5}')
    assert render_results(tmp_path).startswith("No records under")


def test_write_record_copies_what_a_reader_needs(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.config_file.write_text(dump_config(parse_config(tiny_raw())))
    with pytest.raises(CheckpointError, match=r"has not finished \(no summary.json\)"):
        write_record(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (run.folder / "confusion.png").write_bytes(b"picture")
    (run.folder / "best.pt").write_bytes(b"weights")
    run.summary_file.write_text(json.dumps(summary_of(weights_sha256="of an earlier, shorter run")))
    with pytest.raises(CheckpointError, match=r"best.pt does not match the hash in summary.json"):
        write_record(run, tmp_path / "out")
    summary = summary_of(weights_sha256=hashlib.sha256(b"weights").hexdigest())
    run.summary_file.write_text(json.dumps(summary))
    target = write_record(run, tmp_path / "out")
    assert json.loads(target.read_text()) == {
        "format": FORMAT,
        "run": {"summary": summary, "sessions": [], "test_readings": []},
    }
    assert sorted(path.name for path in target.parent.iterdir()) == ["config.yaml", "confusion.png", "record.json"]
    with pytest.raises(UserError, match="exists already"):
        write_record(run, tmp_path / "out")
    write_record(run, tmp_path / "out", overwrite=True)


def test_replace_section() -> None:
    text = f"before\n{BEGIN}\nold\ntable\n{END}\nafter\n"
    replaced = replace_section(text, "| new |", "README.md")
    assert replaced == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"
    assert replace_section(replaced, "| new |", "README.md") == replaced


@pytest.mark.parametrize(
    "text", ["", f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n", f"{BEGIN}\n{END}\n{END}\n"]
)
def test_replace_section_needs_both_markers_once_in_order(text: str) -> None:
    with pytest.raises(DataError, match=r"README\.md needs the lines .* once, in this order"):
        replace_section(text, "x", "README.md")


def test_the_tables_of_readme_and_docs_agree_with_the_records() -> None:
    others = ["git", "ls-files", "--others", "--exclude-standard", "submissions"]
    if any(line.endswith(".json") for line in subprocess.run(others, cwd=ROOT, capture_output=True, text=True).stdout.split()):
        pytest.skip("submissions/ holds records that are not of this project")
    listed = re.search(r"^SHOWN = (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    assert len(listed[1].split()) <= 10
    for file, recipes in ((ROOT / "README.md", listed[1].split()), (ROOT / "docs" / "results.md", [])):
        text = file.read_text(encoding="utf-8")
        table = render_results(ROOT / "submissions", recipes, file.parent)
        assert replace_section(text, table, file.name) == text, "run: make results"
        for place in re.findall(r"\]\(([^)]*submissions/[^)]+)\)", table):
            assert (file.parent / place).is_dir()


def test_a_short_table_has_the_named_recipes_with_links_from_its_file(tmp_path: Path) -> None:
    record(tmp_path / "submissions", 0, (reading(0.94),))
    record(tmp_path / "submissions", 0, (reading(0.95),), name="other", recipe="b" * 64)
    short = render_results(tmp_path / "submissions", ["net"], tmp_path / "docs")
    (row,) = rows(short)
    assert row["recipe"] == "[net](../submissions/net-0)"
    assert (row["n"], row["test %"], row["processor"]) == ("1", "94.00 [93.52, 94.45]", "a CPU")
    assert "cifar-small train" not in short
    with pytest.raises(DataError, match=r"no record under .* is of 'nets'"):
        render_results(tmp_path / "submissions", ["nets"])
    record(tmp_path / "submissions", 0, (reading(0.95), reading(0.94)), name="often", recipe="c" * 64)
    (row,) = rows(render_results(tmp_path / "submissions", ["often"]))
    assert row["test %"] == "94.00 [93.52, 94.45] (read 2 times)"


def test_records_of_former_names_show_the_present_ones(tmp_path: Path) -> None:
    record(tmp_path, 0, (reading(0.94),), name="r3_resnet_4443")
    assert [row["recipe"] for row in rows(render_results(tmp_path))] == ["resnet_4443_two_runs"]


def with_metrics(folder: Path, name: str, accuracies: list[float], **changes: Any) -> None:
    record(folder, name=name, **changes)
    lines = ["seconds,val_accuracy", *(f"{60 * (index + 1)},{accuracy}" for index, accuracy in enumerate(accuracies))]
    (folder / f"{name}-{changes.get('seed', 0)}" / "metrics.csv").write_text("\n".join(lines) + "\n")


def test_the_picture_has_a_line_for_each_recipe_on_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_metrics(tmp_path, "slow", [0.5, 0.7, 0.9], recipe="b" * 64)
    with_metrics(tmp_path, "fast", [0.8, 0.94], readings=(reading(0.9428), reading(0.5, "none")))
    with_metrics(tmp_path, "fast", [0.7, 0.93], seed=1, readings=(reading(0.93), reading(0.94)))  # another seed of the recipe
    with_metrics(tmp_path, "part", [0.4], recipe="c" * 64, train_limit=1000)
    with_metrics(tmp_path, "hundred", [0.4], recipe="d" * 64, source="cifar100")
    earlier = tmp_path / "before it was read"  # the first seed recorded once more, and found first
    with_metrics(earlier, "fast", [0.8, 0.94])
    drawn: list[Any] = []
    monkeypatch.setattr(results, "draw_accuracy_over_time", lambda lines, title: drawn.extend(lines))
    monkeypatch.setattr(results, "save", lambda figure, path: None)
    assert results.draw_records(tmp_path, "cifar10", tmp_path / "picture.png") == 2
    seconds = 600.0
    assert drawn == [
        Progress(
            "fast: 94.14 % on test, n = 2",
            [60.0, 120.0],
            [0.8, 0.94],
            [(seconds, 0.9428, wilson_interval(9428, 10_000)), (seconds, 0.94, wilson_interval(9400, 10_000))],
            5000,
            10_000,
        ),
        Progress("slow", [60.0, 120.0, 180.0], [0.5, 0.7, 0.9], [], 5000, 0),
    ]
    with pytest.raises(DataError, match=r"no record under .* is of a run on all of digits; record one with cifar-small record"):
        results.draw_records(tmp_path, "digits", tmp_path / "picture.png")
    assert results.draw_records(tmp_path, "cifar10", tmp_path / "picture.png", ["slow"]) == 1
    assert [line.name for line in drawn[2:]] == ["slow"]
    with pytest.raises(DataError, match=r"no record under .* is of 'part' on all of cifar10; there are fast, slow"):
        results.draw_records(tmp_path, "cifar10", tmp_path / "picture.png", ["slow", "part"])


def test_the_picture_is_a_png_with_percentages_of_accuracy(tmp_path: Path) -> None:
    with_metrics(tmp_path, "one", [0.5, 0.7, 0.9, 0.949], readings=(reading(0.94),))
    results.draw_records(tmp_path, "cifar10", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("seconds", "error"), [(4.0, 0.6), (40.0, 0.1), (4000.0, 0.05), (90_000.0, 0.004)])
def test_the_picture_has_numbers_at_both_axes_for_runs_of_seconds_and_of_days(seconds: float, error: float) -> None:
    accuracies = [1 - error * step for step in (1.5, 1.2, 1.0)]
    test = (seconds, 1 - error, (1 - 1.1 * error, 1 - 0.9 * error))
    line = Progress("one", [seconds / 2, 0.8 * seconds, seconds], accuracies, [test], 5000, 10_000)
    (axes,) = draw_accuracy_over_time([line], "short").axes
    assert min(len(axes.get_xticks()), len(axes.get_yticks())) >= 1


def test_a_data_set_is_named_for_the_picture_alone(tmp_path: Path, said: Any) -> None:
    record(tmp_path)
    code, out, err = said("results", "--records", tmp_path, "--source", "cifar100")
    assert (code, out) == (2, "")
    assert "--source names the data set of --picture; the table has all of them" in err
