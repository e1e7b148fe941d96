# The logits of several models, used three ways. `snakemake --profile local` runs the demo on this machine.
from snakemake.utils import min_version

min_version("9.27")

if not workflow.config_settings.configfiles:  # a config file given on the command line replaces the demo, never mixes

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/protocol.smk"
include: "workflow/rules/progress.smk"
include: "workflow/rules/files.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/experts.smk"


if RUN.fusion:

    include: "workflow/rules/fusion.smk"


if RUN.distill:

    include: "workflow/rules/distill.smk"


if RUN.clip:

    include: "workflow/rules/clip.smk"


include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


if RUN.fusion:

    include: "workflow/rules/fusion_report.smk"


if RUN.distill:

    include: "workflow/rules/distill_report.smk"


if RUN.clip:

    include: "workflow/rules/clip_report.smk"


include: "workflow/rules/index.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        RESULTS / "metrics.csv",
        RESULTS / "metrics.parquet",
        RESULTS / "downloads.json",
        RESULTS / "plots/losses.svg" if TRAINED else [],
        FUSION_REPORT if RUN.fusion else [],
        STUDENTS_REPORT if RUN.distill else [],
        CLIP_REPORT if RUN.clip else [],
        list(PAGE.values()),
