# What all rules share: the checked config, the slices of it that jobs get, and names of folders.
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job

# This checkout's code, also where it is a module of another workflow.
SOURCE = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(SOURCE))

from logitfusion.cards import cards_for, describe_shortage, jobs_per_card, share_cores, visible_cards
from logitfusion.cluster import check_executor, explain_failures, hide_user_packages
from logitfusion.config.command_line import check_files, explain_command_line
from logitfusion.config.experts import TrainedExpert
from logitfusion.config.methods import (
    method_gate,
    method_gpus,
    method_models,
    method_tasks,
    task_methods,
    tuned_methods,
    tuning_groups,
)
from logitfusion.config.load import resolve_config, write_once
from logitfusion.config.section import canonical
from logitfusion.config.tasks import check_inputs
from logitfusion.errors import UserError
from logitfusion.plan.resources import PlannedResources
from logitfusion.progress.record import name_job

hide_user_packages()

if not os.access(Path.cwd(), os.W_OK):
    raise WorkflowError(
        "This folder can't be written, and Snakemake keeps its notes in it: make it writable, or copy it."
    )

try:
    RUN = resolve_config(config)
    check_files(workflow.config_settings.configfiles, RUN.run)
    check_inputs(RUN.tasks)
except UserError as error:
    asked = workflow.config_settings
    hint = explain_command_line(asked.configfiles, asked.config)
    raise WorkflowError(f"The config can't be used. {error}{hint}") from None

try:
    JOBS_PER_CARD = jobs_per_card()
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = Path("results") / RUN.run
PLANNED = PlannedResources(RUN, RESULTS)
LOGS = RESULTS / "logs"
BENCHMARKS = RESULTS / "benchmarks"
PACKAGES = Path("results/packages")
# The cards of this machine, where jobs run on it: each is handed out to so many jobs at a time, if nobody limits them.
CARDS = () if workflow.remote_exec or workflow.resource_settings.nodes else visible_cards()
if CARDS and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", JOBS_PER_CARD * len(CARDS))
GPU_LIMIT = workflow.global_resources["gpu"].value if "gpu" in workflow.global_resources else None
PLACES = min(JOBS_PER_CARD * len(CARDS), GPU_LIMIT) if CARDS else 0
# On a cluster a job must not count its node's cores, or it would ask for others than it was submitted with.
THREADS = 4 if workflow.remote_exec else share_cores(workflow.resource_settings.cores or 8, PLACES)
# A command is one argument of a shell, which Linux limits to 128 KiB.
LARGEST_SLICE = 100_000


def settings(slice_of):
    """The params of a rule: its slice of the config (a function of the wildcards), and what its command is made of.

    Snakemake compares the slice, one canonical line of JSON, with the one that an output was made with, so exactly the
    jobs whose slice changed run again. The others depend on input and output, which it compares by themselves.
    """

    def config(wildcards):
        text = canonical(slice_of(wildcards))
        size = len(shlex.quote(text).encode())
        if size > LARGEST_SLICE:
            of = ", ".join(f"{name} {value}" for name, value in wildcards.items())
            raise WorkflowError(
                f"The config of a job ({of}) is {size} bytes, too long for a command: shorten its texts."
            )
        return text

    return {"config": config, "options": options, "gpus": gpus, "source": lambda wildcards, input: SOURCE}


def gpus(wildcards, resources):
    """How many GPUs a job leases on this machine; a cluster gives them itself."""
    return resources.get("gpu", 0)


def gpus_asked(job):
    """How many GPUs a job's rule asks for, before Snakemake gives it as many as there are, without a word."""
    others = set(job.rule.resources) - {"gpu", "_cores"}
    workflow.global_resources["gpu"] = None
    asked = job.rule.expand_resources(job.wildcards_dict, job.input, job.attempt, skip_evaluation=others)
    workflow.global_resources["gpu"] = GPU_LIMIT
    return asked.get("gpu", 0)


def check_gpus():
    """Refuse jobs that this machine, or the limit of the call, can never give their GPUs."""
    for job in workflow.dag.needrun_jobs() if GPU_LIMIT else ():
        asked = gpus_asked(job)
        most = min(GPU_LIMIT, len(cards_for(asked, CARDS))) if CARDS else GPU_LIMIT
        if asked > most and (CARDS or not workflow.local_exec):
            raise UserError(describe_shortage(name_job(job.rule.name, job.wildcards_dict), asked, most))


def options(wildcards, input, output):
    """Inputs and outputs as command line options of their names; those without one are --input and --output."""
    return " ".join(filter(None, [as_options(input, "input"), as_options(output, "output")]))


def as_options(files, default):
    named = {name: [value] if isinstance(value, str) else list(value) for name, value in files.items()}
    known = {file for values in named.values() for file in values}
    named = {default: [file for file in files if file not in known]} | named
    return " ".join(f"--{name} " + " ".join(map(shlex.quote, values)) for name, values in named.items() if values)


def as_arguments(files):
    """Files as arguments of the options that have their names."""
    return [str(word) for name, paths in files.items() if paths for word in (f"--{name}", *paths)]


def launcher(processes):
    """What starts a stage that trains in several processes, as a param of its rule; nothing where there is one."""
    return f"logitfusion.stages._torchrun --standalone --nproc-per-node {processes} -m " if processes > 1 else ""


def stage(name, arguments="", launched=False, online=False):
    """The shell command of a stage: its command line, with all it prints in the rule's log; its launcher may be a param.

    Only stages that download may ask the hub; nothing else can see another revision, or wait for a network that compute
    nodes lack. The stage takes the shell's place, so that signals reach it, and gets its parent's number, so that it ends with it.
    It sees this checkout's code and its environment's packages, and no other (not those of the user's ~/.local).
    """
    launch = "{params.launcher}" if launched else ""
    variables = "LOGITFUSION_PARENT=$PPID LOGITFUSION_GPUS={params.gpus} PYTHONPATH={params.source:q}"
    variables += "" if online else " HF_HUB_OFFLINE=1"
    command = f"exec python -m {launch}logitfusion.stages.{name} {arguments}"
    return f"{variables} {command.rstrip()} {{params.options}} --config {{params.config:q}} > {{log:q}} 2>&1"


def checkpoints(wildcards, output):
    """Where a training keeps its checkpoints: beside its output, which Snakemake deletes before a retry."""
    return f"{output[0]}.checkpoints"


def shown(path, category, entry, caption=None):
    """An output that the report shows, with the text of workflow/report that has its name (or another).

    Categories and entries are sorted by their names. A second label would be made a switch where it has two values.
    """
    text = f"../report/{caption or Path(path).stem}.rst"
    return report(RESULTS / path, caption=text, category=category, labels={"entry": entry})


def longer(minutes, rule=None, name=None):
    """Minutes of walltime, more at every retry; as many as the plan says for large models, of jobs with such a name."""
    if name is None:
        return lambda wildcards, attempt: minutes * attempt
    return lambda wildcards, attempt: attempt * PLANNED.minutes(rule, name(wildcards), least=minutes)


def memory(megabytes, rule, name):
    """MB of the machine's memory, or as many as the plan says for large models; asked again once these are there."""
    return lambda wildcards: PLANNED.memory_mb(rule, name(wildcards), least=megabytes)


def any_of(names):
    """A wildcard's pattern: one of some names."""
    return "|".join(names) or "none"


wildcard_constraints:
    model=any_of(RUN.models),
    expert=any_of(RUN.experts),
    task=any_of(RUN.tasks),
    method=any_of(RUN.fusion.methods if RUN.fusion else []),
    objective=any_of(RUN.distill.methods if RUN.distill else []),
    teacher=any_of(RUN.distill.teachers if RUN.distill else []),
    dataset=any_of(RUN.clip.datasets if RUN.clip else []),
    head=any_of(RUN.clip.methods if RUN.clip else []),
    suffix="whl|tgz|deb",
    shard=r"\d+",
    seed=r"\d+",


onstart:
    # A job on a cluster is a Snakemake of its own, which reads the config when it starts, perhaps hours after it was
    # submitted: it gets this copy, which is never changed. The order of keys stays, because it is that of the plots.
    try:
        check_executor(workflow.executor_plugin.name)
        check_gpus()
        check_protocol()
        workflow.config_settings.configfiles = [write_once(RESULTS / "config", RUN).absolute()]
    except UserError as error:
        raise WorkflowError(str(error)) from None
    # Snakemake notes a failed job like a finished one (snakemake/snakemake#3808): the next call would find the new config in the
    # note, and take what was made from the job's earlier output, now deleted, for up to date. To go when that is fixed.
    note_finished, postprocess, failed = workflow.persistence.finished, Job.postprocess, set()

    async def remember_failure(job, *arguments, error=False, **options):
        (failed.add if error else failed.discard)(job)
        await postprocess(job, *arguments, error=error, **options)
        again = error and job.restart_times > job.attempt - 1
        tell("ended", workflow.dag.jobid(job), failed=error, again=again)

    async def note_unless_failed(job):
        if job not in failed:
            await note_finished(job)

    Job.postprocess, workflow.persistence.finished = remember_failure, note_unless_failed
    begin_report()
