# Tasks: examples in three splits.
from logitfusion.config.jobs.models import task_job


rule task:
    input:
        unpack(task_rows),
    output:
        train=task_file("{task}", "train"),
        validation=task_file("{task}", "validation"),
        test=task_file("{task}", "test"),
        record=RESULTS / "tasks/{task}/task.json",
    log:
        LOGS / "tasks/{task}.log",
    benchmark:
        BENCHMARKS / "tasks/{task}.tsv"
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
