# What all rules share: the checked config, the frozen slices of it, and names of folders.
import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from logitfusion.config.run import (
    clip_packages,
    expand_method,
    fewshot_method,
    method_models,
    method_tasks,
    resolve_config,
    tuning_groups,
)
from logitfusion.clip.methods.settings import NEED_AUXILIARY
from logitfusion.errors import UserError
from logitfusion.files import write_text
from logitfusion.fetch.pypi import package_parts
from logitfusion.cluster import check_executor, explain_failures

# Neither jobs nor the pip that fills a conda environment see packages in ~/.local, which come before the environment's.
os.environ["PYTHONNOUSERSITE"] = "1"

if not os.access(Path.cwd(), os.W_OK):
    raise WorkflowError(
        "This folder can't be written, and Snakemake keeps its notes in it: make it writable, or copy it."
    )

try:
    config = resolve_config(config)
except UserError as error:
    raise WorkflowError(f"The config can't be used. {error}") from None

RESULTS = Path("results") / config["run"]
LOGS = RESULTS / "logs"
BENCHMARKS = RESULTS / "benchmarks"
CHECKPOINTS = RESULTS / "checkpoints"
PACKAGES = Path("results/packages")
SOURCE = Path(workflow.basedir) / "workflow"
# Two jobs share this machine's cores: one of them starting up, writing or decoding leaves the other at work. On a cluster a
# job must not count its node's cores, or it would ask for others than it was submitted with.
THREADS = 4 if workflow.remote_exec else max(1, (workflow.resource_settings.cores or 8) // 2)


def keep(path, text):
    """Write a file if its text changed, from the main process only, and never over what another one works by."""
    known = path.read_text() if path.exists() else None
    if known == text or not workflow.is_main_process:
        return path
    if BUSY and known is not None:
        if not HELD:
            logger.warning(
                "Another snakemake is at work in this folder (or was killed: snakemake --unlock); what has changed in the"
                " config since it started is left out here. Call again when it is done."
            )
        HELD.append(path)
        return path
    try:
        write_text(path, text)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return path


BUSY, HELD = any(Path(".snakemake/locks").glob("*")), []


def freeze(name, value, folder=RESULTS / "config"):
    """Write a rule's slice of the config to a file, if it changed, and return its path, to be an input of the rule.

    Snakemake compares inputs of this size by checksum, so exactly the jobs whose slice changed run again, and a job
    that waits in a queue reads the values it was submitted with.
    """
    return keep(folder / f"{name}.json", json.dumps(value, indent=2, sort_keys=True) + "\n")


# A job on a cluster is a Snakemake of its own, which reads the config when it starts, perhaps hours after it was
# submitted: it gets this copy, and no edit since then. The order of keys stays, because it is that of the plots.
if workflow.is_main_process:
    workflow.config_settings.configfiles = [
        keep(RESULTS / "config/whole.json", json.dumps(config, indent=2) + "\n").absolute()
    ]


def used(training):
    """A training's settings without those of LoRA where it is none."""
    return {key: value for key, value in training.items() if key != "lora" or training["method"] == "lora"}


def stage(name, arguments, processes=1):
    """The shell command of a stage: its command line, with all it prints in the rule's log.

    The stage takes the shell's place, so that signals reach it, and is told who its parent is, so that it ends with it.
    """
    launcher = f"torch.distributed.run --standalone --nproc-per-node {processes} -m " if processes > 1 else ""
    return f"LOGITFUSION_PARENT=$PPID PYTHONPATH={{params.source:q}} exec python -m {launcher}logitfusion.stages.{name} --config {{input.cfg:q}} {arguments} > {{log:q}} 2>&1"


def longer(minutes):
    """Minutes of walltime, more at every retry."""
    return lambda wildcards, attempt: minutes * attempt


def package_file(entry):
    """Where a package lies; its suffix says which registry it is of, and the digest keeps a mistaken one from replacing
    the right one."""
    suffix = {"emoji": "tgz", "fashion_mnist": "deb"}.get(entry.get("source"), "whl")
    return PACKAGES / f"{entry['package'].replace('==', '-')}-{entry['sha256'][:8]}.{suffix}"


def model_folder(name):
    """The folder of a model or an expert."""
    kind = "models" if name in config["models"] else "experts"
    return RESULTS / kind / name


wildcard_constraints:
    model="|".join(config["models"]) or "none",
    expert="|".join(config["experts"]) or "none",
    task="|".join(config["tasks"]) or "none",
    method="|".join(config["fusion"]["methods"] if "fusion" in config else ["none"]),
    variant="|".join(config["distill"]["methods"] if "distill" in config else ["none"]),
    teacher="|".join(config["distill"]["teachers"] if "distill" in config else []) or "none",
    dataset="|".join(config["clip"]["datasets"] if "clip" in config else ["none"]),
    head="|".join(config["clip"]["methods"] if "clip" in config else ["none"]),
    suffix="whl|tgz|deb",
    shard=r"\d+",
    trial=r"\d+",


def options(inputs, *names):
    """Inputs as command line options: --name value ..., for those that the job has."""
    given = {name: inputs.get(name) for name in names if inputs.get(name)}
    values = {name: [value] if isinstance(value, (str, Path)) else value for name, value in given.items()}
    return " ".join(f"--{name} " + " ".join(shlex.quote(str(item)) for item in items) for name, items in values.items())


onstart:
    try:
        check_executor(workflow.executor_plugin.name)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    # Snakemake (9.13 to 9.27 at least) notes a failed job like a finished one, with the inputs it had. The next call would then take what was
    # made from its earlier output, now deleted, for up to date.
    note_finished = workflow.persistence.finished

    async def note_if_finished(job):
        if all(Path(path).exists() for path in job.output):
            await note_finished(job)
        else:
            workflow.persistence.cleanup(job)

    workflow.persistence.finished = note_if_finished
