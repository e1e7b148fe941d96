# Evaluation: the judged examples of all tracks become one tidy table.


rule metrics:
    input:
        cfg=freeze(
            "evaluation",
            {
                "run": config["run"],
                "seed": config["seed"],
                "evaluate": config["evaluate"],
                "metrics": {task: entry["definition"]["metric"] for task, entry in config["tasks"].items()},
                "fusion": (
                    {"split": config["fusion"]["split"], "seen": sorted(SEEN_TASKS)} if "fusion" in config else None
                ),
                "distill": students_config() if "distill" in config else None,
                "clip": clip_track() if "clip" in config else None,
                "whole": {key: value for key, value in config.items() if key != "report"},
            },
        ),
        judged=JUDGED_FILES if "fusion" in config else [],
        students=STUDENTS_JUDGED if "distill" in config else [],
        fewshot=CLIP_ANSWERS if "clip" in config else [],
    output:
        csv=report(
            RESULTS / "metrics.csv",
            caption="../report/metrics.rst",
            category="Results",
            labels={"what": "every number, tidy", "track": "all"},
        ),
        parquet=RESULTS / "metrics.parquet",
    log:
        LOGS / "metrics.log",
    benchmark:
        BENCHMARKS / "metrics.tsv"
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "judged", "students", "fewshot"),
    shell:
        stage("metrics", "{params.options} --csv {output.csv:q} --parquet {output.parquet:q}")
