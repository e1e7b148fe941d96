"""Prompts and right answers of documents, as the harness puts them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lm_eval.api.utils import ends_with_whitespace, maybe_delimit

from logitfusion.errors import UserError
from logitfusion.tasks.faults import explaining
from logitfusion.tasks.harness import Leaf

ChatTemplate = Callable[..., str]


def make_context(
    leaf: Leaf,
    document: Mapping[str, Any],
    *,
    num_fewshot: int = 0,
    chat_template: ChatTemplate | None = None,
    system: str | None = None,
    fewshot_as_multiturn: bool = False,
) -> str:
    """What comes before a document's answer; where each choice has a context of its own, that of the right one."""
    with explaining(leaf.task_name):
        context = leaf.fewshot_context(
            document,
            num_fewshot=num_fewshot,
            system_instruction=system,
            apply_chat_template=chat_template is not None,
            fewshot_as_multiturn=fewshot_as_multiturn,
            chat_template=chat_template,
            gen_prefix=leaf.doc_to_prefix(document),
        )
        return context if isinstance(context, str) else context[leaf.doc_to_text(document)]


def make_completion(leaf: Leaf, document: Mapping[str, Any], *, opening: str | None = None) -> str:
    """A document's right answer with what separates it from its context: the first one of several.

    It is the text that the harness asks the likelihood of, and in tasks that generate what stands in examples of
    prompts.

    Args:
        opening: the context is a chat, after which nothing separates it but this, in tasks that generate: the white
            space that a template writes, and models that learned from it generate, before what the assistant says.
    """
    with explaining(leaf.task_name):
        answer, prefix = _first_answer(leaf, document), leaf.doc_to_prefix(document)
    if leaf.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling"):
        return answer
    if leaf.OUTPUT_TYPE == "generate_until" and prefix:
        return maybe_delimit(prefix, answer)[len(prefix) :]
    if opening is None or (prefix and not ends_with_whitespace(prefix)):
        return leaf.config.target_delimiter + answer
    return opening + answer if leaf.OUTPUT_TYPE == "generate_until" else answer


def _first_answer(leaf: Leaf, document: Mapping[str, Any]) -> str:
    answer = leaf.doc_to_target(document)
    if isinstance(answer, (list, tuple)):
        answer = answer[0] if answer else None
    if answer is None:
        raise UserError(f"A document of the task {leaf.task_name!r} has no answer, and none can be learnt from it.")
    if isinstance(answer, int) and leaf.config.doc_to_choice is not None:
        choices = leaf.doc_to_choice(document)
        if not 0 <= answer < len(choices):
            raise UserError(
                f"A document of the task {leaf.task_name!r} says that choice {answer} is right, of {len(choices)};"
                " correct its doc_to_target."
            )
        answer = choices[answer]
    elif _must_choose(leaf) and answer not in (choices := leaf.doc_to_choice(document)):
        raise UserError(
            f"A document of the task {leaf.task_name!r} says that {answer!r} is right, which is none of its choices"
            f" ({', '.join(map(str, choices))}); correct its doc_to_target, or its doc_to_choice."
        )
    return str(answer)


def _must_choose(leaf: Leaf) -> bool:
    """Whether the right answer is one of the choices: not where these are contexts, and the answer follows all."""
    return leaf.OUTPUT_TYPE == "multiple_choice" and not leaf.multiple_input and leaf.config.doc_to_choice is not None
