"""Download the files of a task's data set of the hub, and write the record of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.texts import HubRows
from logitfusion.files import write_json
from logitfusion.stages._stage import logger, run_stage
from logitfusion.tasks.hub_rows import fetch_rows


def main(arguments: argparse.Namespace, source: HubRows) -> None:
    fetched = fetch_rows(source, arguments.revisions)
    write_json(arguments.output, fetched.dump())
    size = sum(file["size"] for file in fetched.download["files"])
    told = arguments.task, source.dataset, fetched.download["commit"], size / 1e6
    logger.info("%s: %s at %s, %.1f MB, checked", *told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="its name, for messages")
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="record.json")
    run_stage(main, parser, HubRows)
