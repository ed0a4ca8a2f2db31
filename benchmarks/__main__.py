"""``python -m benchmarks NAME --json FILE``; without a name, all of them."""

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
    "pulsed_update",
    "in_memory_step",
    "wires",
    "encoder_step",
    "layers_step",
)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run benchmarks, print their figures, keep them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="one benchmark; all without it")
    parser.add_argument("--json", type=Path, help="where to write (default: benchmarks/results/NAME.json)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NAMES))
        return
    if options.json and not options.name:
        parser.error("--json needs the name of one benchmark")
    for name in [options.name] if options.name else NAMES:
        run(name, options.json or RESULTS / f"{name}.json")


def run(name: str, path: Path) -> None:
    """Run one benchmark and write its figures."""
    result = as_dict(name, figures := importlib.import_module(f"benchmarks.{name}").figures())
    print(f"{name}: {result['machine']}")
    for figure in figures:
        print(f"  {figure}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
