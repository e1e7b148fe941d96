# Plots and tables of the report. All are made from the metrics table, the judged examples and the loss curves.

METHODS_CONFIG = freeze(
    "report/methods",
    {
        "methods": list(config["fusion"]["methods"]),
        "base": config["evaluate"]["base"],
        "ceiling": config["evaluate"]["ceiling"],
        "seen": SEEN_TASKS,
    },
)
TRAINED = [name for name, entry in config["experts"].items() if "tasks" in entry]
HEALED = [name for name, entry in config["models"].items() if "heal" in entry]


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
        "../../envs/report.yaml"
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
        "../../envs/report.yaml"
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
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "traces --input {input.judged:q} --output {output:q}")


rule plot_losses:
    input:
        cfg=freeze("report/losses", {"healed": HEALED}),
        trained=[model_folder(name) for name in [*HEALED, *TRAINED]] or list(map(model_folder, config["models"])),
    output:
        report(
            RESULTS / "plots/losses.svg",
            caption="../report/losses.rst",
            category="Training",
            labels={"what": "loss curves", "track": "fusion"},
        ),
    log:
        LOGS / "plots/losses.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "losses --input {input.trained:q} --output {output:q}")


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
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "tuning --input {input.tuned:q} --output {output:q}")
