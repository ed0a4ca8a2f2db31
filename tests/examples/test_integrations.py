"""The examples with other frameworks, on a subset of real data; skipped if the framework or the data is missing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# These frameworks raise their own warnings.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import an example if its framework and the data are available."""
    for folder in (EXAMPLES, EXAMPLES / "integrations"):
        monkeypatch.syspath_prepend(str(folder))
    data, fetch = (importlib.import_module(m) for m in ("_data", "_fetch"))
    # .ci/run fetches the data.
    if fetch.faults(data.MNIST, fetch.cache_folder() / data.MNIST.name):
        pytest.skip("MNIST is not in the cache: python examples/_data.py --fetch mnist")

    def found(name: str, framework: str) -> Any:
        pytest.importorskip(framework, reason=f"{framework} is not installed: pip install .[integrations]")
        return importlib.import_module(name)

    yield found
    for name in ("lightning_mnist", "accelerate_mnist", "huggingface_trainer", "_slice"):
        sys.modules.pop(name, None)


def test_lightning(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert example("lightning_mnist", "lightning").main(images=1500, epochs=2) > 0.6


def test_accelerate(example: Any) -> None:
    assert example("accelerate_mnist", "accelerate").main(images=1000, epochs=2) > 0.5


def test_hugging_face_trainer(example: Any) -> None:
    first, last = example("huggingface_trainer", "transformers").main(images=480, epochs=2)
    assert last < 0.9 * first
