"""What a run will need, before anything is downloaded: memory, disk, bytes, time; what does not fit, and what would."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated

from pydantic import Field

from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._options import add_options, read_section
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.section import Count, Gpus, Section, number
from logitfusion.errors import UserError
from logitfusion.files import write_json


class Planning(Section):
    """What a plan takes for granted."""

    gpu_memory: number(gt=0, le=1e6) | None = None
    """Memory of a card that has no name here (GB)."""
    gpus: Gpus = 8
    """The most cards that a job can be given."""
    prompt_tokens: Annotated[int, Field(ge=1, le=2**24)] = 512
    """Of the longest prompt, without examples."""
    documents: Count = 1000
    """Of each task whose test is left out and whose data is not there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What a run will need, from its config and the hub's metadata alone: memory, disk, downloads and time of every"
        " job, what does not fit the GPU, and which keys of the config would make it fit. No weights are downloaded."
        " Exit code 1 if something does not fit."
    )
    parser.add_argument(
        "configs", metavar="CONFIG", type=Path, nargs="+",
        help="a config file; of several, each replaces values of those before it, as with snakemake's --configfile",
    )  # fmt: skip
    card = parser.add_mutually_exclusive_group()
    card.add_argument("--gpu", metavar="NAME", help="A100-80GB, H100, RTX-4090, ...; none: everything on the CPU")
    add_options(card, Planning, "gpu_memory")
    add_options(parser, Planning, "gpus", "prompt_tokens", "documents")
    parser.add_argument(
        "--metadata", metavar="DIR", type=Path,
        help="describes models of the hub, which is not asked then: DIR/owner/name/config.json and files.json, which"
        " maps the names of files to their bytes; DIR/tasks.json, which maps tasks of the harness to their numbers of"
        " documents",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the plan for programs too")


def run(arguments: argparse.Namespace) -> None:
    numbers = read_section(Planning, arguments)
    if arguments.metadata is not None and not arguments.metadata.is_dir():
        raise UserError(f"The folder of metadata {arguments.metadata} does not exist.")
    claim_outputs({"--json": arguments.json}, {"CONFIG": arguments.configs, "--metadata": arguments.metadata})
    be_quiet()
    from logitfusion.config.load import load_config
    from logitfusion.plan.hardware import Gpu, find_gpu
    from logitfusion.plan.jobs import Assumed
    from logitfusion.plan.report import as_json, write_plan
    from logitfusion.plan.run import plan_run

    on_cpu = arguments.gpu == "none"
    gpu = find_gpu(arguments.gpu) if arguments.gpu and not on_cpu else None
    if numbers.gpu_memory is not None:
        gpu = Gpu("a card", numbers.gpu_memory * 1e9)
    assumed = Assumed(
        prompt=numbers.prompt_tokens, documents=numbers.documents, cards=numbers.gpus,
        memory=gpu.memory if gpu else None,
    )  # fmt: skip
    plan = plan_run(
        load_config(*arguments.configs), " and ".join(map(str, arguments.configs)),
        gpu=gpu, on_cpu=on_cpu, assumed=assumed, metadata=arguments.metadata,
    )  # fmt: skip
    print(write_plan(plan))
    if arguments.json is not None:
        write_json(arguments.json, as_json(plan))
    if plan.misfits:
        names = ", ".join(f"{one.job.rule} {one.job.name}" for one in plan.misfits[:3])
        more = f" and {len(plan.misfits) - 3} more" if len(plan.misfits) > 3 else ""
        raise UserError(f"{names}{more} will not fit; change the config as the plan says, or name another GPU.")
