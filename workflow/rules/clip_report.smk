# Plots and tables of the few-shot track, made from the metrics table and the answers on test images.
from logitfusion.config.jobs.report import fewshot_report


rule plot_clip:
    input:
        RESULTS / "metrics.parquet",
    output:
        shown("plots/clip_shots.svg", "Results", what="accuracy against shots", track="few-shot CLIP"),
        shown("plots/clip_ablation.svg", "Results", what="AMU without its parts", track="few-shot CLIP"),
        shown("plots/clip_shift.svg", "Results", what="in and out of distribution", track="few-shot CLIP"),
        shown("clip_summary.html", "Results", what="summary table", track="few-shot CLIP"),
        RESULTS / "clip_summary.md",
    log:
        LOGS / "plots/clip.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: fewshot_report(RUN)),
    shell:
        stage("plot", "fewshot")


rule plot_clip_answers:
    input:
        CLIP_ANSWERS,
    output:
        shown("plots/clip_uncertainty.svg", "Inside AMU", what="uncertainty against correctness", track="few-shot CLIP"),
    log:
        LOGS / "plots/clip_answers.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: fewshot_report(RUN)),
    shell:
        stage("plot", "fewshot_answers")


CLIP_REPORT = [
    RESULTS / "plots/clip_shots.svg",
    RESULTS / "plots/clip_uncertainty.svg",
]
