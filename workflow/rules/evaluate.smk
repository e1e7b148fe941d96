# Evaluation: shards are merged and judged task by task, then all numbers meet in one table.

# The tasks that an expert was trained on, in the config's order.
SEEN_TASKS = [
    task for task in config["tasks"] if any(task in entry.get("tasks", []) for entry in config["experts"].values())
]
JUDGED = {task: [method for method, tasks in DECODED.items() if task in tasks] for task in config["tasks"]}
EVALUATION_CONFIGS = {
    task: freeze(
        f"evaluation/{task}",
        {"methods": sorted(methods), "definition": {"answer": config["tasks"][task]["definition"]["answer"]}},
    )
    for task, methods in JUDGED.items()
}


rule evaluate:
    input:
        cfg=lambda wildcards: EVALUATION_CONFIGS[wildcards.task],
        examples=task_file("{task}", config["fusion"]["split"]),
        shards=lambda wildcards: [
            RESULTS / f"fusion/{method}/{shard}.jsonl"
            for method in JUDGED[wildcards.task]
            for shard in range(config["fusion"]["shards"])
        ],
    output:
        RESULTS / "evaluation/{task}.parquet",
    log:
        LOGS / "evaluation/{task}.log",
    benchmark:
        BENCHMARKS / "evaluation/{task}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        source=SOURCE,
    shell:
        stage(
            "evaluate",
            "--task {wildcards.task} --examples {input.examples:q} --shards {input.shards:q} --output {output:q}",
        )


rule metrics:
    input:
        cfg=freeze(
            "evaluation",
            {
                "run": config["run"],
                "seed": config["seed"],
                "split": config["fusion"]["split"],
                "evaluate": config["evaluate"],
                "metrics": {task: entry["definition"]["metric"] for task, entry in config["tasks"].items()},
                "seen": sorted(SEEN_TASKS),
                "whole": {key: value for key, value in config.items() if key != "report"},
            },
        ),
        judged=expand(RESULTS / "evaluation/{task}.parquet", task=[task for task in JUDGED if JUDGED[task]]),
    output:
        csv=report(
            RESULTS / "metrics.csv",
            caption="../report/metrics.rst",
            category="Results",
            labels={"what": "every number, tidy", "track": "fusion"},
        ),
        parquet=RESULTS / "metrics.parquet",
    log:
        LOGS / "metrics.log",
    benchmark:
        BENCHMARKS / "metrics.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        source=SOURCE,
    shell:
        stage("metrics", "--judged {input.judged:q} --csv {output.csv:q} --parquet {output.parquet:q}")
