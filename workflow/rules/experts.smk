# Experts and ceilings: fine-tuned on tasks, or merged from fine-tuned ones.

EXPERT_CONFIGS = {name: freeze(f"experts/{name}", used(entry)) for name, entry in config["experts"].items()}


def expert_inputs(wildcards):
    """An expert's base, and its training text or the experts it is merged from."""
    entry = config["experts"][wildcards.expert]
    inputs = {"base": model_folder(entry["base"])}
    if "merge" in entry:
        return inputs | {"parts": [model_folder(part) for part in entry["merge"]]}
    return inputs | {"text": [task_file(task, "train") for task in entry["tasks"]]}


rule expert:
    input:
        unpack(expert_inputs),
        cfg=lambda wildcards: EXPERT_CONFIGS[wildcards.expert],
    output:
        directory(RESULTS / "experts/{expert}"),
    log:
        LOGS / "experts/{expert}.log",
    benchmark:
        BENCHMARKS / "experts/{expert}.tsv"
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: int("tasks" in config["experts"][wildcards.expert]),
        mem_mb=16000,
        runtime=longer(240),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "base", "text", "parts"),
        checkpoints=str(CHECKPOINTS / "{expert}"),
    shell:
        stage(
            "expert",
            "--name {wildcards.expert} {params.options} --checkpoints {params.checkpoints:q} --output {output:q}",
        )
