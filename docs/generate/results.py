"""Store a finished run in docs/results and write what shows it: its page, README.md's numbers, the picture.

``python docs/generate/results.py results/demo`` (``make results``). The demo is the run of README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from generate import pages, picture, readme, stored
from logitfusion.errors import UserError
from logitfusion.files import write_text


def main(results: Path) -> None:
    """Store a run and write anew what depends on it."""
    run = stored.collect(results)
    tables = {track: (results / name).read_text() for track, name in pages.TABLES.items() if (results / name).is_file()}
    page = pages.compose(run, tables)
    stored.write(run)
    write_text(stored.FOLDER / f"{run.facts.run}.md", page)
    print(f"Stored run {run.facts.run} in {stored.FOLDER}")
    if run.facts.run == readme.RUN:
        picture.draw(stored.read(readme.RUN), picture.PATH)
        readme.write()
        print(f"Wrote {picture.PATH} and the numbers of {readme.PATH}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
