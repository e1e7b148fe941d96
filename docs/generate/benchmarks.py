"""Put the tables of benchmarks that have been run into docs/benchmarks.md (``make bench-results``)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from generate.parts import replace_part
from generate.stored import DOCS
from logitfusion.files import write_text

PAGE = DOCS / "benchmarks.md"
BENCHMARKS = (
    "fusion",
    "fusion-gpu",
    "fusion-13b",
    "fusion-13b-7b",
    "scoring",
    "training",
    "gld",
    "peers",
    "selection",
    "intervals",
    "gate",
    "fewshot",
    "fewshot-sets",
)


def main(folder: Path) -> None:
    """Replace the parts whose table is in the folder; the others stay as they are."""
    text = PAGE.read_text(encoding="utf-8")
    for name in BENCHMARKS:
        table = folder / f"{name}.md"
        if table.is_file():
            text = replace_part(text, name, table.read_text(encoding="utf-8"))
            print(f"Put {table} into {PAGE}")
    write_text(PAGE, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
