"""Rendering chats: which of the rendered tokens are the assistant's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deltatune.errors import DataError
from deltatune.train.examples import Chat, Message
from deltatune.train.job import Job, Part
from deltatune.train.records import Record

__all__ = ["chat_parts"]


def chat_parts(chat: Chat, record: Record, job: Job) -> list[Part]:
    if not job.tokenizer.chat_template or job.chat is False:
        found = "is a chat, and chat=False" if job.tokenizer.chat_template else "the tokenizer has no chat template"
        hint = "set tokenizer.chat_template, or give prompt and completion"
        raise DataError(f"{record.origin}: {found}; expected a template to render it with; {hint}")
    template = job.tokenizer.get_chat_template(tools=_tools(chat))
    if re.search(r"\{%-?\s*generation\s*-?%\}", template):
        return _masked_parts(chat, record, job)
    return list(job.parts(_rendered_texts(chat, record, job)))


def _tools(chat: Chat) -> list[Any] | None:
    return [dict(tool) for tool in chat.tools] or None


def _apply(chat: Chat, record: Record, job: Job, **options: bool) -> Any:
    from jinja2 import TemplateError

    apply: Any = job.tokenizer.apply_chat_template  # its annotations know of no content but strings
    turns = [{"role": m.role, "content": m.content, **m.extra} for m in chat.messages]
    try:
        return apply(turns, tools=_tools(chat), **options)
    except (TemplateError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        hint = "change the data or tokenizer.chat_template"
        raise DataError(f"{record.origin}: the chat template refuses it ({reason}); {hint}") from error


def _masked_parts(chat: Chat, record: Record, job: Job) -> list[Part]:
    """Tokens by the template's own `{% generation %}` marks."""
    out = _apply(chat, record, job, return_dict=True, return_assistant_tokens_mask=True)
    ids, learned = list(out["input_ids"]), [bool(m) for m in out["assistant_masks"]]
    ends = set(job.specials.values())
    for i in range(1, len(ids)):
        # Many templates leave the end of the turn unmarked, and a model trained so would never stop.
        if learned[i - 1] and not learned[i] and ids[i] in ends and ids[i - 1] not in ends:
            learned[i] = True
    return [([token], mark) for token, mark in zip(ids, learned, strict=True)]


def _rendered_texts(chat: Chat, record: Record, job: Job) -> Iterator[tuple[str, bool]]:
    """The rendered chat in pieces, from what each turn adds to the rendering of those before it."""
    whole = _render(chat.messages, chat, record, job)
    done = 0
    for i, message in enumerate(chat.messages):
        if message.role != "assistant":
            continue
        if i == 0:
            hint = "put a system or user turn before it"
            raise DataError(f"{record.origin}: begins with an assistant turn; expected something to answer to; {hint}")
        before = _render(chat.messages[:i], chat, record, job, prompt=True)
        through = _render(chat.messages[: i + 1], chat, record, job)
        if not (whole.startswith(through) and through.startswith(before) and len(before) >= done):
            found = f"the chat template renders turn {i + 1} differently with and without what comes next"
            hint = "mark the assistant's part with {% generation %} in the template, or give one answer a record"
            raise DataError(f"{record.origin}: {found}; expected each rendering to go on from the last; {hint}")
        end = _end_of_turn(through, len(before), job)
        yield whole[done : len(before)], False
        yield whole[len(before) : end], True
        done = end
    yield whole[done:], False


def _render(messages: tuple[Message, ...], chat: Chat, record: Record, job: Job, *, prompt: bool = False) -> str:
    part = Chat(messages, chat.tools)
    return str(_apply(part, record, job, tokenize=False, add_generation_prompt=prompt))


def _end_of_turn(text: str, start: int, job: Job) -> int:
    """Where the turn ends: behind its last special token if only white space follows, which a model never writes."""
    bare = text.rstrip()
    return len(bare) if len(bare) > start and bare.endswith(tuple(job.specials)) else len(text)
