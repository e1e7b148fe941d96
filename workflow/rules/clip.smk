# Few-shot CLIP: data sets are unpacked, a CLIP is built or opened; encoders see the support images of all shots and seeds once (with views), and test
# images in a job of their own; every method is fitted on a data set in one job, all shots and seeds; one job a data set reads the test features.
from logitfusion.config.jobs.clip import data_job, encoder_job, fit_job, predict_job, support_job, test_job
from logitfusion.config.jobs.report import test_sets

CLIP = RUN.clip
CLIP_RESULTS = RESULTS / "clip"
# Sets that support sets are drawn from -> themselves and their shifted sets, all of which are tested on.
CLIP_SETS = {name: test_sets(RUN, name) for name, entry in CLIP.datasets.items() if entry.shift_of is None}


rule clip_data:
    input:
        package=data_package,
    output:
        images=directory(CLIP_RESULTS / "data/{dataset}/images"),
        table=CLIP_RESULTS / "data/{dataset}/table.parquet",
        record=CLIP_RESULTS / "data/{dataset}/record.json",
    log:
        LOGS / "clip/data/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/data/{dataset}.tsv"
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        **settings(lambda wildcards: data_job(RUN, wildcards.dataset)),
    shell:
        stage("clip_data", "--dataset {wildcards.dataset}")


rule clip_encoder:
    input:
        images=CLIP_RESULTS / "data" / CLIP.encoder.pairs / "images" if CLIP.encoder.source == "built" else [],
        package=list(map(package_file, getattr(CLIP.encoder, "packages", ()))),
        fetched=fetched_encoder(CLIP_NAME) if CLIP_NAME in ENCODERS else [],
    output:
        directory(CLIP_RESULTS / "encoder"),
    log:
        LOGS / "clip/encoder.log",
    benchmark:
        BENCHMARKS / "clip/encoder.tsv"
    priority: 20  # all others wait for it
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=longer(60),
    params:
        **settings(lambda wildcards: encoder_job(RUN)),
    shell:
        stage("clip_encoder")


AUXILIARY_PACKAGES = [
    package_file(part) for _, entry in sorted(CLIP.auxiliaries.items()) for part in getattr(entry, "packages", ())
]


rule clip_support:
    input:
        data=CLIP_RESULTS / "data/{dataset}/table.parquet",
        images=CLIP_RESULTS / "data/{dataset}/images",
        clip=CLIP_RESULTS / "encoder",
        package=AUXILIARY_PACKAGES,
        fetched=fetched_auxiliaries(),
    output:
        directory(CLIP_RESULTS / "support/{dataset}"),
    log:
        LOGS / "clip/support/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/support/{dataset}.tsv"
    priority: 15
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=longer(120),
    params:
        **settings(lambda wildcards: support_job(RUN)),
        cache=feature_cache,
    shell:
        stage("clip_features", "--split support --dataset {wildcards.dataset} --cache {params.cache:q}")


rule clip_test:
    input:
        data=CLIP_RESULTS / "data/{dataset}/table.parquet",
        like=origin_table,
        images=CLIP_RESULTS / "data/{dataset}/images",
        clip=CLIP_RESULTS / "encoder",
        package=AUXILIARY_PACKAGES,
        fetched=fetched_auxiliaries(),
    output:
        directory(CLIP_RESULTS / "test/{dataset}"),
    log:
        LOGS / "clip/test/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/test/{dataset}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=longer(120),
    params:
        **settings(lambda wildcards: test_job(RUN)),
        cache=feature_cache,
    shell:
        stage("clip_features", "--split test --dataset {wildcards.dataset} --cache {params.cache:q}")


rule clip_fit:
    input:
        support=CLIP_RESULTS / "support/{dataset}",
    output:
        directory(CLIP_RESULTS / "heads/{dataset}/{head}"),
    log:
        LOGS / "clip/heads/{dataset}/{head}.log",
    benchmark:
        BENCHMARKS / "clip/heads/{dataset}/{head}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=longer(120),
    params:
        **settings(lambda wildcards: fit_job(RUN, wildcards.head)),
    shell:
        stage("clip_fit", "--name {wildcards.head}")


rule clip_predict:
    input:
        support=CLIP_RESULTS / "support/{dataset}",
        test=lambda wildcards: [CLIP_RESULTS / f"test/{name}" for name in CLIP_SETS[wildcards.dataset]],
        heads=[CLIP_RESULTS / f"heads/{{dataset}}/{name}" for name in CLIP.methods],
    output:
        directory(CLIP_RESULTS / "predictions/{dataset}"),
    log:
        LOGS / "clip/predictions/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/predictions/{dataset}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=longer(60),
    params:
        **settings(lambda wildcards: predict_job(RUN, CLIP_SETS[wildcards.dataset])),
        protocol=protocol(),
    shell:
        stage("clip_predict", "{params.protocol:q}")


CLIP_ANSWERS = [CLIP_RESULTS / f"predictions/{name}" for name in CLIP_SETS]
