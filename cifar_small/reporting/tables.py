"""Tables for readers: aligned text for a terminal, Markdown, HTML, LaTeX with booktabs. Those for programs: files.to_csv."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

PAGE_WIDTH = 505.0  # points: both columns of an AAAI page, 7 inches
LETTER_WIDTH, COLUMN_SPACE = 4.2, 8.0  # points: a letter of 9-point Times in these tables, and the gap between columns
NOTE_WIDTH = 100  # letters of a note in a terminal, where its table is no wider


@dataclass(frozen=True)
class Table:
    """A table: its title, the column heads, rows of as many cells, and remarks below. The first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    label: str = "table"  # what LaTeX refers to it by

    @property
    def widths(self) -> list[int]:
        """Letters in the longest cell of each column."""
        return [max(len(row[column]) for row in (self.header, *self.rows)) for column in range(len(self.header))]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers and stand to the right: those whose cells, where not empty, all start like one."""
        columns = [[row[column] for row in self.rows if row[column]] for column in range(1, len(self.header))]
        return [False, *(bool(cells) and all(re.match(r"[-+<]?\d|-$", cell) for cell in cells) for cells in columns)]


def aligned(table: Table) -> str:
    """The table alone, without title and notes: columns as wide as their widest cell, numbers to the right."""
    columns = list(zip(table.widths, table.numeric, strict=True))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, (width, right) in zip(line, columns, strict=True)
        ).rstrip()
        for line in (table.header, *table.rows)
    )


def to_text(tables: Sequence[Table]) -> str:
    """For a terminal: columns aligned, numbers to the right."""
    return "\n\n".join(_text(table) for table in tables)


def _text(table: Table) -> str:
    lines = aligned(table).splitlines()
    width = max(NOTE_WIDTH, *(len(one) for one in lines))
    notes = [textwrap.fill(note, width, subsequent_indent="  ", break_on_hyphens=False) for note in table.notes]
    return "\n".join([*([table.title] if table.title else []), *lines, *notes])


def to_markdown(tables: Sequence[Table]) -> str:
    """For GitHub: pipe tables, the notes as a list below."""
    return "\n\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    notes = ["", *(f"- {_markdown_escaped(note)}" for note in table.notes)] if table.notes else []
    escaped = replace(
        table,
        header=tuple(map(_markdown_escaped, table.header)),
        rows=tuple(tuple(map(_markdown_escaped, row)) for row in table.rows),
    )
    return "\n".join([f"**{_markdown_escaped(table.title)}**", "", markdown_grid(escaped), *notes])


def markdown_grid(table: Table) -> str:
    """The pipe table alone, without title and notes, of cells that are Markdown already, such as links."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("---:" if right else "---" for right in table.numeric) + "|"
    return "\n".join([line(table.header), rule, *map(line, table.rows)])


def _markdown_escaped(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", " ".join(text.split()))


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "[": "{[}",  # at the start of a row it would be an argument of the \\ before it
    "]": "{]}",
}


def latex_escaped(text: str) -> str:
    """Text as LaTeX prints it, every special letter made harmless."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)  # a minus sign is longer than a hyphen


def to_latex(tables: Sequence[Table]) -> str:
    """For a two-column paper: one `table*` of booktabs rules each, in \\small type (9 points)."""
    head = "% needs \\usepackage{booktabs} in the preamble"
    return "\n\n".join([head, *(_latex(table) for table in tables)])


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(latex_escaped(cell) for cell in cells) + r" \\"

    excess = (LETTER_WIDTH * sum(table.widths) + COLUMN_SPACE * (len(table.header) - 1)) / PAGE_WIDTH - 1
    warning = [f"% wider than the page by about {excess:.0%}: give shorter names"] if excess > 0 else []
    columns = "".join("r" if right else "l" for right in table.numeric)
    caption = f"{table.title}: {'; '.join(table.notes)}." if table.notes else f"{table.title}."
    return "\n".join(
        [
            *warning,
            r"\begin{table*}[t]",
            r"\centering",
            r"\small",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            line(table.header),
            r"\midrule",
            *(line(row) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex_escaped(caption)}}}",
            rf"\label{{tab:{table.label}}}",
            r"\end{table*}",
        ]
    )


def to_html(tables: Sequence[Table]) -> str:
    """For a notebook: each table with its title above."""
    titled = (Markup("<p><b>{}</b></p>{}") if table.title else Markup("{}{}") for table in tables)
    return "".join(form.format(table.title, html_grid(table)) for form, table in zip(titled, tables, strict=True))


def html_grid(table: Table, sortable: bool = False) -> Markup:
    """A table as HTML, numbers to the right; its notes below."""
    aligned = [Markup(' class="number"') if right else Markup("") for right in table.numeric]

    def head(text: str, how: Markup) -> Markup:
        inner = Markup("<button>{}</button>").format(text) if sortable and text else escape(text)
        return Markup("<th{}>{}</th>").format(how, inner)

    heads = Markup("").join(head(text, how) for text, how in zip(table.header, aligned, strict=True))
    body = Markup("\n").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(how, cell) for cell, how in zip(row, aligned, strict=True))
        )
        for row in table.rows
    )
    notes = Markup("").join(Markup('<p class="soft">{}</p>').format(note) for note in table.notes)
    kind = Markup(' class="sortable"') if sortable else Markup("")
    whole = Markup('<div class="wide"><table{}><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>{}')
    return whole.format(kind, heads, body, notes)
