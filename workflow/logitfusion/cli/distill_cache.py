"""Write what a teacher makes of texts into a cache that students are trained from."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from logitfusion.cli._chat import add_chat_arguments, read_chat_arguments
from logitfusion.cli._endpoint import add_endpoint_options, cache_endpoint, read_endpoint
from logitfusion.cli._inputs import be_quiet
from logitfusion.cli._learned import FORM, read_learned
from logitfusion.cli._options import add_options, given_values, spell
from logitfusion.cli._outputs import claim_outputs
from logitfusion.config.distill import CacheContents, Entries
from logitfusion.config.endpoint import Endpoint
from logitfusion.config.keywords import read_options
from logitfusion.config.loading import PRECISIONS, Placed
from logitfusion.config.section import Section, Shards
from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode
from logitfusion.shards import shard_range

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from logitfusion.distill.encoding import EncodedText
    from logitfusion.models.examples import Text


class Kept(Section):
    """What of the texts is read, and what of the predictions is kept."""

    k: Entries | None = None
    """Tokens kept of each position."""
    shards: Shards = 1
    """Files of the cache."""
    shard: Shards | None = None
    """Make only this one, from 1 to their number; left out, all."""
    max_tokens: Annotated[int, Field(ge=2, le=2**24)] | None = None
    """Longer texts are cut; a prompt and its response have a token each at least."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a cache."""
    parser.description = (
        "Write the k likeliest tokens of every response position, as a teacher predicts them, into a cache that"
        " students are trained from. A killed run goes on where it was; shards that are there stay. The teacher is read"
        " here, or by a server that has it."
    )
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="the model that reads the texts")
    parser.add_argument("--texts", metavar="FILE.jsonl", help=FORM)
    parser.add_argument("--output", type=Path, metavar="DIR", help="the cache")
    add_options(parser, Kept, filled=True)
    parser.add_argument(
        "--template", choices=("plain", "chat"), default="plain", help="how prompt and response are put together"
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="of --template chat: the system's message of chats without one"
    )
    add_chat_arguments(parser)
    add_options(parser, CacheContents, "rounding", filled=True)
    add_options(parser, CacheContents, "batch_size")
    add_options(parser, Placed)
    add_endpoint_options(parser)
    parser.add_argument(
        "--verify", type=Path, metavar="DIR", help="check all bytes of this cache and print what it is, nothing else"
    )


def run(arguments: argparse.Namespace) -> None:
    be_quiet()
    if arguments.verify is not None:
        _verify(arguments.verify)
        return
    texts = _check(arguments)
    from logitfusion.distill.cache import tokenizer_folder
    from logitfusion.distill.encoding import name_template
    from logitfusion.distill.shard import hash_texts
    from logitfusion.models.identity import hash_tokenizer, hash_vocabulary
    from logitfusion.models.load import load_tokenizer

    tokenizer = load_tokenizer(arguments.teacher)
    encoded = _encode(arguments, tokenizer, texts)
    progress = Progress(_count_tokens(encoded, arguments.shards, arguments.shard))
    source = {
        "tokenizer_hash": hash_tokenizer(arguments.teacher),
        "vocabulary_hash": hash_vocabulary(tokenizer),
        "template": name_template(arguments.template, arguments.system, read_chat_arguments(arguments)),
        "data_hash": hash_texts(texts),
        "max_tokens": arguments.max_tokens,
    }
    options = {
        "k": arguments.k,
        "rounding": arguments.rounding,
        "shards": arguments.shards,
        "only": None if arguments.shard is None else [arguments.shard],
        "on_batch": progress.compute,
        "on_found": progress.find,
    }
    endpoint = _read_endpoint(arguments)
    if endpoint is None:
        paths = _cache_folder(arguments, encoded, source, progress, options)
    else:
        paths = cache_endpoint(endpoint, arguments.teacher, tokenizer, encoded, arguments.output, source, **options)
    tokenizer.save_pretrained(tokenizer_folder(arguments.output))  # for terms that compare tokens by name
    for path in paths:
        print(path)
    print(f"{_size(paths)}, {progress.rate():.1f} tokens/s")


def _cache_folder(
    arguments: argparse.Namespace,
    encoded: Sequence[EncodedText],
    source: dict[str, Any],
    progress: Progress,
    options: dict[str, Any],
) -> list[Path]:
    """The cache of a teacher whose weights are in a folder."""
    from logitfusion.distill.offline import cache_teacher
    from logitfusion.models.adapters import load_expert
    from logitfusion.models.device_maps import assign_devices
    from logitfusion.models.forward import check_texts
    from logitfusion.models.identity import hash_model
    from logitfusion.models.load import use_threads

    source = {**source, "model_hash": hash_model(arguments.teacher)}
    use_threads()
    loading = _read_loading(arguments)
    (place,) = assign_devices([arguments.teacher], loading.device_map, loading.dtype)
    model = load_expert(arguments.teacher, dtype=loading.dtype, device_map=place, attention=loading.attention)
    check_texts(model, (text.ids for text in encoded), f"the model in {arguments.teacher}", "--max-tokens")
    progress.start()
    batch_size = _read_batch_size(arguments)
    return cache_teacher(model, encoded, arguments.output, source=source, batch_size=batch_size, **options)


def _check(arguments: argparse.Namespace) -> list[Text]:
    """The texts, if the command line can be used; nothing is loaded before."""
    missing = [name for name in ("teacher", "texts", "k", "output") if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"A cache needs {', '.join(f'--{name}' for name in missing)} too; --verify DIR checks one.")
    if not arguments.teacher.is_dir():
        raise UserError(f"The model folder {arguments.teacher} does not exist.")
    claim_outputs(
        {"--output": arguments.output},
        {"--teacher": arguments.teacher, "--texts": arguments.texts},
        folders=["--output"],
    )
    _read_batch_size(arguments)
    _read_loading(arguments)
    _read_endpoint(arguments)
    if read_chat_arguments(arguments) and arguments.template != "chat":
        raise UserError("--chat-arguments needs --template chat.")
    if arguments.system is not None:
        if arguments.template != "chat":
            raise UserError("--system needs --template chat.")
        check_unicode(arguments.system, "--system")
    return read_learned(arguments.texts, chats=arguments.template == "chat")


def _read_batch_size(arguments: argparse.Namespace) -> int | Literal["auto"]:
    """The config's own option and default."""
    given = getattr(arguments, "batch_size", CacheContents().batch_size)
    return read_options(CacheContents, {"batch_size": given}, spell).batch_size


def _read_loading(arguments: argparse.Namespace) -> Placed:
    """How the teacher is loaded; its precision may have the short name that a config's cache gives it."""
    given = given_values(Placed, arguments)
    if "dtype" in given:
        given["dtype"] = PRECISIONS.get(given["dtype"], given["dtype"])
    return read_options(Placed, given, spell)


def _read_endpoint(arguments: argparse.Namespace) -> Endpoint | None:
    """The server that has the teacher, if the command line names one."""
    return read_endpoint(arguments, ["batch_size", *Placed.model_fields])


def _encode(
    arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]
) -> list[EncodedText]:
    from logitfusion.distill.encoding import encode_texts

    return encode_texts(
        tokenizer,
        texts,
        template=arguments.template,
        system=arguments.system,
        arguments=read_chat_arguments(arguments),
        max_tokens=arguments.max_tokens,
    )


def _count_tokens(texts: Sequence[EncodedText], shards: int, shard: int | None) -> int:
    """Response tokens of the shard, or of all."""
    chosen = slice(None)
    if shard is not None:
        mine = shard_range(len(texts), shard - 1, shards)
        chosen = slice(mine.start, mine.stop)
    return sum(len(text.labels) for text in texts[chosen])


class Progress:
    """A line on the standard error every few seconds, with what was found on the disk left out of the rate."""

    def __init__(self, total: int, interval: float = 5.0) -> None:
        self.total, self.interval, self.found, self.computed = total, interval, 0, 0
        self.start()

    def start(self) -> None:
        """Count the time from now on."""
        self.started = self.printed = time.monotonic()

    def find(self, tokens: int) -> None:
        self.found += tokens

    def compute(self, tokens: int) -> None:
        self.computed += tokens
        now = time.monotonic()
        if now - self.printed > self.interval:
            self.printed = now
            done = self.found + self.computed
            left = (self.total - done) / max(self.rate(), 1e-9)
            print(
                f"{done} of {self.total} tokens, {self.rate():.1f} tokens/s, about {left:.0f} s left", file=sys.stderr
            )

    def rate(self) -> float:
        """Computed tokens a second."""
        return self.computed / max(time.monotonic() - self.started, 1e-9)


def _size(paths: Sequence[Path]) -> str:
    from logitfusion.distill.shard import read_manifest

    manifests = [read_manifest(path) for path in paths]
    texts, tokens = (sum(manifest[name] for manifest in manifests) for name in ("texts", "tokens"))
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    return f"{texts} texts, {tokens} tokens, {manifests[0]['bytes_per_token']} bytes/token, {megabytes:.1f} MB"


def _verify(folder: Path) -> None:
    """Read all shards of a cache and print what it is."""
    from logitfusion.distill.cache import TeacherCache, find_shards

    paths = find_shards(folder)
    cache = TeacherCache(paths)
    for name, value in cache.settings.items():
        print(f"{name}: {value}")
    print(f"{_size(paths)}, whole")
