# Plots and tables of the fusion track, made from the metrics table, the judged examples and what was tuned.
from logitfusion.config.jobs.report import fusion_report, traces_report, tuning_report
from logitfusion.config.methods import steered_tasks


rule plot_methods:
    input:
        RESULTS / "metrics.parquet",
    output:
        shown("plots/methods.svg", "2 Results", "Fusion: scores by task"),
        shown("summary.html", "2 Results", "Fusion: summary table"),
        RESULTS / "summary.md",
    log:
        LOGS / "plots/methods.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: fusion_report(RUN)),
    shell:
        stage("plot", "methods")


rule plot_traces:
    input:
        RESULTS / "evaluation/{task}.parquet",
    output:
        shown("plots/traces/{task}.svg", "3 Weights along the text", "Fusion: first examples of {task}", "traces"),
    log:
        LOGS / "plots/traces/{task}.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: traces_report(RUN, wildcards.task)),
    shell:
        stage("plot", "traces")


SEARCHED = [method for method in TUNED if method not in FITTED]


rule plot_tuning:
    input:
        expand(RESULTS / "tuning/{method}.json", method=SEARCHED),
    output:
        shown("plots/tuning.svg", "5 Training", "Fusion: tuned trust and anchor"),
    log:
        LOGS / "plots/tuning.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: tuning_report(RUN)),
    shell:
        stage("plot", "tuning")


FUSION_REPORT = [
    RESULTS / "plots/methods.svg",
    RESULTS / "summary.html",
    *([RESULTS / "plots/tuning.svg"] if SEARCHED else []),
    *expand(RESULTS / "plots/traces/{task}.svg", task=steered_tasks(RUN)),
]
