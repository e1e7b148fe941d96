# The loss curves of all models and experts.

TRAINED = [name for name, entry in config["experts"].items() if "tasks" in entry]
HEALED = [name for name, entry in config["models"].items() if "heal" in entry]


rule plot_losses:
    input:
        cfg=freeze("report/losses", {"healed": HEALED}),
        trained=[model_folder(name) for name in [*HEALED, *TRAINED]] or list(map(model_folder, config["models"])),
    output:
        report(
            RESULTS / "plots/losses.svg",
            caption="../report/losses.rst",
            category="Training",
            labels={"what": "loss curves of models and experts", "track": "models"},
        ),
    log:
        LOGS / "plots/losses.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "losses --input {input.trained:q} --output {output:q}")
