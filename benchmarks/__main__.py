"""Run benchmarks: ``python -m benchmarks NAME --json FILE``, or all without a name."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from benchmarks.harness import as_dict

NAMES = (
    "forward",
    "hwa_step",
    "devices",
    "noise",
    "program",
    "pulsed_update",
    "in_memory_step",
    "wires",
    "encoder_step",
    "layers_step",
    "large_model",
    "chips",
)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run benchmarks, print their figures, and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="benchmark to run; all by default")
    parser.add_argument("--json", type=Path, help="output file (default: benchmarks/results/NAME.json)")
    parser.add_argument("--list", action="store_true", help="print the names and exit")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NAMES))
        return
    if options.json and not options.name:
        parser.error("--json requires the name of one benchmark")
    for name in [options.name] if options.name else NAMES:
        run(name, options.json or RESULTS / f"{name}.json")


def run(name: str, path: Path) -> None:
    """Run one benchmark and write its figures."""
    result = as_dict(name, figures := importlib.import_module(f"benchmarks.{name}").figures())
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    for figure in figures:
        print(f"  {figure}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
