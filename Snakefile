# The logits of several models, used three ways. `snakemake --profile local` runs the demo on this machine.
from snakemake.utils import min_version

min_version("9.27")

if not workflow.config_settings.configfiles:  # a config file given on the command line replaces the demo, never mixes

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/experts.smk"
include: "workflow/rules/fusion.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        RESULTS / "metrics.csv",
        RESULTS / "metrics.parquet",
        RESULTS / "plots/methods.svg",
        RESULTS / "plots/losses.svg",
        RESULTS / "summary.html",
        [RESULTS / "plots/tuning.svg"] if TUNED else [],
        expand(RESULTS / "plots/traces/{task}.svg", task=config["tasks"]),
