"""Submissions side by side: joined by id whatever their header, and what their class counts and order give away."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import tiny_raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_small.cli.main import main
from cifar_small.config.schema import Rules
from cifar_small.data import write_unlabelled
from cifar_small.errors import DataError
from cifar_small.submission.diff import (
    Answers,
    class_table,
    diff,
    differing_rows,
    read_submission,
    score_against,
    summarize,
    warnings_of,
)
from cifar_small.submission.submission_file import submit
from tests.synthetic import NAMES, made


def write(path: Path, labels: Sequence[object], ids: Sequence[int] | None = None, header: str = "ID,Labels") -> Path:
    rows = zip(range(len(labels)) if ids is None else ids, labels, strict=True)
    path.write_text("\n".join([header, *(f"{image},{label}" for image, label in rows)]) + "\n")
    return path


def test_both_headers_say_the_same(tmp_path: Path) -> None:
    by_index = read_submission(write(tmp_path / "a.csv", [3, 0, 9]), NAMES)
    by_name = read_submission(write(tmp_path / "b.csv", ["cat", "airplane", "truck"], header="id,label"), NAMES)
    assert by_index.labels.tolist() == by_name.labels.tolist() == [3, 0, 9]
    assert by_index.faults == by_name.faults == ()
    assert not diff(by_index, by_name).differs.any()


@pytest.mark.parametrize(
    ("content", "labels", "fault"),
    [
        ("ImageID,Label\n0,3\n1,57\n", [3], "has the header 'ImageID,Label'; expected 'ID,Labels'"),
        ("Id,Category\n0,cat\n1,dog\n1,cat\n", [3, 5], "has 1 row with an id that was given before"),
        ("ID,Labels\n0,3\n00001,4\n", [3], "has 1 row whose id is not a plain integer"),
        ("ID,Labels\n0,3\n1,57\n", [3], "has 1 row whose label is not an integer from 0 to 9"),
        ("ID,Labels\n0,3\n0,4\n", [3], "has 1 row with an id that was given before"),
        ('ID,Labels\n"0","3"\n', [3], "has 4 quotation marks"),
        ("\ufeffID,Labels\r\n0,3\r\n", [3], "starts with a byte order mark"),
    ],
)
def test_faulty_rows_are_named_and_left_out(content: str, labels: list[int], fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    found = read_submission(tmp_path / "a.csv", NAMES)
    assert found.labels.tolist() == labels
    assert any(one.startswith(fault) for one in found.faults), found.faults


@pytest.mark.parametrize(
    "content", [b"", b"ID,Labels\n", b"ID,Labels\n000,1\n", b"\x89PNG\xff\n1,2\n", b"hello", b"a\0b,1\n2,3\n"]
)
def test_what_is_no_submission_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    told = r"a\.csv has no row with an id and a class: .*; expected ID,Labels or id,label and one of the 10 classes airplane, "
    with pytest.raises(DataError, match=told):
        read_submission(tmp_path / "a.csv", NAMES)
    with pytest.raises(DataError, match=r"cannot read .*b\.csv: No such file"):
        read_submission(tmp_path / "b.csv", NAMES)


def submission(name: str, ids: Sequence[int], labels: Sequence[int]) -> Answers:
    return Answers(name, np.array(ids), np.array(labels), ())


def test_submissions_are_joined_by_id() -> None:
    found = diff(submission("a", [5, 1, 2, 9], [0, 1, 2, 3]), submission("b", [2, 1, 7, 5], [2, 8, 4, 0]))
    assert found.ids.tolist() == [5, 1, 2]
    assert found.second.tolist() == [0, 8, 2]
    assert found.agreement == pytest.approx(2 / 3)
    assert differing_rows(found, NAMES) == [("1", "automobile", "ship")]
    assert summarize(found) == [
        "the same answer for 2 of 3 images (66.67%); their accuracies differ by 33.33 points at most",
        "1 id in a alone, first [9]: left out",
        "1 id in b alone, first [7]: left out",
        "their rows stand in different orders; they are joined by id",
    ]
    with pytest.raises(DataError, match=r"a has ids 0\.\.1, b 5\.\.6: none in common"):
        diff(submission("a", [0, 1], [0, 0]), submission("b", [5, 6], [0, 0]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_counts_add_up_in_any_order(pairs: list[tuple[int, int]], random: object) -> None:
    first, second = (list(own) for own in zip(*pairs, strict=True))
    order = sorted(range(len(pairs)), key=lambda _: random.random())  # type: ignore[attr-defined]
    found = diff(submission("a", range(len(pairs)), first), submission("b", order, [second[at] for at in order]))
    table = class_table(found, NAMES)
    counts = np.array([[int(cell) for cell in row[1:4]] for row in table.rows])
    assert counts[:, 0].tolist() == np.bincount(first, minlength=10).tolist()
    assert counts[:, 1].tolist() == np.bincount(second, minlength=10).tolist()
    assert counts[:, 2].sum() == sum(one == other for one, other in pairs) == round(found.agreement * len(pairs))


def test_the_table_names_what_changes() -> None:
    found = diff(submission("a", range(6), [3, 3, 3, 5, 0, 1]), submission("b", range(6), [5, 5, 3, 3, 0, 2]))
    table = class_table(found, NAMES)
    assert table.rows[3] == ("cat", "3", "2", "1", "25.0")
    assert table.rows[9] == ("truck", "0", "0", "0", "")
    assert table.notes == ("most frequent changes from A to B: cat -> dog 2, dog -> cat 1, automobile -> bird 1",)


def test_truth_scores_both() -> None:
    labels = np.arange(40) % 10
    worse = labels.copy()
    worse[:8] = (labels[:8] + 1) % 10
    found = diff(submission("a.csv", range(40), labels.tolist()), submission("b.csv", range(40), worse.tolist()))
    lines = score_against(found, submission("truth", range(36), labels[:36].tolist()))
    assert lines[0].startswith("a.csv: 100.00% of 36 right, 95 % interval 90.36%")
    assert lines[1].startswith("b.csv: 77.78% of 36 right")
    assert re.fullmatch(
        r"B minus A: -22\.22 points \[-35\.93, -6\.18\]; 0 right in B alone, 8 in A alone; exact McNemar p 0\.00781",
        lines[2],
    )
    assert lines[3] == "truth does not name 4 of the images; they are left out"
    with pytest.raises(DataError, match=r"truth names none of the ids of a\.csv"):
        score_against(found, submission("truth", [100], [1]))


def test_labels_in_class_order_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([8, 2, 9, 0, 4, 3, 6, 1, 7, 5], 1000)
    predicted = np.where(rng.random(10_000) < 0.85, truth, rng.integers(10, size=10_000))
    (warning,) = warnings_of(submission("a.csv", range(10_000), predicted.tolist()), NAMES)
    assert warning.startswith("a.csv: rows of one class stand together, ")
    assert "the order of the file gives labels away" in warning
    assert "(runs test, p <1e-300)" in warning
    runs = 1 + int((np.diff(predicted) != 0).sum())
    assert f"{runs:,} runs where a random order has 9,001 ± " in warning
    assert warnings_of(submission("a.csv", range(10_000), rng.permutation(predicted).tolist()), NAMES) == []


def test_the_longest_run_is_named() -> None:
    labels = np.repeat([0, 1, 3, 2, 3], [10, 12, 30, 9, 4]).tolist()
    warning = warnings_of(submission("a", range(65), labels), NAMES)[-1]
    assert "5 runs where a random order has" in warning
    assert "the longest 30 of cat: " in warning


def test_class_counts_that_no_balanced_file_gives_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    counts = [700, 1100, 1000, 1100, 1000, 1000, 1000, 1000, 1050, 1050]
    (warning,) = warnings_of(submission("a.csv", range(10_000), rng.permutation(np.repeat(range(10), counts)).tolist()), NAMES)
    statistic = sum((count - 1000) ** 2 / 1000 for count in counts)
    assert warning.startswith("a.csv: from 700 (airplane) to 1,100 (automobile) a class, unlikely if the file holds as many")
    assert f"chi-square {statistic:.1f}, p " in warning
    few = submission("a", range(30), [3] * 15 + [5] * 15)  # three expected of each class: too few for the test
    assert all("chi-square" not in warning for warning in warnings_of(few, NAMES))


def test_one_shuffled_balanced_file_in_a_thousand_is_warned_of_by_chance() -> None:
    rng = np.random.default_rng(0)
    files = [submission("a", range(500), rng.integers(10, size=500).tolist()) for _ in range(600)]
    assert sum(bool(warnings_of(one, NAMES)) for one in files) <= 5  # of 1,200 tests at 0.001


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(b"ID,Labels\n" + content)
    try:
        found = read_submission(path, NAMES)
    except DataError:
        return
    assert len(found.ids) == len(found.labels) > 0
    assert found.labels.max() < 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a.csv", [3, 0, 9, 1] * 5)
    second = write(tmp_path / "b.csv", ["cat", "bird", "truck", "automobile"] * 5, header="id,label")
    output = tmp_path / "out" / "changed.csv"
    assert main(["diff", str(first), str(second), "--show", "2", "--output", str(output), "--truth", str(first)]) == 0
    shown = capsys.readouterr().out
    assert "the same answer for 15 of 20 images (75.00%)" in shown
    assert "2 of 5 images with different answers" in shown
    assert "\n1   airplane  bird\n5   airplane  bird\n" in shown
    assert f"{second}: 75.00% of 20 right" in shown
    assert output.read_text().splitlines() == ["id,A,B", *(f"{image},airplane,bird" for image in (1, 5, 9, 13, 17))]
    assert main(["diff", str(first), str(second), "--output", str(output)]) == 2
    assert main(["diff", str(first), str(second), "--show", "-1"]) == 2
    names = write(tmp_path / "names.yaml", [])
    names.write_text(yaml.safe_dump(tiny_raw(data={"source": "cifar10", "classes": ["cat, tabby", *NAMES[1:]]})))
    whole = write(tmp_path / "c.csv", [0, 2])
    other = write(tmp_path / "d.csv", [0, 0])
    arguments = ["--config", str(names), "--output", str(output), "--overwrite"]
    assert main(["diff", str(whole), str(other), *arguments]) == 0
    assert list(csv.reader(output.read_text().splitlines())) == [["id", "A", "B"], ["1", "bird", "cat, tabby"]]
    second.write_text(second.read_text() + "20,fish\n")
    assert main(["diff", str(first), str(second)]) == 1
    assert f"{second}: has 1 row whose label is not a class name" in capsys.readouterr().out


def test_records_beside_the_csvs_say_how_they_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    birds = ("bird", "heron", "ibis")  # the first is a class of CIFAR-10 too, in another place
    sample = tmp_path / "sample.csv"
    sample.write_text("Image,Kind\np2.png,bird\np0.png,bird\np1.png,bird\n")
    numbers, names, plain = (tmp_path / name for name in ("numbers.csv", "names.csv", "plain.csv"))
    submit(made([2, 0, 1], classes=birds), numbers)
    submit(made([2, 0, 0], classes=birds), names, sample=sample)
    plain.write_text("ID,Labels\n0,2\n1,0\n2,1\n")  # without a record
    assert main(["diff", str(numbers), str(names), "--truth", str(plain)]) == 0
    shown = capsys.readouterr()
    assert "the same answer for 2 of 3 images (66.67%)" in shown.out
    assert "2   heron  bird" in shown.out
    assert f"{numbers}: 100.00% of 3 right" in shown.out
    assert "CIFAR-10" not in shown.err
    assert main(["diff", str(plain), str(plain)]) == 0
    assert "note: read by the classes of CIFAR-10" in capsys.readouterr().err
    submit(made([1, 1, 1], classes=("ibis", "heron", "bird")), tmp_path / "turned.csv")
    assert main(["diff", str(numbers), str(tmp_path / "turned.csv")]) == 3
    assert "have the same classes in another order, first bird and ibis in place 0" in capsys.readouterr().err


def test_check_reads_by_the_record_beside_the_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_unlabelled(tmp_path / "test.pkl", np.zeros((3, 32, 32, 3), np.uint8), np.arange(3))
    path, unread = tmp_path / "a.csv", ["--file", str(tmp_path / "test.pkl")]
    months = tuple(str(month) for month in range(1, 13))
    submit(made([11, 0, 3], classes=months).with_meta(allowed_rows=3), path)
    assert main(["check", str(path), *unread]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{path}: valid, 3 rows\n"
    assert f"note: checked by classes and rules of the record {tmp_path / 'a.json'}" in shown.err
    path.write_text("ID,Labels\n0,0\n1,1\n2,4\n")
    assert main(["check", str(path), *unread]) == 1
    assert "whose label is not the number of a class, first in line 2: '0,0'" in capsys.readouterr().out
    (tmp_path / "a.json").write_text("[1, 2")
    assert main(["check", str(path), *unread]) == 3
    assert "a.json is not a record" in (said := capsys.readouterr().err)
    assert "expected the record of a.csv: move it elsewhere, or name a config" in said
    (tmp_path / "a.json").unlink()
    assert main(["check", str(path), *unread, "--allow-rows", "3"]) == 0
    assert "note: checked by the classes of CIFAR-10" in capsys.readouterr().err


def test_check_warns_of_the_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(60, 32, 32, 3), dtype=np.uint8)
    write_unlabelled(tmp_path / "test.pkl", pixels, np.arange(60))
    path = write(tmp_path / "a.csv", [image // 6 for image in range(60)])
    assert main(["check", str(path), "--file", str(tmp_path / "test.pkl"), "--allow-rows", "60"]) == 0
    shown = capsys.readouterr()
    assert f"warning: {path}: rows of one class stand together, 10 runs" in shown.err
    assert shown.out == f"{path}: valid, 60 rows\n"


def test_a_csv_of_another_competition_is_read_by_its_rules(tmp_path: Path) -> None:
    path, rules = tmp_path / "theirs.csv", Rules(submission="Id,Category", labels="names", ids="00.png")
    path.write_text("Id,Category\n03.png,cat\n12.png,dog\n")
    found = read_submission(path, NAMES, rules)
    assert (found.ids.tolist(), found.labels.tolist(), found.faults) == ([3, 12], [3, 5], ())
    path.write_text("ID,Labels\n3,4\n")
    assert read_submission(path, NAMES, rules).labels.tolist() == [4]


@pytest.mark.parametrize(("header", "odd", "usual"), [("id,label", "3", "cat"), ("ID,Labels", "cat", "3")])
def test_one_label_of_another_kind_is_that_rows_fault_alone(header: str, odd: str, usual: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join([header, f"0,{odd}", *(f"{number},{usual}" for number in range(1, 10))]) + "\n")
    found = read_submission(tmp_path / "a.csv", NAMES)
    assert found.labels.tolist() == [3] * 9
    assert [fault.startswith("has 1 row whose label is not") for fault in found.faults if "label is not" in fault] == [True]


@pytest.mark.parametrize(
    ("header", "image", "label"),
    [
        ("image_id,label", "{:05d}.png", "cat"),
        ("Id,Category", "{}", "3"),
        ("id,label", "img-{}", "cat"),
        ("ID,Labels", "{}", "3"),
        ("id,label", "{}", "3"),
        ("ID,Labels", "{}", "cat"),
    ],
)
def test_whatever_a_sample_asked_for_is_read(header: str, image: str, label: str, tmp_path: Path) -> None:
    rows = [f"{image.format(number)},{label}" for number in (7, 5, 12)]
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]) + "\n")
    found = read_submission(tmp_path / "a.csv", NAMES)
    assert (found.ids.tolist(), found.labels.tolist(), found.faults) == ([7, 5, 12], [3, 3, 3], ())
