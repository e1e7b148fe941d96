"""Download the weights of an image encoder, and write the record of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.artefact import write_artefact
from logitfusion.clip.encoders.hub import fetch_encoder
from logitfusion.config.jobs.fetch import FetchedEncoder
from logitfusion.config.section import Section
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, entry: Section) -> None:
    found = fetch_encoder(entry.dump(), arguments.revisions)
    write_artefact(arguments.output, {"downloads": found})
    for part in found:
        size = sum(file["size"] for file in part["files"])
        logger.info("%s: %s at %s, %.1f MB, checked", arguments.name, part["id"], part["commit"], size / 1e6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="record.json")
    run_stage(main, parser, FetchedEncoder)
