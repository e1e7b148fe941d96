"""Replace a run's links to models by copies, so that it can be moved to a machine that has not got them."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a run (results/NAME), or of a model in it")


def run(arguments: argparse.Namespace) -> None:
    from logitfusion.models.materialise import find_links, materialise

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("logitfusion").setLevel(logging.INFO)
    links = find_links(arguments.folder)
    if not links:
        print(f"{arguments.folder} holds no links: nothing to do.")
        return
    size = materialise(links)
    models = ", ".join(dict.fromkeys(link.folder.name for link in links))
    print(f"{arguments.folder}: {len(links)} files copied, {size / 1e9:.3g} GB, of {models}.")
