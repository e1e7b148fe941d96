# Plots and tables of the few-shot track, made from the metrics table and the answers on test images.
from logitfusion.config.jobs.report import fewshot_report


rule plot_clip:
    input:
        RESULTS / "metrics.parquet",
    output:
        shown("plots/clip_shots.svg", "2 Results", "Few-shot CLIP: accuracy against shots"),
        shown("plots/clip_ablation.svg", "2 Results", "Few-shot CLIP: AMU without its parts"),
        shown("plots/clip_shift.svg", "2 Results", "Few-shot CLIP: in and out of distribution"),
        shown("clip_summary.html", "2 Results", "Few-shot CLIP: summary table"),
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
        shown("plots/clip_uncertainty.svg", "4 Inside AMU", "Few-shot CLIP: uncertainty against correctness"),
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
