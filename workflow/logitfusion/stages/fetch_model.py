"""Download a model of the hub, and make the folder that refers to its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.models import HubModel
from logitfusion.files import whole
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.models import source
from logitfusion.models.load import describe
from logitfusion.models.reference import describe_recorded
from logitfusion.provenance import record
from logitfusion.stages._stage import logger, run_stage
from logitfusion.training.curve import write_curve


def main(arguments: argparse.Namespace, entry: HubModel) -> None:
    with whole(arguments.output) as folder:
        folder.mkdir()
        model, found = source.from_hub(entry, folder, arguments.name, arguments.revisions)
        if model is None:
            facts = describe_recorded(folder)
        else:
            facts = describe(model)
            origin = {"commit": found.commit, "licence": found.licence}
            record(folder / RECORD, entry.dump(), files=as_rows(record_files(folder)), **origin, **facts)
        write_curve(folder / "curve.csv", [])
    logger.info("%s: %s at %s, %.1f MB, checked", arguments.name, found.id, found.commit, found.size / 1e6)
    logger.info("%s: %s", arguments.name, facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--revisions", type=Path, required=True, help="folder of the commits that branches were")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, HubModel)
