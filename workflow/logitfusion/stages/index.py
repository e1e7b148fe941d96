"""Write the page that a reader opens first: whole, and bounded for the report, which shows it in a frame."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from logitfusion.config.jobs.page import PageJob
from logitfusion.report.index.cost import cost_section
from logitfusion.report.index.facts import Facts, RunFiles, gather_facts
from logitfusion.report.index.overview import overview_section
from logitfusion.report.index.page import PageSection, write_page
from logitfusion.report.index.settings import settings_section
from logitfusion.report.index.tables import tables_section
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, job: PageJob) -> None:
    files = RunFiles(**{one.name: getattr(arguments, one.name) for one in fields(RunFiles)})
    facts = gather_facts(job, files)
    title = f"logitfusion: {facts.run.run}"
    write_page(make_sections(facts), title, arguments.full)
    write_page(make_sections(facts, bounded=True), title, arguments.entry)
    logger.info("wrote %s and %s; %d parts are missing", arguments.full, arguments.entry, len(files.missing))


def make_sections(facts: Facts, bounded: bool = False) -> list[PageSection]:
    """The sections in the order of the page.

    Args:
        bounded: leave out what makes the page too large for a frame of the report (2 MiB as a data URI).
    """
    return [overview_section(facts), tables_section(facts), cost_section(facts), settings_section(facts)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    one = {"type": Path, "default": None}
    many = {"type": Path, "nargs": "*", "default": []}
    parser.add_argument("--metrics", type=Path, required=True, help="the tidy table")
    parser.add_argument("--models", **many, help="models and experts: .../<name>")
    parser.add_argument("--students", **many, help="trained students: .../<method>.<seed>")
    parser.add_argument("--tasks", **many, help="records of tasks: .../<task>/task.json")
    parser.add_argument("--datasets", **many, help="records of image data sets: .../<set>/record.json")
    parser.add_argument("--encoder", **one, help="the folder of the CLIP")
    parser.add_argument("--caches", **many, help="teachers' caches: .../<teacher>/<shard>.safetensors")
    parser.add_argument("--packages", **many, help="packages that models were taken from")
    parser.add_argument("--parts", **many, help="everything else that a whole run has")
    parser.add_argument("--benchmarks", **one, help="the folder of Snakemake's measurements")
    parser.add_argument("--runs", **one, help="the folder of records of calls")
    parser.add_argument("--lock", **one, help="the file of exact versions")
    parser.add_argument("--full", type=Path, required=True, help="the page with everything")
    parser.add_argument("--entry", type=Path, required=True, help="the page for the report")
    run_stage(main, parser, PageJob)
