# Plots and tables of the fusion track, made from the metrics table, the judged examples and what was tuned.

METHODS_CONFIG = freeze(
    "report/methods",
    {
        "methods": list(config["fusion"]["methods"]),
        "base": config["evaluate"]["base"],
        "ceiling": config["evaluate"]["ceiling"],
        "seen": sorted(SEEN_TASKS),
    },
)


rule plot_methods:
    input:
        cfg=METHODS_CONFIG,
        table=RESULTS / "metrics.parquet",
    output:
        report(
            RESULTS / "plots/methods.svg",
            caption="../report/methods.rst",
            category="Results",
            labels={"what": "methods by task", "track": "fusion"},
        ),
    log:
        LOGS / "plots/methods.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "methods --input {input.table:q} --output {output:q}")


rule summary:
    input:
        cfg=METHODS_CONFIG,
        table=RESULTS / "metrics.parquet",
    output:
        html=report(
            RESULTS / "summary.html",
            caption="../report/summary.rst",
            category="Results",
            labels={"what": "summary table", "track": "fusion"},
        ),
        markdown=RESULTS / "summary.md",
    log:
        LOGS / "plots/summary.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "summary --input {input.table:q} --output {output.html:q} {output.markdown:q}")


def trace_config(task):
    # Pairs, because the config's order of methods is the order of the columns.
    steered = [
        (method, expand_method(config["fusion"]["methods"][method], task)["experts"])
        for method in JUDGED[task]
        if "experts" in config["fusion"]["methods"][method]
    ]
    return {"task": task, "experts": steered, "examples": config["report"]["trace_examples"]}


TRACE_CONFIGS = {task: freeze(f"report/traces/{task}", trace_config(task)) for task in config["tasks"]}


rule plot_traces:
    input:
        cfg=lambda wildcards: TRACE_CONFIGS[wildcards.task],
        judged=RESULTS / "evaluation/{task}.parquet",
    output:
        report(
            RESULTS / "plots/traces/{task}.svg",
            caption="../report/traces.rst",
            category="Weights along the text",
            labels={"task": "{task}", "track": "fusion"},
        ),
    log:
        LOGS / "plots/traces/{task}.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "traces --input {input.judged:q} --output {output:q}")


rule plot_tuning:
    input:
        cfg=freeze("report/tuning", {"methods": TUNED}),
        tuned=expand(RESULTS / "tuning/{method}.json", method=TUNED),
    output:
        report(
            RESULTS / "plots/tuning.svg",
            caption="../report/tuning.rst",
            category="Training",
            labels={"what": "tuned trust", "track": "fusion"},
        ),
    log:
        LOGS / "plots/tuning.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "tuning --input {input.tuned:q} --output {output:q}")


FUSION_REPORT = [
    RESULTS / "plots/methods.svg",
    RESULTS / "summary.html",
    *([RESULTS / "plots/tuning.svg"] if TUNED else []),
    *expand(RESULTS / "plots/traces/{task}.svg", task=config["tasks"]),
]
