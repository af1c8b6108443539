"""`deltatune generate`: let a model write."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.models import Deltas, Device, Dtype, Model, Quant
from deltatune.cli.steered import (
    Alpha,
    Antiexpert,
    Api,
    ApiCache,
    ApiKey,
    ApiTop,
    Expert,
    ExpertDeltas,
    Map,
    Steering,
)
from deltatune.cli.verb import Verb, check_new, console, note
from deltatune.errors import ConfigError, DataError
from deltatune.train.opening import open_model

if TYPE_CHECKING:
    from deltatune.decoding.black_box import BlackBox
    from deltatune.io.bases import Base


def generate(
    model: Model,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; - or none reads standard input.")
    ] = None,
    delta: Deltas = [],  # noqa: B006  # typer reads it and makes a new list
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="JSONL with a prompt or messages a line, in place of PROMPT."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="With --file, write to this JSONL file.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system turn of the chat.")] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Use the chat template. Default: if there is one.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="Tokens to write at most.")
    ] = 256,
    temperature: Annotated[float, typer.Option("--temperature", "-t", metavar="X", min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="X", min=0, max=1, help="Draw from the likeliest tokens of this sum.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(metavar="N", min=0, help="Draw from so many of the likeliest tokens; 0: from all.")
    ] = 0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Draw the same text again.")] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="With --file, prompts in a batch.")] = 8,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Device = None,
    expert: Expert = None,
    expert_delta: ExpertDeltas = [],  # noqa: B006
    antiexpert: Antiexpert = None,
    alpha: Alpha = None,
    map: Map = False,
    explain: Annotated[
        bool, typer.Option("--explain", rich_help_panel="Proxy-tuning", help="Show what steering changed, by token.")
    ] = False,
    api: Api = None,
    api_key: ApiKey = "OPENAI_API_KEY",
    api_cache: ApiCache = None,
    api_top: ApiTop = 5,
) -> None:
    """Let a model go on from a prompt, through its chat template if it has one.

    One prompt is written as it comes. With --file each record is written with a completion added, as JSONL.

    With --expert a small tuned model steers the large one, here or behind an API: proxy-tuning.
    """
    steering = Steering(expert, expert_delta, antiexpert, alpha, map)
    steering.check(api)
    if explain and (file is not None or expert is None or api is not None):
        raise ConfigError("--explain: expected one prompt and an --expert here, found something else; leave it out")
    if out is not None:
        if file is None:
            raise ConfigError(f"--out {out}: expected --file with it, found a single prompt; leave it out")
        check_new("--out", out)
    rows = _rows(prompt, file)
    if api is not None:
        asked = {"--delta": delta, "--system": system, "--chat": chat, "--map": map, "--top-k": top_k}
        _refuse_by_api({**asked, "--top-p": top_p < 1}, rows)
        box = steering.box(api, model, api_key, api_cache, api_top, dtype=dtype, quant=quant, device=device)
        _write_by_api(
            box, rows, {"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}, file, out
        )
        return
    opened = open_model(model, delta, dtype=dtype, quant=quant, device=device)
    base = opened.base
    if base.task not in ("causal-lm", "seq2seq-lm"):
        raise ConfigError(f"generate: expected a model that writes, found one for {base.task}; use deltatune eval")
    if chat is None and opened.config is not None and opened.config.data.chat != "auto":
        chat = opened.config.data.chat
    prompts = [_tokens(base, row, system, chat) for row in rows]
    settings = _sampling(temperature, top_p, top_k, seed) | {"max_new_tokens": max_new_tokens}
    base = steering.apply(base, dtype=dtype, quant=quant, device=device)
    if file is None:
        written = _stream(base, prompts[0], settings)
        if explain:
            proxy: Any = base.model
            console(stderr=True).print(proxy.explain(written, len(prompts[0])))
    else:
        _write(base, rows, prompts, settings, batch_size, out)


def _rows(prompt: str | None, file: Path | None) -> list[dict[str, Any]]:
    if file is not None:
        if prompt is not None:
            raise ConfigError("PROMPT and --file: expected one of them, found both; leave one out")
        return _read(file)
    if prompt in (None, "-"):
        if sys.stdin.isatty():
            note("type the prompt and end it with Ctrl-D")
        prompt = sys.stdin.read()
    if not prompt:
        raise ConfigError("PROMPT: expected text, found none; give it after the model, or on standard input")
    return [{"prompt": prompt}]


def _read(file: Path) -> list[dict[str, Any]]:
    import json

    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON ({error}); expected an object a line") from None
        if row is None:
            continue
        if not isinstance(row, dict) or not (isinstance(row.get("prompt"), str) or _is_chat(row.get("messages"))):
            raise DataError(f"{file}, line {number}: expected a field prompt or messages, found none; rename yours")
        rows.append(row)
    if not rows:
        raise DataError(f"{file}: no records; expected at least one; check that this is the right file")
    return rows


def _is_chat(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _tokens(base: Base, row: dict[str, Any], system: str | None, chat: bool | None) -> list[int]:
    """A prompt as the tokens that it has in training."""
    from deltatune.train.prompting import prompt_tokens, turn_tokens

    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
    if chat or (chat is None and base.tokenizer.chat_template) or "messages" in row:
        if not base.tokenizer.chat_template:
            raise ConfigError(
                "--chat: expected a chat template in the tokenizer, found none; use --no-chat and prompts"
            )
        return turn_tokens(base, [{"role": "system", "content": system}, *messages] if system else messages)
    if system:
        raise ConfigError("--system: expected a chat, found a plain prompt; leave out --no-chat, or --system")
    return prompt_tokens(base, row["prompt"], chat=False)


def _sampling(temperature: float, top_p: float, top_k: int, seed: int | None) -> dict[str, Any]:
    from transformers import set_seed

    if seed is not None:
        set_seed(seed)
    if temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}


def _stream(base: Base, prompt: list[int], settings: dict[str, Any]) -> Any:
    """Write as it comes, and return the tokens of all, ``[1, tokens]``."""
    import torch
    from transformers import TextStreamer

    from deltatune.train.complete import neutral_generation

    model: Any = base.model.eval()
    streamer = TextStreamer(base.tokenizer, skip_prompt=base.task == "causal-lm", skip_special_tokens=True)
    ids = torch.tensor([prompt], device=model.device)
    with torch.no_grad(), neutral_generation(base):
        return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, **settings)


def _write(
    base: Base,
    rows: list[dict[str, Any]],
    prompts: list[list[int]],
    settings: dict[str, Any],
    batch_size: int,
    out: Path | None,
) -> None:
    from deltatune.train.complete import complete

    _put(rows, complete(base, prompts, batch_size=batch_size, **settings), out)


def _refuse_by_api(asked: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Refuse what can not be asked of an API that goes on from plain text."""
    for name, given in asked.items():
        if given:
            raise ConfigError(f"{name}: expected none beside --api, found one; leave it out")
    if any("messages" in row for row in rows):
        raise ConfigError("--file: expected prompts beside --api, found messages; write them as prompts")


def _write_by_api(
    box: BlackBox, rows: list[dict[str, Any]], settings: dict[str, Any], file: Path | None, out: Path | None
) -> None:
    texts = (box.generate(row["prompt"], **settings).text for row in rows)
    if file is None:
        typer.echo(next(texts))
    else:
        _put(rows, texts, out)
    usage = box.endpoint.usage
    tokens = f"{usage.prompt_tokens:,} tokens read and {usage.completion_tokens:,} written"
    note(f"{usage.requests:,} requests, {usage.cached:,} from the cache, {tokens}")


def _put(rows: list[dict[str, Any]], written: Iterator[str], out: Path | None) -> None:
    """Write each record with its completion, as it comes."""
    import json

    lines: Iterator[str] = (
        json.dumps(row | {"completion": text}, ensure_ascii=False) for row, text in zip(rows, written, strict=True)
    )
    if out is None:
        for line in lines:
            typer.echo(line)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")


VERB = Verb(
    generate,
    (
        ('deltatune generate out "Lunch at Noodle Bar, 34.50 euros"', "a finished run"),
        ('deltatune generate smollm2 "Why is the sky blue?" -t 0.7', "a base, with some chance in it"),
        ("deltatune generate smollm2 --delta out/final < prompt.txt", "a base with a delta, from standard input"),
        ("deltatune generate out --file prompts.jsonl --out answers.jsonl", "many prompts, in batches"),
        ('deltatune generate big-model "..." --expert out --explain', "a large model steered by a small run"),
        ('deltatune generate davinci-002 "..." --expert out --api https://api.openai.com/v1', "the same over an API"),
    ),
)
