# Fusion: tuned methods choose on the validation splits how far they trust solved weights; every method decodes the test (or validation) splits of its tasks, in shards of a fixed range, one job a method
# and shard, because loading the models costs more than a task; then shards are merged and judged task by task.

DECODING = {
    key: config["fusion"][key] for key in ("batch_size", "temperature", "top_p", "top_k", "seed", "speculative")
}
DECODED = {method: method_tasks(config, method) for method in config["fusion"]["methods"]}
METHODS = [method for method, tasks in DECODED.items() if tasks]


def decode_config(method):
    tasks = {}
    for task in DECODED[method]:
        definition = config["tasks"][task]["definition"]
        tasks[task] = {key: definition[key] for key in ("max_new_tokens", "stop")}
        tasks[task]["models"] = method_models(config, method, task)
    return {
        "options": fusion_options(method),
        "decoding": DECODING,
        "shards": config["fusion"]["shards"],
        "tasks": tasks,
    }


def fusion_options(method):
    return {
        key: value
        for key, value in config["fusion"]["methods"][method].items()
        if key in ("weights", "rule", "selection", "bounds", "step", "trust", "anchor", "familiar")
    }


def tune_config(method):
    groups = sorted(map(sorted, tuning_groups(config, method)))
    models = {task: method_models(config, method, task) for group in groups for task in group}
    return {
        "options": fusion_options(method),
        "tune": config["fusion"]["methods"][method]["tune"],
        "batch_size": config["fusion"]["batch_size"],
        "groups": groups,
        "models": models,
        "stop": {task: config["tasks"][task]["definition"]["stop"] for task in models},
    }


DECODE_CONFIGS = {method: freeze(f"fusion/{method}", decode_config(method)) for method in METHODS}

TUNED = [method for method in METHODS if config["fusion"]["methods"][method].get("tune") is not None]
TUNE_CONFIGS = {method: freeze(f"tuning/{method}", tune_config(method)) for method in TUNED}


def decode_models(wildcards):
    """Every model that a method needs on any of its tasks, once."""
    needed = [name for task in DECODED[wildcards.method] for name in method_models(config, wildcards.method, task)]
    return [model_folder(name) for name in dict.fromkeys(needed)]


rule tune:
    input:
        cfg=lambda wildcards: TUNE_CONFIGS[wildcards.method],
        examples=lambda wildcards: [
            task_file(task, "validation") for group in tuning_groups(config, wildcards.method) for task in group
        ],
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
        gpu=1,
        mem_mb=16000,
        runtime=longer(120),
    params:
        source=SOURCE,
    shell:
        stage("tune", "--examples {input.examples:q} --models {input.models:q} --output {output:q}")


rule decode:
    input:
        cfg=lambda wildcards: DECODE_CONFIGS[wildcards.method],
        examples=lambda wildcards: [task_file(task, config["fusion"]["split"]) for task in DECODED[wildcards.method]],
        models=decode_models,
        tuned=lambda wildcards: [RESULTS / f"tuning/{wildcards.method}.json"] if wildcards.method in TUNED else [],
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
        gpu=1,
        mem_mb=16000,
        runtime=longer(240),
    params:
        source=SOURCE,
        tuned=lambda wildcards, input: options(input, "tuned"),
    shell:
        stage(
            "decode",
            "--examples {input.examples:q} --models {input.models:q} --shard {wildcards.shard} {params.tuned} --output {output:q}",
        )


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
        "../../envs/light.yaml"
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


JUDGED_FILES = [RESULTS / f"evaluation/{task}.parquet" for task, methods in JUDGED.items() if methods]
