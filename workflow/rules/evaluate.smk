# Evaluation: the judged examples of all tracks become one tidy table.
from logitfusion.config.jobs.report import metrics_job


rule metrics:
    input:
        judged=JUDGED_FILES if RUN.fusion else [],
        scores=JUDGED_SCORES if RUN.fusion else [],
        students=STUDENTS_JUDGED if RUN.distill else [],
        students_scores=STUDENTS_SCORES if RUN.distill else [],
        fewshot=CLIP_ANSWERS if RUN.clip else [],
    output:
        csv=shown("metrics.csv", "6 Every number", "The tidy table as CSV (a download)"),
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
        **settings(lambda wildcards: metrics_job(RUN)),
    shell:
        stage("metrics")
