# Fusion: tuned methods choose on the validation splits how far they trust solved weights; all methods decode a task's documents in one job (in shards of a fixed range), because
# loading models and reading prompts, which they share, cost more than the rest; then shards are merged and judged task by task, by lm-evaluation-harness.
from logitfusion.config.jobs.fusion import decode_job, judge_job, tune_job

DECODED = task_methods(RUN)
TUNED = tuned_methods(RUN)


rule tune:
    input:
        documents=tuning_documents,
        models=tuning_models,
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
        documents=task_documents("{task}"),
        models=decode_models,
        tuned=lambda wildcards: [
            RESULTS / f"tuning/{method}.json" for method in DECODED[wildcards.task] if method in TUNED
        ],
        gates=lambda wildcards: [file for method in DECODED[wildcards.task] for file in method_gate(RUN, method)],
    output:
        RESULTS / "fusion/{task}/{shard}.jsonl",
    log:
        LOGS / "fusion/{task}/{shard}.log",
    benchmark:
        BENCHMARKS / "fusion/{task}/{shard}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: max(method_gpus(RUN, method) for method in DECODED[wildcards.task]),
        mem_mb=memory(16000, "decode", lambda wildcards: wildcards.task),
        runtime=longer(240, "decode", lambda wildcards: wildcards.task),
    params:
        **settings(lambda wildcards: decode_job(RUN, wildcards.task, DECODED[wildcards.task])),
        protocol=protocol(RUN.fusion.split),
    shell:
        stage("decode", "--shard {wildcards.shard} {params.protocol:q}")


rule evaluate:
    input:
        documents=task_documents("{task}"),
        shards=expand(RESULTS / "fusion/{{task}}/{shard}.jsonl", shard=range(RUN.fusion.shards)),
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
        **settings(lambda wildcards: judge_job(RUN, wildcards.task, DECODED[wildcards.task], RUN.fusion.split)),
    shell:
        stage("evaluate", "--task {wildcards.task}")


JUDGED_FILES = [RESULTS / f"evaluation/{task}.parquet" for task in DECODED]
JUDGED_SCORES = [path.with_suffix(".json") for path in JUDGED_FILES]
