# Distillation: every teacher reads the training texts once, into a cache (or online, while a student learns); every method trains the student from
# it, once with each seed, at equal steps; students, teachers and the untouched student decode the test (or validation) splits, and are judged task by task.
from logitfusion.config.jobs.distill import answer_job, offline_teachers, online_teachers, student_job, teacher_job
from logitfusion.config.jobs.fusion import judge_job
from logitfusion.config.methods import answered_tasks, evaluated_tasks

DISTILL = RUN.distill
TEACHERS = {name: entry.model for name, entry in DISTILL.teachers.items()}
# One trial is a method with a seed; a dot can't be part of a name, so it tells trials from models.
TRIALS = [f"{method}.{seed}" for method in DISTILL.methods for seed in DISTILL.seeds]
MODELS = list(dict.fromkeys([DISTILL.student, *TEACHERS.values()]))
TEXT = [task_file(task, "train") for task in DISTILL.tasks if RUN.tasks[task].train]
VALIDATION = [task_file(task, "validation") for task in DISTILL.training.evaluate]
ANSWERED = answered_tasks(RUN)  # the others are texts to learn from


rule teacher_cache:
    input:
        text=TEXT,
        model=lambda wildcards: whole_models([TEACHERS[wildcards.teacher]]),
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
        gpu=DISTILL.cache.gpus,
        mem_mb=memory(16000, "teacher_cache", lambda wildcards: wildcards.teacher),
        runtime=longer(240, "teacher_cache", lambda wildcards: wildcards.teacher),
    params:
        **settings(lambda wildcards: teacher_job(RUN, wildcards.teacher)),
        checkpoints=checkpoints,
    shell:
        stage(
            "teacher_cache",
            "--teacher {wildcards.teacher} --shard {wildcards.shard} --checkpoints {params.checkpoints:q}",
        )


rule student:
    input:
        base=whole_models([DISTILL.student]),
        text=TEXT,
        validation=VALIDATION,
        documents=list(map(task_documents, evaluated_tasks(RUN))),
        caches=lambda wildcards: [
            RESULTS / f"distill/cache/{teacher}/{shard}.safetensors"
            for teacher in offline_teachers(RUN, wildcards.objective)
            for shard in range(DISTILL.cache.shards)
        ],
        teachers=lambda wildcards: whole_models(
            [entry.model for entry in online_teachers(RUN, wildcards.objective).values()]
        ),
        tokenizers=lambda wildcards: [
            model_folder(TEACHERS[teacher])
            for teacher in DISTILL.methods[wildcards.objective].teachers
            if DISTILL.methods[wildcards.objective].hybrid
        ],
    output:
        directory(RESULTS / "distill/students/{objective}.{seed}"),
    log:
        LOGS / "distill/students/{objective}.{seed}.log",
    benchmark:
        BENCHMARKS / "distill/students/{objective}.{seed}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=DISTILL.training.processes,
        mem_mb=memory(16000, "student", lambda wildcards: wildcards.objective),
        runtime=longer(240, "student", lambda wildcards: wildcards.objective),
    params:
        **settings(lambda wildcards: student_job(RUN, wildcards.objective)),
        checkpoints=checkpoints,
        launcher=launcher(DISTILL.training.processes),
    shell:
        stage(
            "student",
            "--name {wildcards.objective} --seed {wildcards.seed} --checkpoints {params.checkpoints:q}",
            launched=True,
        )


rule answer:
    input:
        documents=list(map(task_documents, ANSWERED)),
        models=lambda wildcards: trial_models(wildcards.student),
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
        gpu=DISTILL.gpus,
        mem_mb=memory(16000, "answer", answering),
        runtime=longer(120, "answer", answering),
    params:
        **settings(lambda wildcards: answer_job(RUN, wildcards.student)),
        protocol=protocol(DISTILL.split),
    shell:
        stage("decode", "--shard 0 {params.protocol:q}")


rule evaluate_students:
    input:
        documents=task_documents("{task}"),
        shards=expand(RESULTS / "distill/answers/{student}/0.jsonl", student=[*TRIALS, *MODELS]),
    output:
        RESULTS / "distill/evaluation/{task}.parquet",
        scores=RESULTS / "distill/evaluation/{task}.json",
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
        **settings(lambda wildcards: judge_job(RUN, wildcards.task, [*TRIALS, *MODELS], DISTILL.split)),
    shell:
        stage("evaluate", "--task {wildcards.task}")


STUDENTS_JUDGED = expand(RESULTS / "distill/evaluation/{task}.parquet", task=ANSWERED)
STUDENTS_SCORES = expand(RESULTS / "distill/evaluation/{task}.json", task=ANSWERED)
