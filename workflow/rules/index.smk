# The page that a reader opens first. It names every part of a run, so it is made last; of a run that failed, of what there is.
from logitfusion.config.jobs.page import page_job, used_tasks, cached_teachers
from logitfusion.config.methods import used_models

PAGE = {
    "entry": RESULTS / "index.html",
    "full": Path("reports") / RUN.run / "index.html",
    "numbers": RESULTS / "metrics.html",
}
PAGE_PARTS = {
    "metrics": [RESULTS / "metrics.parquet"],
    "models": list(map(model_folder, used_models(RUN))),
    "students": list(map(trial_folder, TRIALS)) if RUN.distill else [],
    "tasks": [RESULTS / f"tasks/{task}/record.json" for task in used_tasks(RUN)],
    "datasets": [CLIP_RESULTS / f"data/{name}/record.json" for name in CLIP.datasets] if RUN.clip else [],
    "encoder": [CLIP_RESULTS / "encoder"] if RUN.clip else [],
    "caches": [
        RESULTS / f"distill/cache/{teacher}/{shard}.safetensors"
        for teacher in cached_teachers(RUN)
        for shard in range(RUN.distill.cache.shards)
    ],
    "judged": JUDGED_FILES if RUN.fusion else [],
    "answered": STUDENTS_JUDGED if RUN.distill else [],
    "predictions": CLIP_ANSWERS if RUN.clip else [],
    "images": expand(CLIP_RESULTS / "data/{dataset}/table.parquet", dataset=CLIP.datasets) if RUN.clip else [],
    "parts": [
        *([RESULTS / "plots/losses.svg"] if TRAINED else []),
        *(FUSION_REPORT if RUN.fusion else []),
        *(STUDENTS_REPORT if RUN.distill else []),
        *(CLIP_REPORT if RUN.clip else []),
    ],
}
# Shown where they are there; nothing is made anew for them.
PAGE_EXTRAS = {
    "packages": sorted(set(map(package_file, RUN.packages))),
    "benchmarks": [BENCHMARKS],
    "runs": [RESULTS / "runs"],
    "lock": [SOURCE.parent / "requirements.lock"],
}


rule index:
    input:
        **PAGE_PARTS,
    output:
        entry=shown("index.html", "1 Start here", "What ran, what came out, examples, cost"),
        full=PAGE["full"],
        numbers=shown("metrics.html", "6 Every number", "The tidy table, to sort and to search", "metrics"),
    log:
        LOGS / "index.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: page_job(RUN)),
        extras=lambda wildcards, input: shlex.join(as_arguments(PAGE_EXTRAS)),  # where the clone lies reruns nothing
    shell:
        stage("index", "{params.extras}")
