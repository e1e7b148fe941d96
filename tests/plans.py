"""What Snakemake would run, for many configs in one process: a script, started in a checkout, that plans as -n does.

`python plans.py REQUESTS ANSWERS`: a JSON list of {"config": ..., "finish": true or false} in, one of plans out (or of
what is wrong with a config). With ``finish`` all that the plan would run is made to look finished (empty files, and
Snakemake's own records of them), so that the next plans say what a changed config runs *again*. Snakemake's parser and
its record keeping are the real ones; only the compiled text of the rules is kept from one config to the next. It uses
inner names of Snakemake 9.
"""

from __future__ import annotations

import functools
import gc
import json
import sys
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    OutputSettings,
    Quietness,
    RemoteExecutionSettings,
    ResourceSettings,
)

CONFIG = Path("planned.json")


def plan(config: dict[str, Any], *, finish: bool) -> list[dict[str, Any]]:
    """The jobs that would run, and of each whether only because another one runs before it."""
    CONFIG.write_text(json.dumps(config))
    with SnakemakeApi(OutputSettings(dryrun=True, quiet={Quietness.ALL})) as api:
        opened = api.workflow(
            resource_settings=ResourceSettings(cores=2),
            config_settings=ConfigSettings(configfiles=[CONFIG]),
            snakefile=Path("Snakefile"),
        )
        opened.dag(DAGSettings())
        workflow = opened._workflow
        workflow.execution_settings = ExecutionSettings(lock=False)
        workflow.remote_execution_settings = RemoteExecutionSettings()
        workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True, nolock=True)
        workflow.async_run(workflow.dag.init())
        jobs = [job for level in workflow.dag.toposorted() for job in level if workflow.dag.needrun(job)]
        planned = [
            {
                "rule": job.rule.name,
                "wildcards": dict(job.wildcards.items()),
                "input": sorted(map(str, job.input)),
                "output": sorted(map(str, job.output)),
                "command": job.shellcmd if finish else None,
                "log": "".join(job.log),
                "follows": workflow.dag.reason(job).derived,
            }
            for job in jobs
        ]
        if finish:
            workflow.iocache.deactivate()
            for job in jobs:
                for file in job.output:
                    file.touch_or_create()
                workflow.async_run(workflow.persistence.finished(job))
        return planned


def _compile_once() -> None:
    """Let Snakemake translate and compile each file of rules once, and look at each function's parameters once."""
    import snakemake.common
    import snakemake.workflow

    snakemake.common.get_function_params = functools.lru_cache(4096)(snakemake.common.get_function_params)

    translate, kept = snakemake.workflow.parse, {}

    def translate_once(path: Any, *arguments: Any, **options: Any) -> Any:
        name = path.get_path_or_uri(secret_free=True)
        if name not in kept:
            kept[name] = translate(path, *arguments, **options)
        return kept[name]

    snakemake.workflow.parse = translate_once
    snakemake.workflow.compile = functools.cache(compile)


if __name__ == "__main__":
    _compile_once()
    requests = json.loads(Path(sys.argv[1]).read_text())
    gc.disable()  # a third of the time, for objects that live as long as a plan
    answers = []
    for number, request in enumerate(requests):
        try:
            answers.append(plan(request["config"], finish=request["finish"]))
        except WorkflowError as error:
            answers.append(str(error))
        if number % 50 == 49:
            gc.collect()
    Path(sys.argv[2]).write_text(json.dumps(answers))
