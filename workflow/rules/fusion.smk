# Fusion: every method decodes every task's test split, in shards of a fixed range.

DECODING = {key: config["fusion"][key] for key in ("batch_size", "temperature", "top_p", "top_k", "seed")}
DECODED = {method: method_tasks(config, method) for method in config["fusion"]["methods"]}


def decode_config(method, task):
    definition = config["tasks"][task]["definition"]
    entry = expand_method(config["fusion"]["methods"][method], task)
    return {
        "method": {key: value for key, value in entry.items() if key != "tasks"},
        "decoding": DECODING,
        "shards": config["fusion"]["shards"],
        "max_new_tokens": definition["max_new_tokens"],
        "stop": definition["stop"],
    }


DECODE_CONFIGS = {
    (method, task): freeze(f"fusion/{method}/{task}", decode_config(method, task))
    for method, tasks in DECODED.items()
    for task in tasks
}


rule decode:
    input:
        cfg=lambda wildcards: DECODE_CONFIGS[wildcards.method, wildcards.task],
        examples=RESULTS / "tasks/{task}/test.jsonl",
        models=lambda wildcards: [
            model_folder(name) for name in method_models(config, wildcards.method, wildcards.task)
        ],
    output:
        RESULTS / "fusion/{method}/{task}/{shard}.jsonl",
    log:
        LOGS / "fusion/{method}/{task}/{shard}.log",
    benchmark:
        BENCHMARKS / "fusion/{method}/{task}/{shard}.tsv"
    conda:
        "../../envs/fusion.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=longer(120),
    params:
        source=SOURCE,
    shell:
        stage(
            "decode",
            "--examples {input.examples:q} --models {input.models:q} --shard {wildcards.shard} --output {output:q}",
        )
