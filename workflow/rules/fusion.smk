# Fusion: tuned methods choose on the validation splits how far they trust solved weights; every method decodes the documents of its tasks, in shards of a fixed range, one job a method
# and shard, because loading the models costs more than a task; then shards are merged and judged task by task, by lm-evaluation-harness.
from logitfusion.config.jobs.fusion import decode_job, judge_job, tune_job

DECODED = {method: method_tasks(RUN, method) for method in RUN.fusion.methods}
TUNED = tuned_methods(RUN)


rule tune:
    input:
        documents=tuning_documents,
        models=decode_models,
    output:
        RESULTS / "tuning/{method}.json",
    log:
        LOGS / "tuning/{method}.log",
    benchmark:
        BENCHMARKS / "tuning/{method}.tsv"
    priority: 5  # what is tuned decodes later, and should not be all that is left at the end
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: method_gpus(RUN, wildcards.method),
        mem_mb=memory(16000, "tune", lambda wildcards: wildcards.method),
        runtime=longer(120, "tune", lambda wildcards: wildcards.method),
    params:
        **settings(lambda wildcards: tune_job(RUN, wildcards.method)),
    shell:
        stage("tune")


rule decode:
    input:
        documents=lambda wildcards: list(map(task_documents, DECODED[wildcards.method])),
        models=decode_models,
        tuned=lambda wildcards: [RESULTS / f"tuning/{wildcards.method}.json"] if wildcards.method in TUNED else [],
        gate=lambda wildcards: method_gate(RUN, wildcards.method),
    output:
        RESULTS / "fusion/{method}/{shard}.jsonl",
    log:
        LOGS / "fusion/{method}/{shard}.log",
    benchmark:
        BENCHMARKS / "fusion/{method}/{shard}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: method_gpus(RUN, wildcards.method),
        mem_mb=memory(16000, "decode", lambda wildcards: wildcards.method),
        runtime=longer(240, "decode", lambda wildcards: wildcards.method),
    params:
        **settings(lambda wildcards: decode_job(RUN, wildcards.method)),
        protocol=protocol(RUN.fusion.split),
    shell:
        stage("decode", "--shard {wildcards.shard} {params.protocol:q}")


JUDGED = {task: [method for method, tasks in DECODED.items() if task in tasks] for task in RUN.tasks}


rule evaluate:
    input:
        documents=task_documents("{task}"),
        shards=lambda wildcards: [
            RESULTS / f"fusion/{method}/{shard}.jsonl"
            for method in JUDGED[wildcards.task]
            for shard in range(RUN.fusion.shards)
        ],
    output:
        RESULTS / "evaluation/{task}.parquet",
        scores=RESULTS / "evaluation/{task}.json",
    log:
        LOGS / "evaluation/{task}.log",
    benchmark:
        BENCHMARKS / "evaluation/{task}.tsv"
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        **settings(lambda wildcards: judge_job(RUN, wildcards.task, JUDGED[wildcards.task], RUN.fusion.split)),
    shell:
        stage("evaluate", "--task {wildcards.task}")


JUDGED_FILES = [RESULTS / f"evaluation/{task}.parquet" for task, methods in JUDGED.items() if methods]
JUDGED_SCORES = [path.with_suffix(".json") for path in JUDGED_FILES]
