# Fusion: every method decodes the test (or validation) splits of its tasks, in shards of a fixed range. One job a method
# and shard, because loading the models costs more than a task.

DECODING = {key: config["fusion"][key] for key in ("batch_size", "temperature", "top_p", "top_k", "seed")}
DECODED = {method: method_tasks(config, method) for method in config["fusion"]["methods"]}
METHODS = [method for method, tasks in DECODED.items() if tasks]


def decode_config(method):
    tasks = {}
    for task in DECODED[method]:
        definition = config["tasks"][task]["definition"]
        tasks[task] = {key: definition[key] for key in ("max_new_tokens", "stop")}
        tasks[task]["models"] = method_models(config, method, task)
    options = {
        key: value
        for key, value in config["fusion"]["methods"][method].items()
        if key in ("weights", "rule", "selection", "bounds", "step")
    }
    return {"options": options, "decoding": DECODING, "shards": config["fusion"]["shards"], "tasks": tasks}


DECODE_CONFIGS = {method: freeze(f"fusion/{method}", decode_config(method)) for method in METHODS}


def decode_models(wildcards):
    """Every model that a method needs on any of its tasks, once."""
    needed = [name for task in DECODED[wildcards.method] for name in method_models(config, wildcards.method, task)]
    return [model_folder(name) for name in dict.fromkeys(needed)]


rule decode:
    input:
        cfg=lambda wildcards: DECODE_CONFIGS[wildcards.method],
        examples=lambda wildcards: [task_file(task, config["fusion"]["split"]) for task in DECODED[wildcards.method]],
        models=decode_models,
    output:
        RESULTS / "fusion/{method}/{shard}.jsonl",
    log:
        LOGS / "fusion/{method}/{shard}.log",
    benchmark:
        BENCHMARKS / "fusion/{method}/{shard}.tsv"
    conda:
        "../../envs/fusion.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=longer(240),
    params:
        source=SOURCE,
    shell:
        stage(
            "decode",
            "--examples {input.examples:q} --models {input.models:q} --shard {wildcards.shard} --output {output:q}",
        )
