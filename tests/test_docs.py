"""Every ``python`` block of the README and of ``docs`` runs; the blocks of a page share one namespace."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
BLOCK = re.compile(r"^(?P<indent> *)```python\b[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str]]:
    """The python blocks of a page: the number of lines before each, and its code."""
    return [(text.count("\n", 0, m.start("code")), textwrap.dedent(m["code"])) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page.read_text(encoding="utf-8")):
        # Pad the code to its line on the page, so that tracebacks show line numbers of the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_finds_indented_blocks_and_only_python_ones():
    page = (
        "a\n```python\nx = 1\n```\n```text\nno\n```\n"
        "- b\n\n    ```python title='c'\n    if x:\n        x = 2\n    ```\n"
    )
    assert blocks(page) == [(2, "x = 1\n"), (10, "if x:\n    x = 2\n")]
