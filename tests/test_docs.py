"""Every ``python`` block of the README and of ``docs`` runs as it stands and prints the output that the page shows.

The blocks of a page share one namespace. The output of a block is the ``text`` block that directly follows it. Words
are compared exactly, whitespace is not, and neither are the last digits of numbers. Results that differ between
machines or backends are exempt where the comment ``<!-- output: not compared -->`` stands before the block.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

import phasegrad as pg

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
COLUMNS = 88  # what a block's column shows without scrolling
RELATIVE = 0.02
BLOCK = re.compile(
    r"(?P<exempt><!-- output: not compared -->\s*)?"
    r"^(?P<indent> *)```python\b[^\n]*\n(?P<code>.*?)^(?P=indent)```\n"
    r"(?:\s*^(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```)?",
    re.MULTILINE | re.DOTALL,
)
FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?")
# README.md is read on other sites too, where an image or a page is found from the root of the repository.
PACKAGES = [name for name in pg.__all__ if inspect.ismodule(getattr(pg, name))]
NO_ENTRY = ("format_time",)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


class Block(NamedTuple):
    """A python block, the number of the line before it, and the output that the page shows for it."""

    line: int
    code: str
    output: str | None = None
    exempt: bool = False


def blocks(text: str) -> list[Block]:
    return [
        Block(
            text.count("\n", 0, found.start("code")),
            textwrap.dedent(found["code"]),
            None if found["output"] is None else textwrap.dedent(found["output"]),
            bool(found["exempt"]),
        )
        for found in BLOCK.finditer(text)
    ]


def tolerance(number: str) -> float:
    """Integers are exact; other numbers may be off by 2 %, or by one in the last digit that is shown."""
    mantissa, _, exponent = number.replace(",", "").partition("e")
    if "." not in mantissa and not exponent:
        return 0.0
    last_digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return 1e-9 + max(RELATIVE * abs(float(number.replace(",", ""))), last_digit)


def difference(shown: str, printed: str) -> str | None:
    """The first difference between the output that a page shows and the one that its block printed."""
    shown, printed = " ".join(shown.split()), " ".join(printed.split())
    if re.sub(r"\s", "", NUMBER.sub("#", shown)) != re.sub(r"\s", "", NUMBER.sub("#", printed)):
        return f"the page shows\n{shown}\nand the block prints\n{printed}"
    for of_page, of_block in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        off = abs(float(of_page.replace(",", "")) - float(of_block.replace(",", "")))
        if off > tolerance(of_page):
            return f"the page shows {of_page} where the block prints {of_block}, in\n{printed}"
    return None


def run(page: str, name: str) -> list[str]:
    """Execute the blocks of a page. Returns what is wrong with the outputs that it shows."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    wrong = []
    for block in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error", pg.nn.UncalibratedWarning)
            # Padded to its place on the page, so that a traceback shows the page's own lines.
            exec(compile("\n" * block.line + block.code, name, "exec"), namespace)
        if not block.exempt and (found := difference(block.output or "", printed.getvalue())):
            wrong.append(f"{name}, block after line {block.line}: {found}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = run(page.read_text(encoding="utf-8"), str(page))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_fit_their_column(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    long = [line for found in FENCED.finditer(text) for line in found[3].splitlines() if len(line) > COLUMNS]
    assert not long, f"{len(long)} lines of code are longer than {COLUMNS} columns:\n" + "\n".join(long)


def test_readme_links_exist() -> None:
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("package", ["phasegrad", *(f"phasegrad.{name}" for name in PACKAGES)])
def test_api_pages_have_every_public_name(package: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = {entry.rpartition(".")[2] for entry in re.findall(r"^::: (phasegrad[\w.]*)", text, re.MULTILINE)}
    names = set(importlib.import_module(package).__all__) - set(NO_ENTRY)
    assert names - shown - set(pg.__all__) == set()


def test_finds_indented_blocks_their_outputs_and_only_python_ones() -> None:
    page = (
        "a\n```python\nx = 1\n```\n```text\nyes\n```\n"
        "- b\n\n    ```python title='c'\n    if x:\n        x = 2\n    ```\n\nbetween\n```text\nno\n```\n"
        "<!-- output: not compared -->\n```python\nprint(2)\n```\n"
    )
    assert blocks(page) == [
        Block(2, "x = 1\n", "yes\n"),
        Block(10, "if x:\n    x = 2\n"),
        Block(20, "print(2)\n", None, True),
    ]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("sd 0.212 of 3", "sd 0.215 of 3"),  # within 2 %
        ("0.01", "0.02"),  # one in the last digit
        ("-0.00 and 0.00", "0.00 and 0.00"),
        ("8.64e+04 s", "8.7e+04 s"),
        ("a line that\nis  wrapped", "a line that is wrapped\n"),
        ("[ 0.5, -1.]", "[0.5, -1.]"),
        ("230,800 devices", "230,800 devices"),
    ],
)
def test_outputs_within_the_tolerance_are_equal(shown: str, printed: str) -> None:
    assert difference(shown, printed) is None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("0.212", "0.089"),
        ("0.500", "0.511"),
        ("1.00", "-1.00"),
        ("794 devices", "795 devices"),
        ("[4, 3]", "[4, 3, 1]"),
        ("digital", "programmed"),
        ("", "something"),
        ("something", ""),
    ],
)
def test_outputs_beyond_the_tolerance_are_not(shown: str, printed: str) -> None:
    assert difference(shown, printed) is not None


def test_a_page_with_a_wrong_output_fails_unless_it_is_exempt() -> None:
    page = "```python\nprint(1 / 3)\n```\n\n```text\n0.212\n```\n"
    assert "shows 0.212 where the block prints 0.3333" in run(page, "page.md")[0]
    assert run(page.replace("0.212", "0.333"), "page.md") == []
    assert run("<!-- output: not compared -->\n" + page, "page.md") == []
