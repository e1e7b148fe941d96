# Downloads, the only jobs that need a network: `snakemake --until fetch` makes them and nothing else, where there is one. On a
# cluster they run where Snakemake itself does, because compute nodes often have none.
from logitfusion.config.jobs.fetch import CLIP as CLIP_NAME
from logitfusion.config.jobs.fetch import fetched_encoders, fetched_tasks, hub_models, used_packages
from logitfusion.config.jobs.page import used_tasks
from logitfusion.config.jobs.texts import fetched_texts
from logitfusion.config.methods import used_models
from logitfusion.config.packages import Package

# Packages are shared by all runs.
DOWNLOADS = {package_file(part).stem: part.part(Package) for part in RUN.packages}
# The commit that a branch of the hub was when it was first asked about, which stays the run's.
REVISIONS = RESULTS / "revisions"
HUB_MODELS, ENCODERS = hub_models(RUN), fetched_encoders(RUN)
HUB_TASKS = {**fetched_tasks(RUN), **fetched_texts(RUN)}


rule package:
    output:
        PACKAGES / "{package}.{suffix}",
    log:
        PACKAGES / "{package}.{suffix}.log",
    benchmark:
        PACKAGES / "{package}.{suffix}.tsv"
    retries: 1
    localrule: True
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=longer(20),
    params:
        **settings(lambda wildcards: DOWNLOADS[wildcards.package]),
    shell:
        stage("package", online=True)


rule fetch_model:
    output:
        directory(RESULTS / "models/{model}"),
    log:
        LOGS / "models/{model}.log",
    benchmark:
        BENCHMARKS / "models/{model}.tsv"
    wildcard_constraints:
        model=any_of(HUB_MODELS),
    priority: 10  # others wait for them
    localrule: True
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(240),
    params:
        **settings(lambda wildcards: HUB_MODELS[wildcards.model]),
        revisions=REVISIONS,
    shell:
        stage("fetch_model", "--name {wildcards.model} --revisions {params.revisions:q}", online=True)


rule fetch_data:
    output:
        fetched_data("{task}"),
    log:
        LOGS / "fetched/data/{task}.log",
    benchmark:
        BENCHMARKS / "fetched/data/{task}.tsv"
    wildcard_constraints:
        task=any_of(HUB_TASKS),
    localrule: True
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(120),
    params:
        **settings(lambda wildcards: HUB_TASKS[wildcards.task]),
        revisions=REVISIONS,
    shell:
        stage("fetch_data", "--task {wildcards.task} --revisions {params.revisions:q}", online=True)


rule fetch_encoder:
    output:
        fetched_encoder("{encoder}"),
    log:
        LOGS / "fetched/encoders/{encoder}.log",
    benchmark:
        BENCHMARKS / "fetched/encoders/{encoder}.tsv"
    wildcard_constraints:
        encoder=any_of(ENCODERS),
    localrule: True
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(60),
    params:
        **settings(lambda wildcards: ENCODERS[wildcards.encoder]),
        revisions=REVISIONS,
    shell:
        stage("fetch_encoder", "--name {wildcards.encoder} --revisions {params.revisions:q}", online=True)


rule fetch:
    input:
        packages=sorted(set(map(package_file, used_packages(RUN)))),
        models=[model_folder(name) for name in used_models(RUN) if name in HUB_MODELS],
        data=[fetched_data(task) for task in used_tasks(RUN) if task in HUB_TASKS],
        encoders=list(map(fetched_encoder, ENCODERS)),
    output:
        RESULTS / "downloads.json",
    log:
        LOGS / "downloads.log",
    localrule: True
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=longer(20),
    params:
        **settings(lambda wildcards: {}),
        revisions=REVISIONS,
    shell:
        stage("fetch", "--revisions {params.revisions:q}", online=True)
