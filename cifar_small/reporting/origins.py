"""What a page speaks of, one model or the seeds of one recipe, and where the numbers of each come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cifar_small.evaluation.compare import Comparison, Group, epochs_text
from cifar_small.evaluation.entries import Entry, EntryRow
from cifar_small.inference.ensemble import TITLES
from cifar_small.runs.records import NetFacts, Session, members_were_chosen
from cifar_small.wording import plural

FEW = 4  # a page of more models shows the seeds of a recipe together
STATUSES = ("", "good", "warn", "bad")  # classes of the style sheet, the worst last


@dataclass(frozen=True)
class Subject:
    """One model, or the seeds of one recipe, which the page then shows by mean and sd."""

    name: str
    entries: tuple[Entry, ...]
    rows: tuple[EntryRow, ...]
    group: Group | None = None


@dataclass(frozen=True)
class Answer:
    """A cell of the table of origins; status is the class that the style sheet colors."""

    text: str
    status: str = ""


@dataclass(frozen=True)
class Question:
    """A row of the table of origins: one answer a subject."""

    question: str
    answers: tuple[Answer, ...]

    def together(self) -> list[tuple[Answer, list[int]]]:
        """Each different answer with the places of the subjects that give it."""
        return [
            (one, [place for place, other in enumerate(self.answers) if other == one]) for one in dict.fromkeys(self.answers)
        ]


def find_subjects(entries: Sequence[Entry], comparison: Comparison) -> list[Subject]:
    """What to show, in the order of the entries; each stands alone where there are few."""
    by_name = {entry.name: entry for entry in entries}
    groups = {row.name: group for group in comparison.groups if group.spreads for row in group.rows}
    subjects, done = [], set[str]()
    for row in comparison.rows:
        group = groups.get(row.name) if len(entries) > FEW else None
        if group is None:
            subjects.append(Subject(row.name, (by_name[row.name],), (row,)))
        elif group.name not in done:
            done.add(group.name)
            subjects.append(Subject(group.name, tuple(by_name[row.name] for row in group.rows), group.rows, group))
    return subjects


def find_origins(subjects: Sequence[Subject]) -> list[Question]:
    """The questions a grader asks; seeds of a recipe that answer differently are told apart."""
    by_weights = {str(entry.meta.weights_sha256): entry for subject in subjects for entry in subject.entries if entry.run}
    asked: list[tuple[str, Callable[[Entry, EntryRow], Answer]]] = [
        ("within its rules", lambda _, row: _legal(row)),
        ("started from", lambda _, row: _start(row)),
        ("made of", lambda entry, _: _made_of(entry)),
        ("taught by", lambda entry, _: _taught(entry)),
        ("weights chosen by", _selection),
        ("members weighted by", lambda entry, _: _weighting(entry)),
        ("test split read", lambda entry, _: _readings(entry, by_weights)),
        ("trained on", lambda _, row: Answer(row.data)),
        ("seed", lambda _, row: Answer("" if row.seed is None else str(row.seed))),
        ("views", lambda _, row: Answer(row.views)),
        ("epochs", lambda _, row: Answer(epochs_text(row.epochs))),
        ("minutes", lambda _, row: Answer("not known" if row.minutes is None else f"{row.minutes:.1f}")),
        ("hardware", lambda _, row: Answer(row.hardware or "not known")),
        ("sessions", lambda entry, _: _sessions(entry)),
        ("code", lambda entry, _: _code(entry)),
        ("weights", lambda entry, _: _hashes(entry)),
    ]
    questions = []
    for question, answer in asked:
        answers = [
            _joined([(row.seed, answer(entry, row)) for entry, row in zip(subject.entries, subject.rows, strict=True)])
            for subject in subjects
        ]
        if any(answer.text for answer in answers):  # nobody is taught where nobody has teachers
            questions.append(Question(question, tuple(answers)))
    return questions


def _joined(answers: Sequence[tuple[int | None, Answer]]) -> Answer:
    """The answers of seeds as one: what all say, or what each says, in the status of the worst."""
    status = max((answer.status for _, answer in answers), key=STATUSES.index)
    if len({answer.text for _, answer in answers}) == 1:
        return Answer(answers[0][1].text, status)
    if all(answer.text == str(seed) for seed, answer in answers):
        return Answer(", ".join(answer.text for _, answer in answers), status)
    return Answer("; ".join(f"seed {seed}: {answer.text}" for seed, answer in answers), status)


def _legal(row: EntryRow) -> Answer:
    return Answer(row.legal_text, "good" if row.legal else "bad")


def _start(row: EntryRow) -> Answer:
    text = ": ".join([row.start, *([", ".join(row.lineage)] if row.lineage else [])])
    return Answer(text, "good" if row.start == "scratch" else "warn")


def _made_of(entry: Entry) -> Answer:
    meta = entry.meta
    if meta.soup:
        taken = [one.label() for one in meta.soup if one.taken]
        tried = ", ".join(one.label() for one in meta.soup if not one.taken)
        return Answer(f"mean of the weights of {', '.join(taken)}" + (f"; left out: {tried}" if tried else ""))
    if meta.method is None:
        return Answer("")
    taken = [f"{part.label()} x {part.weight:.3f}" if meta.fitted_on else part.label() for part in entry.parts]
    left_out = f"; left out: {', '.join(member.label() for member in meta.left_out)}" if meta.left_out else ""
    return Answer(f"{TITLES[meta.method]}: {', '.join(taken)}{left_out}")


def _taught(entry: Entry) -> Answer:
    teachers = [teacher for part in entry.parts for teacher in part.teachers]
    return Answer(", ".join(dict.fromkeys(teacher.label() + (" as proxy" if teacher.role else "") for teacher in teachers)))


def _selection(entry: Entry, row: EntryRow) -> Answer:
    if entry.meta.soup:
        tried = members_were_chosen(entry.meta.soup)
        return Answer("accuracy on val chose the nets that are averaged" if tried else "all that were given are averaged")
    how = {"last": "the last epoch of a fixed schedule", "best": "the best accuracy on val"}.get(row.selection, row.selection)
    summary = entry.run.summary() if entry.run and entry.meta.checkpoint == "best" else None
    if summary is None:
        return Answer(how)
    early = f"; {summary.ended_early}" if summary.ended_early else ""
    return Answer(f"{how} (epoch {summary.selected_epoch} of {summary.epochs}{early})")


def _weighting(entry: Entry) -> Answer:
    fitted = entry.meta.fitted_on
    return Answer(f"{fitted.images:,} images of {fitted.split}" if fitted else "nothing" if entry.is_ensemble else "")


def _readings(entry: Entry, by_weights: Mapping[str, Entry]) -> Answer:
    """How often a run read test; of an ensemble, how often its members did, where their runs are on the page."""
    if entry.is_ensemble:
        members = [by_weights.get(str(part.weights_sha256)) for part in entry.parts]
        answers = [_readings(member, by_weights) for member in members if member is not None]
        if len(answers) < len(members):
            return Answer("not known")
        status = max((answer.status for answer in answers), key=STATUSES.index)
        return Answer("by its members: " + "; ".join(dict.fromkeys(answer.text for answer in answers)), status)
    if entry.run is None:
        return Answer("not known")
    readings, summary = entry.run.test_readings(), entry.run.summary()
    before = 0 if summary is None else summary.readings_before
    of_members = (
        "" if before == 0 else f"; in the runs of its soup {'an unknown number of' if before is None else before} before"
    )
    if not readings:
        return Answer(f"never{of_members}", "warn" if of_members else "")
    times = "once" if len(readings) == 1 else f"{len(readings)} times"
    dates = ", ".join(dict.fromkeys(reading.time[:10] for reading in readings))
    return Answer(f"{times} ({dates}){of_members}", "good" if len(readings) == 1 and not of_members else "warn")


def _sessions(entry: Entry) -> Answer:
    if entry.run is None:
        return Answer("")
    number = len(entry.run.sessions())
    return Answer("1, not interrupted" if number == 1 else f"{number}, resumed {plural(number - 1, 'time')}")


def _code(entry: Entry) -> Answer:
    made: Sequence[NetFacts | Session] = entry.parts if entry.run is None else entry.run.sessions()
    commits = list(dict.fromkeys(session.commit[:12] for session in made if session.commit))
    if any(session.dirty for session in made):
        return Answer(", ".join(commits) + ", with changes that were not committed", "warn")
    return Answer(", ".join(commits) or "not known", "good" if commits else "warn")


def _hashes(entry: Entry) -> Answer:
    return Answer(", ".join((part.weights_sha256 or "not known")[:12] for part in entry.parts))
