"""Write the page that a reader opens first: whole, and bounded for the report, which shows it in a frame."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from logitfusion.config.jobs.page import PageJob
from logitfusion.report.index.cost import cost_section
from logitfusion.report.index.examples import examples_sections
from logitfusion.report.index.facts import Facts, RunFiles, gather_facts
from logitfusion.report.index.overview import overview_section
from logitfusion.report.index.page import PageSection, render_page, write_page
from logitfusion.report.index.settings import settings_section
from logitfusion.report.index.tables import numbers_section, tables_section
from logitfusion.stages._examples import read_examples
from logitfusion.stages._stage import logger, run_stage

# The report shows the page in a frame, as a data URI in base64, of which Chromium opens 2 MiB; this leaves room for the
# script and style that come with the examples.
MOST_BYTES = 1_450_000


def main(arguments: argparse.Namespace, job: PageJob) -> None:
    files = RunFiles(**{one.name: getattr(arguments, one.name) for one in fields(RunFiles)})
    facts = gather_facts(job, files)
    title = f"logitfusion: {facts.run.run}"
    sources, full = read_examples(job, files), str(files.full)
    sections = make_sections(facts)
    write_page(with_examples(sections, examples_sections(sources, full_page=full)), title, arguments.full)
    room = MOST_BYTES - len(render_page(sections, title).encode())
    cut = examples_sections(sources, full_page=full, most_bytes=room)
    write_page(with_examples(sections, cut), title, arguments.entry)
    write_page([numbers_section(facts)], f"{title}, every number", arguments.numbers)
    logger.info("wrote %s and %s; %d parts are missing", arguments.full, arguments.entry, len(files.missing))


def make_sections(facts: Facts) -> list[PageSection]:
    """The sections in the order of the page, without those of the examples."""
    return [overview_section(facts), tables_section(facts), cost_section(facts), settings_section(facts)]


def with_examples(sections: Sequence[PageSection], examples: Sequence[PageSection]) -> list[PageSection]:
    """The sections with those of the examples after the tables."""
    return [*sections[:2], *examples, *sections[2:]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    one = {"type": Path, "default": None}
    many = {"type": Path, "nargs": "*", "default": []}
    parser.add_argument("--metrics", type=Path, required=True, help="the tidy table")
    parser.add_argument("--models", **many, help="models and experts: .../<name>")
    parser.add_argument("--students", **many, help="trained students: .../<method>.<seed>")
    parser.add_argument("--tasks", **many, help="records of tasks: .../<task>/record.json")
    parser.add_argument("--datasets", **many, help="records of image data sets: .../<set>/record.json")
    parser.add_argument("--encoder", **one, help="the folder of the CLIP")
    parser.add_argument("--caches", **many, help="teachers' caches: .../<teacher>/<shard>.safetensors")
    parser.add_argument("--packages", **many, help="packages that models were taken from")
    parser.add_argument("--judged", **many, help="judged examples of fusion: .../<task>.parquet")
    parser.add_argument("--answered", **many, help="judged examples of distillation: .../<task>.parquet")
    parser.add_argument("--predictions", **many, help="folders of answers on test images: .../<data set>")
    parser.add_argument("--images", **many, help="tables of image data sets: .../<data set>/table.parquet")
    parser.add_argument("--parts", **many, help="everything else that a whole run has")
    parser.add_argument("--benchmarks", **one, help="the folder of Snakemake's measurements")
    parser.add_argument("--runs", **one, help="the folder of records of calls")
    parser.add_argument("--lock", **one, help="the file of exact versions")
    parser.add_argument("--full", type=Path, required=True, help="the page with everything")
    parser.add_argument("--entry", type=Path, required=True, help="the page for the report")
    parser.add_argument("--numbers", type=Path, required=True, help="the page with the tidy table")
    run_stage(main, parser, PageJob)
