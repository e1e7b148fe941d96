# What a terminal is told: a line for each finished job instead of Snakemake's paragraphs, which stay in its log; and the record of the run.
import subprocess
from datetime import UTC, datetime

from snakemake import __version__ as SNAKEMAKE
from snakemake.logging import logger
from snakemake.settings.enums import Quietness

from logitfusion.progress.events import Listener, Retold
from logitfusion.progress.history import History
from logitfusion.progress.monitor import Monitor
from logitfusion.progress.plan import Plan, PlannedJob
from logitfusion.progress.record import RunRecord, find_machine, record_path
from logitfusion.progress.reporter import Reporter, Voice
from logitfusion.progress.work import rough_seconds
from logitfusion.provenance import find_commit

RECORDS = RESULTS / "runs"


def is_told():
    """Whether jobs of this call are told line by line: they run, in this workflow itself, and nobody asked for more."""
    settings = workflow.execution_settings
    return (
        workflow.is_main_process
        and not (workflow.dryrun or workflow.touch or workflow.output_settings.verbose)
        and settings is not None
        and not settings.no_hooks
    )


def planned_job(job, history):
    """A job of Snakemake's, with what it is expected to take."""
    wildcards = dict(job.wildcards_dict)
    rough = rough_seconds(RUN, job.rule.name, wildcards)
    benchmark = Path(job.benchmark) if job.benchmark else None
    expected = history.expect(job.rule.name, wildcards, rough, benchmark)
    reserved, gpus = (job.resources.get(name, 0) for name in ("mem_mb", "gpu"))
    return PlannedJob(
        workflow.dag.jobid(job),
        job.rule.name,
        wildcards,
        threads=job.threads,
        slots=job.threads if workflow.local_exec else 1,
        seconds=expected.seconds,
        basis=expected.basis,
        rough_seconds=rough,
        memory_mb=expected.memory_mb,
        reserved_mb=reserved if isinstance(reserved, int) else 0,
        gpus=gpus if isinstance(gpus, int) else 0,
        priority=job.priority,
        needs=frozenset(workflow.dag.jobid(needed) for needed in workflow.dag.dependencies[job]),
        log=Path(job.log[0]) if job.log else None,
        benchmark=benchmark,
    )


def plan_call(machine):
    """All jobs that write something; the others, like `all`, only collect."""
    history = History.read(RECORDS, [path for path in RESULTS.parent.glob("*/runs") if path != RECORDS], machine)
    levels = workflow.dag.toposorted(set(workflow.dag.needrun_jobs()))
    jobs = tuple(planned_job(job, history) for level in levels for job in sorted(level, key=str) if job.output)
    slots = workflow.cores if workflow.local_exec else min(workflow.nodes, max(1, len(jobs)))
    return Plan(jobs, sum(bool(job.output) for job in workflow.dag.jobs), slots, GPU_LIMIT)


def counted(number, thing):
    """As ``1 core``, ``2 cores``."""
    return f"{number} {thing}{'s' * (number != 1)}"


def start_report():
    """The reporter of this call, which has begun to tell."""
    machine, started = find_machine(), datetime.now(UTC)
    plan = plan_call(machine)
    executor = workflow.executor_plugin.name
    record = RunRecord(
        run=RUN.run,
        started=started.isoformat(timespec="seconds"),
        seconds=0.0,
        state="running",
        machine=machine,
        cores=plan.slots if workflow.local_exec else None,
        executor=executor,
        snakemake=SNAKEMAKE,
        commit=find_commit(),
        total=plan.total,
        planned=len(plan.jobs),
    )
    told = {"quietness": Quietness.PROGRESS}
    voice = Voice(lambda text: logger.info(text, extra=told), logger.error)
    if workflow.local_exec:
        usable = CARDS[:GPU_LIMIT]
        where = " and ".join([counted(plan.slots, "core"), *([counted(len(usable), "GPU")] if usable else [])])
    else:
        where = f"{executor}, up to {counted(plan.slots, 'job')} at a time"
    monitor = Monitor(plan, queues=not workflow.local_exec)
    reporter = Reporter(monitor, record, record_path(RECORDS, started), voice, where=where)
    logger.addHandler(Listener(reporter))
    reporter.begin()
    return reporter


REPORTERS = []  # one, once the call has begun
RETOLD = Retold(is_told)


def give_up(error):
    """Leave it to Snakemake's own words how a call goes."""
    RETOLD.active = lambda: False
    logger.warning(f"Progress can't be shown: {error!r}")


def tell(action, *arguments, **options):
    """Do something with the reporter, if there is one. Whatever goes wrong with it must not end a run."""
    for reporter in REPORTERS:
        try:
            getattr(reporter, action)(*arguments, **options)
        except Exception as error:
            give_up(error)


def begin_report():
    """Begin to tell how this call goes, if it makes anything."""
    try:
        if is_told() and any(job.output for job in workflow.dag.needrun_jobs()):
            REPORTERS.append(start_report())
    except Exception as error:
        give_up(error)


def show_what_there_is():
    """Write the page of a run that failed. It is older than all it is made of, so that the next call makes it anew."""
    files = PAGE_PARTS | PAGE_EXTRAS | {name: [path] for name, path in PAGE.items()}
    command = ["-m", "logitfusion.stages.index", *as_arguments(files), "--config", canonical(page_job(RUN))]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        logger.error(f"The page of what there is could not be written: {done.stderr.strip()[-500:]}")
        return
    for path in PAGE.values():
        os.utime(path, (0, 0))
    logger.error(f"What there is: {PAGE['full']}")


if workflow.is_main_process and workflow.modifier.is_main_snakefile():
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(RETOLD)


onsuccess:
    # What this call was not asked for may be older than what it made.
    made = {str(file) for job in workflow.dag.jobs for file in job.output}
    metrics, page = RESULTS / "metrics.csv", Path("reports") / RUN.run / "index.html"
    tell("succeed", metrics if str(metrics) in made else None, [page] if str(page) in made else [])


onerror:
    for sentence in explain_failures(log):
        print(sentence, file=sys.stderr)
    asked = workflow.dag_settings
    forced = asked.forceall or asked.forcetargets or asked.forcerun
    hint = " (without -F, -f or -R: they make anew what is finished)" if forced else ""
    tell("fail", shlex.join(["snakemake", *sys.argv[1:]]) + hint)
    show_what_there_is()
