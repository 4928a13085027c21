"""A survey of a data set for readers: tables for the terminal; Markdown, pictures and CSV in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cifar_small.data.duplicates import NEAR
from cifar_small.data.images import SIDE
from cifar_small.data.pictures import KERNEL
from cifar_small.evaluation.data_survey import COMPARED, CopyPair, DataSurvey, ImageRef
from cifar_small.figures.data_survey import draw_class_counts, draw_samples, draw_tiles, side_by_side
from cifar_small.figures.style import save
from cifar_small.files import to_csv, write_atomic
from cifar_small.reporting.tables import Table, to_markdown, to_text
from cifar_small.wording import plural

PICTURES = {
    "class_counts.png": "Images of each class",
    "samples.png": "Images of each class, drawn at random from train",
    "copies.png": "Copies side by side",
    "suspects.png": "Suspected label errors",
}
FILES = ("data.md", "copies.csv", "suspects.csv", *PICTURES)
LONGEST = 20  # classes and suspects in the terminal's tables
SAMPLES, MOST_CLASSES = 12, 100
PAIRS, SUSPECTS = 24, 30  # drawn
MANY_NEAR = 0.2  # share of train that are near copies, more than photographs have


def describe_survey(survey: DataSurvey) -> str:
    """The facts and tables, for the terminal."""
    facts = [survey.source, *_facts(survey)]
    if len(survey.classes) > LONGEST:
        facts.append(f"the counts of all {len(survey.classes):,} classes are in data.md")
    return "\n\n".join(["\n".join(facts), to_text(list(_tables(survey, LONGEST)))])


def _facts(survey: DataSurvey) -> list[str]:
    lines = [
        f"channel means {_numbers(survey.mean)}, standard deviations {_numbers(survey.std)}: red, green, blue of train in 0..1",
    ]
    if survey.sizes:
        most = ", ".join(f"{width}x{height} ({count:,})" for (width, height), count in survey.sizes.most_common(5))
        more = f" and {len(survey.sizes) - 5:,} other sizes" if len(survey.sizes) > 5 else ""
        resized = sum(count for size, count in survey.sizes.items() if size != (SIDE, SIDE))
        lines.append(f"pictures of train and val as stored: {most}{more}")
        if resized:
            lines.append(f"{plural(resized, 'picture')} resized to {SIDE}x{SIDE}: {KERNEL}")
    if survey.without_label:
        lines.append(f"{plural(survey.without_label, 'picture')} of train/ left out: the CSV of labels names no class for them")
    lines += survey.notes
    if survey.no_test:
        lines.append(f"no test part was read: {survey.no_test}")
    if survey.labels is None:
        lines.append("labels were not checked: that takes predictions of val, by runs on this data")
    return lines


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _tables(survey: DataSurvey, longest: int | None = None) -> Iterator[Table]:
    """longest: rows at most of classes, which are left out where there are more, and of suspects; None: no limit."""
    yield _splits_table(survey)
    if longest is None or len(survey.classes) <= longest:
        yield _classes_table(survey)
    yield _copies_table(survey)
    if survey.labels is not None:
        yield _suspects_table(survey, longest)


def _splits_table(survey: DataSurvey) -> Table:
    rows = []
    for part, counts in survey.counts.items():
        low, high = int(counts.min()), int(counts.max())
        ends = [
            f"{'each' if low == high else survey.classes[at]} {counts[at]:,} ({counts[at] / counts.sum():.2%})"
            for at in (counts.argmin(), counts.argmax())
        ]
        ratio = f"{high / low:.2f}" if low else "-"
        rows.append((part, f"{counts.sum():,}", f"{(counts > 0).sum()}", *ends, ratio))
    header = ("split", "images", "classes", "smallest class", "largest class", "ratio")
    notes = ["the share of the largest class is the accuracy of always answering it"]
    if "test" in survey.counts:
        notes.append("labels of test are counted by class and used for nothing else")
    return Table("Splits", header, tuple(rows), tuple(notes), "splits")


def _classes_table(survey: DataSurvey) -> Table:
    rows = []
    for at, name in enumerate(survey.classes):
        share = survey.counts["train"][at] / survey.counts["train"].sum()
        rows.append((name, *(f"{counts[at]:,}" for counts in survey.counts.values()), f"{100 * share:.2f}"))
    return Table("Classes", ("class", *survey.counts, "% of train"), tuple(rows), (), "classes")


def _copies_table(survey: DataSurvey) -> Table:
    rows = []
    for part, other in COMPARED:
        if part not in survey.parts or other not in survey.parts:
            continue
        pairs, images = survey.copies_of(part, other), len(survey.parts[part])
        of = f"earlier ones of {other}" if part == other else other
        exact = sum(pair.exact for pair in pairs)
        share, mirrored = f"{100 * len(pairs) / images:.2f}", f"{sum(pair.mirrored for pair in pairs):,}"
        contradict = f"{sum(pair.contradicts for pair in pairs):,}" if "test" not in (part, other) else ""
        rows.append((part, of, f"{images:,}", f"{exact:,}", f"{len(pairs) - exact:,}", share, mirrored, contradict))
    header = ("images of", "copies of", "compared", "exact", "near", "% of images", "of them mirrored", "other label")
    notes = [
        f"near: details correlate by {NEAR} or more, also moved by up to two pixels, brightened or compressed again",
        "other label: copies within train and val that are labelled as another class; labels of test are not compared",
    ]
    if "test" in survey.parts:
        copied = {pair.image.id for other in ("train", "val") for pair in survey.copies_of("test", other)}
        notes.append(f"images of test with a copy in train or val: {len(copied):,}; a net may know them by heart")
    if len(survey.copies_of("train", "train")) > MANY_NEAR * len(survey.parts["train"]):
        notes.append(
            "near was chosen on photographs; of digits, drawings and the like it finds far too many: look at some pairs"
        )
    return Table("Copies", header, tuple(rows), tuple(notes), "copies")


def _suspects_table(survey: DataSurvey, longest: int | None) -> Table:
    check = survey.labels
    assert check is not None
    rows = [
        (str(one.image.id), one.image.part, one.image.label, one.suggested, *_shares(one.given_share, one.suggested_share))
        for one in check.suspects[: longest or SUSPECTS]
    ]
    left = sum(len(survey.parts[part]) for part in ("train", "val")) - check.images
    notes = [
        f"{plural(len(check.suspects), 'suspect')} of {check.images:,} images ({_share(len(check.suspects), check.images)}) by "
        f"{plural(check.files, 'predictions file')} of nets that did not train on them, most suspected first"
        + (f"; {len(check.suspects) - len(rows):,} more are in suspects.csv" if len(rows) < len(check.suspects) else ""),
        "a suspect is an image whose probability for another class reaches the mean of that class's own images (confident "
        "learning, Northcutt et al. 2021); hard images are among them too: look at each before changing a label",
    ]
    if left:
        notes.append(f"{left:,} images of train and val have no such predictions and were not judged")
    header = ("id", "split", "label", "suggested", "% label", "% suggested")
    return Table("Suspected label errors", header, tuple(rows), tuple(notes), "suspects")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "none was predicted"


def _shares(*values: float) -> Iterator[str]:
    return (f"{100 * value:.1f}" for value in values)


def write_survey(survey: DataSurvey, folder: Path) -> list[Path]:
    """Write the page, its pictures and the CSV files into a folder; returns their paths."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # a survey that this one replaces may have drawn more than this one
    copies = (
        [*_place(pair.image), *_place(pair.other), f"{pair.likeness:.4f}", pair.exact, pair.mirrored, pair.contradicts]
        for pair in survey.copies
    )
    header = ["id", "split", "label", "file"]
    others = [f"other_{name}" for name in header]
    more = ["correlation", "exact", "mirrored", "other_label_differs"]
    write_atomic(folder / "copies.csv", to_csv([*header, *others, *more], copies).encode())
    if survey.labels is not None:
        suspects = (
            [
                *[*_place(one.image), one.suggested],
                *(f"{value:.4f}" for value in (one.given_share, one.suggested_share, one.margin)),
                one.nets,
            ]
            for one in survey.labels.suspects
        )
        shares = ["suggested", "label_probability", "suggested_probability", "margin", "nets"]
        write_atomic(folder / "suspects.csv", to_csv([*header, *shares], suspects).encode())
    _draw(survey, folder)
    pictures = [f"## {title}\n\n![{title}]({name})" for name, title in PICTURES.items() if (folder / name).exists()]
    page = [f"# {survey.source}", *_facts(survey), to_markdown(list(_tables(survey))), *pictures]
    write_atomic(folder / "data.md", ("\n\n".join(page) + "\n").encode())
    return [path for name in FILES if (path := folder / name).exists()]


def _place(image: ImageRef) -> tuple[int, str, str, str]:
    return image.id, image.part, image.label, str(image.file or "")


def _draw(survey: DataSurvey, folder: Path) -> None:
    total = plural(sum(map(len, survey.parts.values())), "image")
    save(draw_class_counts(survey.counts, survey.classes, f"{survey.source}: {total}"), folder / "class_counts.png")
    save(draw_samples(_samples(survey), f"{survey.source}: images of each class"), folder / "samples.png")
    if survey.copies:
        # Of those with two labels the surest come first; of the others those that show how far "near" goes.
        differing = sorted((pair for pair in survey.copies if pair.contradicts), key=lambda pair: -pair.likeness)
        others = sorted((pair for pair in survey.copies if not pair.contradicts), key=lambda pair: pair.likeness)
        pairs = [*differing, *others][:PAIRS]
        tiles = [(side_by_side(pair.image.pixels, pair.other.pixels), *_captions(pair)) for pair in pairs]
        first = (
            f"first those whose labels differ ({len(differing):,}), the most alike before others; then " if differing else ""
        )
        title = f"{len(pairs)} of {plural(len(survey.copies), 'copy', 'copies')}: {first}the least alike"
        save(draw_tiles(tiles, title), folder / "copies.png")
    if survey.labels is not None and survey.labels.suspects:
        drawn = survey.labels.suspects[:SUSPECTS]
        title = f"the {len(drawn)} most suspected of {len(survey.labels.suspects):,}: label above, what the nets say below"
        said = [f"{one.suggested} {one.suggested_share:.0%}\n{one.image.part} {one.image.id}" for one in drawn]
        tiles = [(one.image.pixels, one.image.label, below) for one, below in zip(drawn, said, strict=True)]
        save(draw_tiles(tiles, title), folder / "suspects.png")


def _captions(pair: CopyPair) -> tuple[str, str]:
    labels = pair.image.label or pair.other.label
    if pair.contradicts:
        labels = f"{pair.image.label} | {pair.other.label}"
    how = "exact" if pair.exact else f"{pair.likeness:.2f}"
    mirrored = ", mirrored" if pair.mirrored else ""
    return labels, f"{pair.image.part} {pair.image.id} | {pair.other.part} {pair.other.id}\n{how}{mirrored}"


def _samples(survey: DataSurvey) -> list[tuple[str, np.ndarray]]:
    """Some images of each class of train, the same at every call."""
    train = survey.parts["train"]
    assert train.labels is not None
    rng = np.random.default_rng(0)
    found = []
    for label in range(min(len(survey.classes), MOST_CLASSES)):
        members = np.flatnonzero(train.labels == label)
        found.append((survey.classes[label], train.images[rng.permutation(members)[:SAMPLES]]))
    return found
