"""Options of an evaluation as lm-evaluation-harness spells them, checked before anything is loaded."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from logitfusion.cli._options import add_options
from logitfusion.config.decoding import DecodingOptions
from logitfusion.config.keywords import read_options
from logitfusion.config.section import LARGEST_SEED, LARGEST_WHOLE, Section, Shots, number
from logitfusion.errors import UserError
from logitfusion.evaluate.faults import explain_unsafe

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

logger = logging.getLogger(__name__)

_SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


def _check_limit(limit: float) -> float:
    if limit > 1 and not limit.is_integer():
        raise PydanticCustomError("cross", "must be a whole number, or below 1 for a share of the examples", {})
    return limit


class Asked(Section):
    """How much is asked."""

    limit: Annotated[number(gt=0, le=LARGEST_WHOLE), AfterValidator(_check_limit)] | None = None
    """Examples of each task; below 1, a share of them."""
    num_fewshot: Shots | None = None
    """Examples in each prompt; left out, the task's own number."""
    max_length: Annotated[int, Field(ge=1, le=2**24)] | None = None
    """Tokens that are read at most; left out, the model's."""


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Options of which examples are asked, how prompts are made, how texts are generated, and what is kept."""
    examples = parser.add_argument_group("examples")
    examples.add_argument("--include-path", type=Path, metavar="DIR", help="with definitions of further tasks (YAML)")
    examples.add_argument(
        "--metadata", nargs="+", metavar="KEY=VALUE", help="what some tasks need to make their data; or one JSON object"
    )
    add_options(examples, Asked, "limit", "num_fewshot", filled=True)
    examples.add_argument(
        "--seed",
        dest="seeds",
        metavar="N|N,N,N,N",
        help="of Python, NumPy, torch and the choice of examples in prompts; None leaves one unset"
        " (default: 0,1234,1234,1234)",
    )
    _add_prompts(parser.add_argument_group("prompts"))
    texts = parser.add_argument_group("generated texts")
    texts.add_argument(
        "--gen-kwargs",
        nargs="+",
        metavar="KEY=VALUE",
        help="replace the tasks' own generation_kwargs: temperature=0.7,do_sample=true, or one JSON object",
    )
    texts.add_argument(
        "--predict-only", action="store_true", help="keep the answers (as --log-samples) and measure nothing"
    )
    texts.add_argument(
        "--confirm-run-unsafe-code", action="store_true", help="allow tasks that run the code that the model writes"
    )


def _add_prompts(prompts: argparse._ArgumentGroup) -> None:
    prompts.add_argument("--system-instruction", metavar="TEXT", help="goes before the task's own description")
    prompts.add_argument(
        "--apply-chat-template",
        nargs="?",
        const=True,
        default=False,
        metavar="NAME",
        help="examples are messages to a chat model (NAME: one of several templates of its tokenizer)",
    )
    prompts.add_argument(
        "--fewshot-as-multiturn",
        nargs="?",
        const="true",
        choices=("true", "false"),
        metavar="true|false",
        help="examples in prompts are turns of their own in a chat (default: true)",
    )
    prompts.add_argument(
        "--chat-template-args", "--chat-arguments", metavar="JSON", help='of the template: {"enable_thinking": false}'
    )


def read_evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``lm_eval.simple_evaluate``.

    Raises:
        UserError: names the option that can't be used.
    """
    chat = arguments.apply_chat_template is not False
    if not chat and arguments.fewshot_as_multiturn == "true":
        raise UserError("--fewshot-as-multiturn is about chats: give --apply-chat-template too.")
    if not chat and arguments.chat_template_args is not None:
        raise UserError("--chat-template-args is about chats: give --apply-chat-template too.")
    samples = arguments.log_samples or arguments.predict_only
    if samples and arguments.output is None:
        option = "--log-samples" if arguments.log_samples else "--predict-only"
        raise UserError(f"{option} keeps the answers in the results: give --output too.")
    return {
        "num_fewshot": arguments.num_fewshot,
        "limit": arguments.limit,
        **_read_seeds(arguments.seeds),
        "system_instruction": arguments.system_instruction,
        "apply_chat_template": arguments.apply_chat_template,
        "fewshot_as_multiturn": chat and arguments.fewshot_as_multiturn != "false",
        "gen_kwargs": _read_generation(arguments.gen_kwargs),
        "predict_only": arguments.predict_only,
        "confirm_run_unsafe_code": arguments.confirm_run_unsafe_code,
        "log_samples": samples,
    }


def _read_seeds(text: str | None) -> dict[str, int | None]:
    """One seed for all generators, or one for each; the harness's own are kept where none is given."""
    if text is None:
        return {}
    words = [word.strip() for word in text.split(",")]
    if len(words) not in (1, len(_SEEDS) - 1, len(_SEEDS)) or not all(map(_is_seed, words)):
        raise UserError(
            f"--seed must be one whole number, or {len(_SEEDS)} (Python, NumPy, torch, examples in prompts) with commas"
            f" between them, each below 2^32 or None, not {text!r}."
        )
    seeds = [None if word.lower() == "none" else int(word) for word in words]
    return dict(zip(_SEEDS, seeds * len(_SEEDS) if len(seeds) == 1 else seeds, strict=False))


def _is_seed(word: str) -> bool:
    return word.lower() == "none" or (word.isdecimal() and len(word) < 20 and int(word) <= LARGEST_SEED)


def _read_generation(words: Sequence[str] | None) -> dict[str, Any] | None:
    if words is None:
        return None
    from logitfusion.config.tasks import LENGTHS
    from logitfusion.fusion.lm_eval_arguments import check_generation

    found = read_pairs("--gen-kwargs", words)
    check_generation(found)
    # The tasks' own max_gen_toks would win against its other names.
    lengths = [(name, found.pop(name)) for name in LENGTHS if found.get(name) is not None]
    given = {name: found[name] for name in ("temperature", "top_p", "top_k") if found.get(name) is not None}
    if lengths:
        written, found["max_gen_toks"] = lengths[0]
        given["max_new_tokens"] = found["max_gen_toks"]
    read_options(DecodingOptions, given, lambda name: f"--gen-kwargs {written if name == 'max_new_tokens' else name}")
    if found.get("temperature") and "do_sample" not in found:
        logger.warning("--gen-kwargs temperature draws nothing in tasks that say do_sample: false; add do_sample=true.")
    return found


def read_pairs(option: str, words: Sequence[str] | None) -> dict[str, Any]:
    """``key=value`` with commas or spaces between them, or one JSON object, as the harness reads them.

    Raises:
        UserError: neither.
    """
    from lm_eval._cli.utils import key_val_to_dict, try_parse_json

    found: dict[str, Any] = {}
    for word in words or ():
        try:
            read = try_parse_json(word)
            found |= read if isinstance(read, dict) else key_val_to_dict(word)
        except ValueError as error:
            raise UserError(f"{option} can't be read at {word!r} ({error}).") from None
    return found


def refuse_unsafe(tasks: Sequence[str], manager: TaskManager) -> None:
    """Refuse tasks that run code, as far as their definitions say so themselves.

    Raises:
        UserError: names the first.
    """
    for name in tasks:
        entry = manager.task_index.get(name)
        if entry is not None and (entry.cfg or {}).get("unsafe_code"):
            raise UserError(explain_unsafe(name))
