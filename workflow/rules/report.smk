# The loss curves of all models and experts.
from logitfusion.config.jobs.report import losses_report
from logitfusion.config.methods import trained_models

TRAINED = trained_models(RUN)


rule plot_losses:
    input:
        list(map(model_folder, TRAINED)),
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
