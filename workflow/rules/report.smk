# The loss curves of all models and experts.
from logitfusion.config.jobs.report import losses_report

TRAINED = [name for name, expert in RUN.experts.items() if isinstance(expert, TrainedExpert)]


rule plot_losses:
    input:
        list(map(model_folder, [*losses_report(RUN).healed, *TRAINED] or RUN.models)),
    output:
        shown("plots/losses.svg", "5 Training", "Models and experts: loss curves"),
    log:
        LOGS / "plots/losses.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: losses_report(RUN)),
    shell:
        stage("plot", "losses")
