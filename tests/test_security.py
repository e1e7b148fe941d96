"""What comes from elsewhere stays data: weights, archives, other people's code, and every text of a config."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import pickle
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkout import ROOT, copy_checkout, plans

from logitfusion.clip.encoders.towers import unpack_text_tower
from logitfusion.clip.encoders.weights import read_weights
from logitfusion.config.load import resolve_config
from logitfusion.errors import UserError
from logitfusion.fetch.archives import unpack_deb, unpack_tar
from logitfusion.fetch.hub import Download
from logitfusion.fetch.npm import _unpack_npm
from logitfusion.fetch.pypi import unpack_file
from logitfusion.files import sha256
from logitfusion.models import load, reference, source
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.tasks.library.sources import read_package


def refusal(function: Callable[..., Any], *arguments: Any) -> str | None:
    """The one sentence that something is refused with, if it is."""
    try:
        function(*arguments)
    except UserError as error:
        sentence = str(error)
    else:
        return None
    assert "\n" not in sentence
    assert sentence[-1] in ".?", sentence
    return sentence


# ---- the source: nothing unpickles, evaluates or goes through a shell ---------------------------------------------

SOURCES = [path for folder in ("workflow", "benchmarks", "envs") for path in sorted((ROOT / folder).rglob("*.py"))]
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text as code"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput"), "goes through a shell"),
    **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"), "makes objects"),
    **dict.fromkeys(("pd.read_pickle", "np.loads", "torch.hub.load"), "unpickles or runs what it reads"),
}
# Calls that are harmless with these arguments alone.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "torch.load": {"weights_only": True},
    "open_clip.create_model": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "extract": {"filter": "data"},
    "AutoModelForCausalLM.from_pretrained": {"use_safetensors": True, "trust_remote_code": False},
    "AutoTokenizer.from_pretrained": {"trust_remote_code": False},
}


def dangers(text: str) -> Iterator[str]:
    """What a module does that could run what it reads."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from _dangers_of_call(node)


def _dangers_of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
    if name in CALLS:
        yield f"{name} {CALLS[name]}"
    if given.get("shell") is True:
        yield f"{name} goes through a shell"
    if given.get("trust_remote_code") is True:
        yield f"{name} trusts code that comes with a model"
    expected = next(
        (expected for key, expected in ARGUMENTS.items() if f".{name}".endswith(f".{key}") and "." in name), {}
    )
    if "gguf_file" in ast.unparse(node) or any(word.arg is None for word in node.keywords):
        expected = {}  # not a pickle; or checked where it runs, below
    for key, value in expected.items():
        if given.get(key) != value:
            yield f"{name} lacks {key}={value}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_could_run_what_it_reads(path: Path) -> None:
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "open_clip.create_model('ViT-B-32', pretrained=path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "archive.extract(member, folder)",
        "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(folder)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert list(dangers(text))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_run_stages_alone_and_quote_every_file(path: Path) -> None:
    """Only Snakemake's own fields stand in commands: quoted here, quoted before (options), or names and numbers."""
    text = path.read_text()
    assert not re.findall(r"^\s*(?:run|script|notebook|wrapper):", text, re.MULTILINE)
    for command in re.findall(r'(?<!f)"([^"\n]*--[^"\n]*)"', text):
        for field in re.findall(r"\{([^{}]*)\}", command):
            assert re.fullmatch(r"params\.\w+:q|wildcards\.\w+", field), field
    if path.name == "common.smk":  # what `stage` puts around them
        fields = set(re.findall(r"\{\{(.*?)\}\}", text)) | {"params.source:q"} & set(re.findall(r"\{(.*?)\}", text))
        assert fields == {"params.source:q", "params.options", "params.config:q", "log:q"}


# ---- weights ------------------------------------------------------------------------------------------------------


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


def test_a_pickle_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="can't be read safely"):
        read_weights(tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError, match="can't be read safely"):
        read_weights(tmp_path / "bare.pth")
    assert not (tmp_path / "ran").exists()


def test_a_process_of_ours_unpickles_nothing_whoever_asks(tmp_path: Path) -> None:
    """torchvision and peft, say, load files of weights by ways of their own."""
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pth")
    load = f"import torch; torch.load({str(tmp_path / 'evil.pth')!r}, weights_only=False)"
    switch = "import os; print(os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'])"
    words = [f"import logitfusion.stages; {load}", f"import logitfusion.cli; {switch}"]
    stage, command = (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow", capture_output=True, text=True, check=False)
        for code in words
    )
    assert "UnpicklingError" in stage.stderr
    assert not (tmp_path / "ran").exists()
    assert command.stdout.strip() == "1"


# ---- code that comes with a model ---------------------------------------------------------------------------------


@pytest.fixture
def carrier(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose config asks for the code beside it, which makes a file when it runs."""
    folder = tmp_path / "carrier"
    subprocess.run(["cp", "-r", tiny_models["base"], folder], check=True)
    for name, entry in {
        "config.json": {"model_type": "other", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}},
        "tokenizer_config.json": {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}},
    }.items():
        settings = json.loads((folder / name).read_text()) | entry
        (folder / name).write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    return folder


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_code_beside_a_model_does_not_run(
    carrier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], Any]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask, at a terminal
    with pytest.raises(UserError, match="can't be read"):
        load(carrier)
    assert not (tmp_path / "ran").exists()


def test_code_of_a_hub_s_model_is_never_trusted(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where it is referred to nor where it is loaded."""
    asked = []

    def record(load: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            asked.append(options["trust_remote_code"])
            return load(*arguments, **options)

        return call

    for loader, name in (
        (reference.AutoConfig, "from_pretrained"),
        (reference.AutoModelForCausalLM, "from_config"),
        (reference.AutoModelForCausalLM, "from_pretrained"),
        (load.AutoTokenizer, "from_pretrained"),
    ):
        monkeypatch.setattr(loader, name, record(getattr(loader, name)))
    found = Download("model", "owner/name", "main", "0" * 40, tiny_models["base"], ())
    monkeypatch.setattr(source, "download_recorded", lambda *_, **__: found)
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    config["models"]["far"] = {"source": "hub", "id": "owner/name", "revision": "main"}
    source.from_hub(resolve_config(config).models["far"], tmp_path / "far")
    load.load_model(tiny_models["base"])
    assert len(asked) >= 4
    assert not any(asked)


@pytest.mark.parametrize("said", [False, True])
def test_trust_in_code_of_a_model_is_refused_where_it_is_written(said: bool) -> None:
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    far = {"source": "hub", "id": "owner/name", "revision": "main", "trust_remote_code": said}
    config["models"]["far"] = far
    with pytest.raises(UserError, match=r"'models\.far\.trust_remote_code' .* never run; remove it"):
        resolve_config(config)


# ---- archives -----------------------------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, 0o6777
    entry.devmajor, entry.devminor = 1, 3
    return entry


HOSTILE: dict[str, Callable[[Path], list[tarfile.TarInfo]]] = {
    "upwards": lambda place: [member("../victim")],
    "upwards later": lambda place: [member("a/../../victim")],
    "absolute": lambda place: [member(str(place / "victim"))],
    "a link": lambda place: [member("link", tarfile.SYMTYPE, str(place / "victim"))],
    "through a link": lambda place: [member("link", tarfile.SYMTYPE, ".."), member("link/victim")],
    "over a link": lambda place: [member("link", tarfile.SYMTYPE, "../victim"), member("link")],
    "a hard link": lambda place: [member("link", tarfile.LNKTYPE, "../victim"), member("link")],
    "a device": lambda place: [member("null", tarfile.CHRTYPE)],
    "a pipe": lambda place: [member("pipe", tarfile.FIFOTYPE)],
    "a folder": lambda place: [member("..", tarfile.DIRTYPE), member("../victim/x", tarfile.DIRTYPE)],
}


def packed(members: list[tarfile.TarInfo]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for entry in members:
            entry.size = 4 if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(b"evil") if entry.isreg() else None)
    return content.getvalue()


def ar(*members: tuple[str, bytes], size: str | None = None) -> bytes:
    parts = [b"!<arch>\n"]
    for name, content in members:
        length = len(content) if size is None else size
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{length:<10}`\n".encode() + content)
    return b"".join(parts)


def assert_harmless(place: Path, out: Path) -> None:
    """Nothing outside was touched, and inside are plain files without rights to run as somebody else."""
    assert (place / "victim").read_bytes() == b"mine"
    assert {path.name for path in place.iterdir()} <= {"victim", "archive", out.name}
    for path in out.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), path
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(
    ("unpack", "wrap"), [(unpack_tar, bytes), (unpack_deb, lambda data: ar(("data.tar.gz", data)))]
)
def test_a_hostile_tar_archive_harms_nothing(
    tmp_path: Path, unpack: Callable[..., Any], wrap: Callable[[bytes], bytes], kind: str
) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "archive").write_bytes(wrap(packed([member("good"), *HOSTILE[kind](tmp_path)])))
    said = refusal(unpack, tmp_path / "archive", lambda name: True, tmp_path / "out")
    assert said is None or str(tmp_path / "archive") in said
    assert (tmp_path / "out/good").read_bytes() == b"evil"
    assert_harmless(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("size", ["-60", "-1", "x", "", "1e3", "9999999999"])
def test_a_deb_with_a_made_up_size_is_refused(tmp_path: Path, size: str) -> None:
    (tmp_path / "archive").write_bytes(ar(("control.tar.gz", b""), ("data.tar.gz", b""), size=size))
    with pytest.raises(UserError, match="not a readable package"):
        unpack_deb(tmp_path / "archive", lambda name: True, tmp_path / "out")


def zipped(path: Path, members: list[str | zipfile.ZipInfo]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, b"../victim" if isinstance(name, zipfile.ZipInfo) else b"evil")
    return path


def link(name: str) -> zipfile.ZipInfo:
    """A symbolic link, as zip archives of Unix have them."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


UPWARDS = ["../victim", "a/../../victim", "{place}/victim", "..", "a/..", "link"]


@pytest.mark.parametrize("name", UPWARDS)
def test_a_hostile_wheel_harms_nothing(tmp_path: Path, name: str) -> None:
    """Also where the config itself names the hostile member."""
    (tmp_path / "victim").write_bytes(b"mine")
    name = name.format(place=tmp_path)
    archive = zipped(tmp_path / "archive", [link("link") if name == "link" else name])
    said = refusal(unpack_file, archive, name, tmp_path / "out")
    assert said is None or "has no file" in said or "outside of its folder" in said
    assert_harmless(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", UPWARDS)
def test_a_hostile_package_of_rows_or_of_npm_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where rows lie for a moment
    name = name.format(place=tmp_path)
    evil = f"rows/{name}" if not name.startswith("/") else name
    archive = zipped(tmp_path / "archive", ["rows/state.json", link("rows/link") if name == "link" else evil])
    digest = sha256(archive)
    with pytest.raises(Exception):  # noqa: B017, PT011 (not a data set, however it is unpacked)
        read_package(package="p==1", sha256=digest, path="rows", wheels={digest: str(archive)})
    assert_harmless(tmp_path, tmp_path / "out")
    members = [f"n/node_modules/npm/{name}", "n/bin/node", "n/node_modules/npm/bin/npm-cli.js"]
    (tmp_path / "out").mkdir()
    with contextlib.suppress(UserError):  # "outside of its folder"
        _unpack_npm(zipped(tmp_path / "archive", members), tmp_path / "out/node")
    assert_harmless(tmp_path, tmp_path / "out")


def test_a_hostile_text_tower_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name in ("../victim", "../../victim", "config.json", "model.safetensors", "tokenizer.json", "evil.py"):
            archive.writestr(name, b"{}")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("tower/model.zip", inner.getvalue())
    unpack_text_tower(tmp_path / "archive", "tower/model.zip", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert_harmless(tmp_path, tmp_path / "out")


# ---- texts of a config --------------------------------------------------------------------------------------------

# What a shell, Snakemake's braces or a path would make something of; the second one may be a path that a rule reads.
TEXTS = (
    "a b'\"$(touch ran)`touch ran`{task}{input}{{x}}\n;&|<>*?~#\\$HOME",
    "a b'\"$(touch ran)`touch ran`;&|<>*?~#$HOME",
)


def varied() -> dict[str, Any]:
    """The demo with a source of every kind that needs no more than a text."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["tasks"]["sciq"] |= {
        "harness": "letters",
        "include_path": "tasks",
        "metric": "acc",
        "training_split": "rows",
    }
    config["tasks"]["sciq"]["generation_kwargs"] = {"until": ["."]}
    config["models"]["gemma"] = {"source": "path", "path": "folder"}
    config["models"]["far"] = {"source": "hub", "id": "owner/name", "revision": "main"}
    clip = config["clip"]
    clip["auxiliaries"]["file"] = {"source": "checkpoint", "model": "resnet18", "path": "r.pth", "pretraining": "words"}
    clip["auxiliaries"]["named"] = {"source": "torchvision", "model": "m", "weights": "w", "pretraining": "words"}
    clip["datasets"]["emoji_twitter"] |= {"package": "twitter.tgz", "sha256": None}
    clip["datasets"] |= {
        "cloth": {"source": "fashion_mnist", "package": "fashion.deb", "prompts": ["a {}."]},
        "mine": {"source": "folder", "path": "a", "test_path": "b", "class_names": {"folder": "name"}},
        "listed": {"source": "csv", "path": "list.csv", "root": "there"},
        "pets": {"source": "torchvision", "name": "dtd", "root": "r", "coop_split": "s", "images": "i"},
    }
    return config


FREE = ("classes", "class_names")  # mappings whose keys are texts, too; names are in test_config.py


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all texts, those of keys included (by a path that ends in None)."""
    if isinstance(value, str):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if path and path[-1] in FREE:
            yield (*path, key, None)
        yield from texts(inner, (*path, key))


def write(config: dict[str, Any], path: tuple[Any, ...], text: str) -> None:
    """Put a text at its place, before the ending that a place may need (``.tgz``, ``.jsonl``)."""
    *parents, last = path if path[-1] is not None else path[:-1]
    place: Any = config
    for key in parents:
        place = place[key]
    if path[-1] is None:
        items = list(place.items())
        place.clear()
        place |= {text if key == last else key: value for key, value in items}
    else:
        ending = " {}" if "prompts" in path else Path(place[last]).suffix if last in ("package", "path", "file") else ""
        place[last] = text + ending


@pytest.fixture(scope="module")
def hostile() -> tuple[dict[str, Any], dict[tuple[Any, ...], str]]:
    """A config with one of the texts wherever a text is let through, and those places."""
    config, places = varied(), {}
    # Keys last: a path goes through them.
    for path in sorted(texts(config), key=lambda path: path[-1] is None):
        for text in TEXTS:
            changed = copy.deepcopy(config)
            write(changed, path, text)
            if refusal(resolve_config, changed) is None:
                config, places[path] = changed, text
                break
    return config, places


def test_texts_reach_every_place_that_takes_one(hostile: tuple[dict[str, Any], dict[tuple[Any, ...], str]]) -> None:
    """So that the next test can fail; names, versions and digests are refused."""
    places = {".".join(map(str, path)) for path in hostile[1]}
    sciq = "tasks.sciq"
    assert places >= {
        "models.large.file", "models.gemma.path", f"{sciq}.harness", f"{sciq}.include_path",
        f"{sciq}.generation_kwargs.until.0", f"{sciq}.training_split", f"{sciq}.metric",
        "clip.encoder.pretraining", "clip.auxiliaries.file.path", "clip.datasets.mine.path",
        "clip.datasets.emoji_twitter.package", "clip.datasets.cloth.prompts.0", "clip.datasets.mine.class_names.folder",
    }  # fmt: skip
    refused = {"run", "models.large.package", "models.large.sha256", "models.far.id", "models.small.from"}
    assert not places & {*refused, "experts.sst2.base", "experts.sst2.tasks.0", "clip.encoder.pairs", "clip.oracle.0"}


@pytest.mark.workflow
def test_texts_of_a_config_reach_no_shell(
    tmp_path: Path, hostile: tuple[dict[str, Any], dict[tuple[Any, ...], str]]
) -> None:
    """Every job's command is run by bash, with a python that writes down what it is called with."""
    config, places = hostile
    folder = copy_checkout(tmp_path / TEXTS[1])
    for name in ("emoji_twitter", "cloth"):
        (folder / config["clip"]["datasets"][name]["package"]).write_text("")
    rows = f"{TEXTS[1]}.jsonl"
    (folder / rows).write_text("")
    definition = {"task": config["tasks"]["sciq"]["harness"], "dataset_path": "json"}
    definition["dataset_kwargs"] = {"data_files": {"rows": rows}}
    include_path = folder / config["tasks"]["sciq"]["include_path"]
    include_path.mkdir()
    (include_path / "sciq.yaml").write_text(json.dumps(definition))
    jobs = [job for job in plans(folder, [config])[0] if job["rule"] != "all"]
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" > "$CALLED"\n')
    python.chmod(0o755)
    variables = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": "/", "CALLED": str(tmp_path / "called")}
    carried, slices = set(), []
    for job in jobs:
        (folder / job["log"]).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["bash", "-euc", job["command"]], cwd=folder, env=variables, check=True, timeout=20)
        *words, option, slice_ = (tmp_path / "called").read_bytes().decode().split("\0")[:-1]
        assert re.fullmatch(r"-m logitfusion\.stages\.\w+", " ".join(words[:2]))
        assert option == "--config"
        slices.append(json.dumps(json.loads(slice_), ensure_ascii=False))
        hostile_words = {word for word in words if any(text in word for text in TEXTS)}
        hostile_words.discard(str(folder / "requirements.lock"))  # where the clone lies, told to the page
        assert hostile_words <= set(job["input"])
        carried |= hostile_words
    assert len(carried) == 4, "two packages, a definition and its file of rows; all else is data in the slices"
    assert not list(tmp_path.rglob("ran"))
    told = "".join(slices)
    assert all(json.dumps(text, ensure_ascii=False)[1:-1] in told for text in places.values())
