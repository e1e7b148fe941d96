"""What a run will need, before anything is downloaded: memory, disk, bytes, time; what does not fit, and what would."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._outputs import claim_outputs
from logitfusion.errors import UserError
from logitfusion.files import write_json


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
    card.add_argument("--gpu-memory", metavar="GB", type=float, help="memory of a card that has no name here")
    parser.add_argument(
        "--gpus", metavar="N", type=int, default=8, help="the most cards that a job can be given (default: 8)"
    )
    parser.add_argument(
        "--prompt-tokens",
        metavar="N",
        type=int,
        default=512,
        help="of the longest prompt, without examples (default: 512)",
    )
    parser.add_argument(
        "--documents", metavar="N", type=int, default=1000,
        help="of each task whose test is left out and whose data is not there (default: 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--metadata", metavar="DIR", type=Path,
        help="describes models of the hub, which is not asked then: DIR/owner/name/config.json and files.json, which"
        " maps the names of files to their bytes; DIR/tasks.json, which maps tasks of the harness to their numbers of"
        " documents",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the plan for programs too")


def run(arguments: argparse.Namespace) -> None:
    for name in ("gpus", "prompt_tokens", "documents"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is at least 1.")
    if arguments.gpu_memory is not None and not 0 < arguments.gpu_memory < 1e6:
        raise UserError("--gpu-memory is a card's memory in GB, above 0.")
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
    if arguments.gpu_memory is not None:
        gpu = Gpu("a card", arguments.gpu_memory * 1e9)
    assumed = Assumed(
        prompt=arguments.prompt_tokens, documents=arguments.documents, cards=arguments.gpus,
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
