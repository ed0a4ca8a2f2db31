"""What the build of the site adds to mkdocs: MathJax from a local copy, and API entries under their public names."""

from __future__ import annotations

import importlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.site")
ROOT = Path(__file__).parents[2]
MATHJAX = ROOT / "build" / "mathjax" / "node_modules" / "mathjax" / "es5" / "tex-svg.js"
REFERENCE = re.compile(r"\]\[(phasegrad[\w.]+)\]")
ENTRY = re.compile(r"^::: (phasegrad[\w.]*)\n((?:    .*\n?)*)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Load MathJax where `make docs` could install it. Without it, pages show formulas as TeX."""
    if MATHJAX.is_file():
        config.extra_javascript += ["javascripts/mathjax.js", "javascripts/tex-svg.js"]
    else:
        LOG.info("MathJax is not installed (make docs needs npm for it): formulas stay as TeX")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Copy MathJax into the site, so that readers load nothing from elsewhere."""
    if MATHJAX.is_file():
        files.append(File.generated(config, "javascripts/tex-svg.js", abs_src_path=str(MATHJAX)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Resolve the public names of functions that a module of the same name hides from mkdocstrings."""
    if page.file.src_uri.startswith("api/"):
        markdown = ENTRY.sub(_entry, markdown)
    return REFERENCE.sub(lambda found: f"][{_defined(found[1])}]", markdown)


def _entry(found: re.Match[str]) -> str:
    defined, name = _defined(found[1]), found[1].rpartition(".")[2]
    if defined == found[1]:
        return found[0]
    options = found[2].rstrip() or "    options:"
    return f"::: {defined}\n{options}\n      heading: {name}\n      toc_label: {name}\n"


def _defined(public: str) -> str:
    """The path of a function whose module has its name, or the path as it is."""
    package, _, name = public.rpartition(".")
    try:
        value = getattr(importlib.import_module(package), name, None)
    except (ImportError, ValueError):  # the member of a class, or phasegrad itself
        return public
    module = getattr(value, "__module__", "")
    return f"{module}.{name}" if callable(value) and module.rpartition(".")[2] == name else public
