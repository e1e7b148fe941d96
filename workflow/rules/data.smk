# Tasks: documents to evaluate, and texts to learn from.
from logitfusion.config.jobs.models import task_job
from logitfusion.config.jobs.texts import text_tasks
from logitfusion.config.tasks import HarnessTask

TEXTS = text_tasks(RUN)


rule task:
    input:
        unpack(task_inputs),
    output:
        documents=directory(task_documents("{task}")),
        train=task_file("{task}", "train"),
        validation=task_file("{task}", "validation"),
        record=RESULTS / "tasks/{task}/record.json",
    log:
        LOGS / "tasks/{task}.log",
    benchmark:
        BENCHMARKS / "tasks/{task}.tsv"
    wildcard_constraints:
        task=any_of(name for name, task in RUN.tasks.items() if isinstance(task, HarnessTask)),
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        **settings(lambda wildcards: task_job(RUN, wildcards.task)),
    shell:
        stage("task", "--task {wildcards.task}")


rule texts:
    input:
        unpack(text_inputs),
    output:
        train=task_file("{task}", "train"),
        validation=task_file("{task}", "validation"),
        record=RESULTS / "tasks/{task}/record.json",
    log:
        LOGS / "tasks/{task}.log",
    benchmark:
        BENCHMARKS / "tasks/{task}.tsv"
    wildcard_constraints:
        task=any_of(TEXTS),
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(120),
    params:
        **settings(lambda wildcards: TEXTS[wildcards.task]),
    shell:
        stage("texts", "--task {wildcards.task}")
