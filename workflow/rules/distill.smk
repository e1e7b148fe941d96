# Distillation: every teacher reads the training texts once, into a cache; every method trains the student from it, once with each seed, at equal
# steps; students, teachers and the untouched student decode the test (or validation) splits, and are judged task by task.

DISTILL = config["distill"]
TEACHERS = {name: entry["model"] for name, entry in DISTILL["teachers"].items()}
# One trial is a method with a seed; a dot can't be part of a name, so it tells trials from models.
TRIALS = [f"{method}.{seed}" for method in DISTILL["methods"] for seed in DISTILL["seeds"]]
UNTRAINED = list(dict.fromkeys([DISTILL["student"], *TEACHERS.values()]))


def students_config():
    """What the tables and plots of this track know of it."""
    return {
        "split": DISTILL["split"],
        "student": DISTILL["student"],
        "teachers": TEACHERS,
        "methods": list(DISTILL["methods"]),
        "seeds": DISTILL["seeds"],
        "baseline": DISTILL["baseline"],
    }


def distill_text(wildcards):
    return [task_file(task, "train") for task in DISTILL["tasks"]]


def trial_folder(name):
    return RESULTS / f"distill/students/{name}" if "." in name else model_folder(name)


TEACHER_CONFIGS = {
    name: freeze(
        f"distill/teachers/{name}",
        {"template": entry["template"], "texts": DISTILL["texts"], **DISTILL["cache"]},
    )
    for name, entry in DISTILL["teachers"].items()
}


rule teacher_cache:
    input:
        cfg=lambda wildcards: TEACHER_CONFIGS[wildcards.teacher],
        text=distill_text,
        model=lambda wildcards: model_folder(TEACHERS[wildcards.teacher]),
    output:
        RESULTS / "distill/cache/{teacher}/{shard}.safetensors",
    log:
        LOGS / "distill/cache/{teacher}/{shard}.log",
    benchmark:
        BENCHMARKS / "distill/cache/{teacher}/{shard}.tsv"
    priority: 10  # all methods wait for it
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=longer(240),
    params:
        source=SOURCE,
        checkpoints=str(CHECKPOINTS / "cache.{teacher}.{shard}"),
    shell:
        stage(
            "teacher_cache",
            "--teacher {wildcards.teacher} --model {input.model:q} --text {input.text:q} --shard {wildcards.shard} --checkpoints {params.checkpoints:q} --output {output:q}",
        )


STUDENT_CONFIGS = {
    method: freeze(
        f"distill/methods/{method}", {"method": entry, "training": used(DISTILL["training"]), "texts": DISTILL["texts"]}
    )
    for method, entry in DISTILL["methods"].items()
}
PROCESSES = DISTILL["training"]["processes"]


rule student:
    input:
        cfg=lambda wildcards: STUDENT_CONFIGS[wildcards.variant],
        base=model_folder(DISTILL["student"]),
        text=distill_text,
        caches=lambda wildcards: [
            RESULTS / f"distill/cache/{teacher}/{shard}.safetensors"
            for teacher in DISTILL["methods"][wildcards.variant]["teachers"]
            for shard in range(DISTILL["cache"]["shards"])
        ],
    output:
        directory(RESULTS / "distill/students/{variant}.{trial}"),
    log:
        LOGS / "distill/students/{variant}.{trial}.log",
    benchmark:
        BENCHMARKS / "distill/students/{variant}.{trial}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=PROCESSES,
        mem_mb=16000,
        runtime=longer(240),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "caches"),
        checkpoints=str(CHECKPOINTS / "{variant}.{trial}"),
    shell:
        stage(
            "student",
            "--name {wildcards.variant} --seed {wildcards.trial} --base {input.base:q} --text {input.text:q} {params.options} --checkpoints {params.checkpoints:q} --output {output:q}",
            processes=PROCESSES,
        )


def answer_config(name):
    return {
        "options": {},
        "decoding": {
            "batch_size": DISTILL["batch_size"],
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "seed": 0,
            "speculative": False,
        },
        "shards": 1,
        "tasks": {
            task: {key: config["tasks"][task]["definition"][key] for key in ("max_new_tokens", "stop")}
            | {"models": [name]}
            for task in DISTILL["tasks"]
        },
    }


ANSWER_CONFIGS = {name: freeze(f"distill/answers/{name}", answer_config(name)) for name in [*TRIALS, *UNTRAINED]}


rule answer:
    input:
        cfg=lambda wildcards: ANSWER_CONFIGS[wildcards.student],
        examples=[task_file(task, DISTILL["split"]) for task in DISTILL["tasks"]],
        models=lambda wildcards: trial_folder(wildcards.student),
    output:
        RESULTS / "distill/answers/{student}/0.jsonl",
    log:
        LOGS / "distill/answers/{student}.log",
    benchmark:
        BENCHMARKS / "distill/answers/{student}.tsv"
    wildcard_constraints:
        student=r"[^/]+",
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
        stage("decode", "--examples {input.examples:q} --models {input.models:q} --shard 0 --output {output:q}")


STUDENT_EVALUATION_CONFIGS = {
    task: freeze(
        f"distill/evaluation/{task}",
        {
            "methods": sorted([*TRIALS, *UNTRAINED]),
            "definition": {"answer": config["tasks"][task]["definition"]["answer"]},
        },
    )
    for task in DISTILL["tasks"]
}


rule evaluate_students:
    input:
        cfg=lambda wildcards: STUDENT_EVALUATION_CONFIGS[wildcards.task],
        examples=task_file("{task}", DISTILL["split"]),
        shards=expand(RESULTS / "distill/answers/{student}/0.jsonl", student=[*TRIALS, *UNTRAINED]),
    output:
        RESULTS / "distill/evaluation/{task}.parquet",
    log:
        LOGS / "distill/evaluation/{task}.log",
    benchmark:
        BENCHMARKS / "distill/evaluation/{task}.tsv"
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


STUDENTS_JUDGED = expand(RESULTS / "distill/evaluation/{task}.parquet", task=DISTILL["tasks"])
