"""Download a model of the hub, and make the folder that refers to its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.models import HubModel
from logitfusion.files import whole
from logitfusion.models.hub import refer_to_hub
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, entry: HubModel) -> None:
    with whole(arguments.output) as folder:
        folder.mkdir()
        found = refer_to_hub(entry, folder, arguments.revisions, arguments.name)
    logger.info("%s: %s at %s, %.1f MB, checked", arguments.name, found.id, found.commit, found.size / 1e6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, HubModel)
