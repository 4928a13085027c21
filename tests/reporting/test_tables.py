"""Tables for a terminal, Markdown and LaTeX: aligned, escaped, and narrow enough for a page of two columns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_small.reporting.tables import Table, latex_escaped, to_latex, to_markdown, to_text

SMALL = Table("Nets", ("net", "size", "kind"), (("a_b", "1,000", "x"), ("c", "20", "")), ("a note",), "nets")


def test_text_is_aligned_numbers_to_the_right() -> None:
    assert to_text([SMALL]).split("\n") == [
        "Nets",
        "net   size  kind",
        "a_b  1,000  x",
        "c       20",
        "a note",
    ]


def test_long_notes_are_wrapped() -> None:
    note = "word " * 50
    lines = to_text([Table("t", ("net", "x"), (("a", "1"),), (note,))]).split("\n")[3:]
    assert [len(line) <= 100 for line in lines] == [True] * 3
    assert " ".join("".join(f" {line}" for line in lines).split()) == note.strip()


def test_names_stand_to_the_left_even_when_they_are_numbers() -> None:
    table = Table("t", ("net", "p"), (("433", "<0.001"), ("9", "+0.12 [-0.10, +0.34]")))
    assert table.numeric == [False, True]
    assert Table("t", ("net", "p"), (("433", ""),)).numeric == [False, False]


def test_markdown() -> None:
    shown = to_markdown([SMALL, Table("Pipes", ("a|b", "c"), (("1 | 2", "*x*"),))])
    assert shown.split("\n") == [
        "**Nets**",
        "",
        "| net | size | kind |",
        "|---|---:|---|",
        r"| a\_b | 1,000 | x |",
        "| c | 20 |  |",
        "",
        "- a note",
        "",
        "**Pipes**",
        "",
        r"| a\|b | c |",
        "|---|---|",
        r"| 1 \| 2 | \*x\* |",
    ]


def test_latex() -> None:
    lines = to_latex([SMALL]).split("\n")
    assert lines == [
        r"% needs \usepackage{booktabs} in the preamble",
        "",
        r"\begin{table*}[t]",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        r"\begin{tabular}{@{}lrl@{}}",
        r"\toprule",
        r"net & size & kind \\",
        r"\midrule",
        r"a\_b & 1,000 & x \\",
        r"c & 20 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\caption{Nets: a note.}",
        r"\label{tab:nets}",
        r"\end{table*}",
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("50 % of a_b & c#1 {x} $2", r"50 \% of a\_b \& c\#1 \{x\} \$2"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("<0.001", r"\textless{}0.001"),
        ("93.50 ± 0.20", r"93.50 $\pm$ 0.20"),
        ("+0.12 [-0.30, +0.54]", r"+0.12 {[}$-$0.30, +0.54{]}"),
        ("resnet-18 seeds 1-3", "resnet-18 seeds 1-3"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_escaping(text: str, escaped: str) -> None:
    assert latex_escaped(text) == escaped


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_no_letter_of_a_cell_is_read_as_latex(text: str) -> None:
    escaped = latex_escaped(text)
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}"):
        escaped = escaped.replace(known, "")
    for known in (r"\textbar{}", "{[}", "{]}", "$-$", *(f"\\{letter}" for letter in "&%$#_{}")):
        escaped = escaped.replace(known, "")
    assert not re.search(r"[\\~^&%$#_{}\[\]<>|]", escaped)


def test_a_table_wider_than_the_page_says_so() -> None:
    wide = Table("t", ("net", "x"), (("n" * 150, "1"),))
    assert re.match(r"% wider than the page by about \d+%: give shorter names", to_latex([wide]).split("\n")[2])
    assert "wider" not in to_latex([SMALL])
