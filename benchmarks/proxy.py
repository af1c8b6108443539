"""Proxy-tuning on the demo's task: how much of what tuning brings to SmolLM2-135M a smaller model can bring.

- *base*: SmolLM2-135M as it comes, 30 layers.
- *small*: 20 of its layers, the first 14 and the last 6, healed by LoRA on what the base writes to 96 other prompts; no
  note is among them. It knows less than the base, and has its vocabulary.
- *expert*: the small model with a delta tuned on 200 notes. *tuned*: the base with a delta tuned on the same notes.
- *proxy*: the base, steered by the expert against the small model, by alpha.
- *sharpened*: the base with its own delta as the expert and itself as the anti-expert, alpha above 1.

Held out are 40 notes of sentences, payees and purchases that no training note has. *loss* is the mean over the tokens
of their records; *exact* and *fields* are the shares of records and fields that are right when written greedily.
*closed* is how much of the way from base to tuned is covered, in loss and in fields.

    python benchmarks/proxy.py
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

import deltatune as dt
from deltatune.decoding.sides import Inputs
from deltatune.demo.task import Example, examples, score
from deltatune.io.bases import Base
from deltatune.train.complete import complete
from deltatune.train.config import RunConfig
from deltatune.train.run import run

LAYERS, TRAINED, HELD_OUT = [*range(14), *range(24, 30)], 200, 40
ALPHAS = (0.5, 1.0, 1.5, 2.0)
TOPICS = [
    *("the sea", "bread", "a train journey", "winter", "mathematics", "a good friend", "gardens", "history", "music"),
    *("the moon", "tea", "computers", "a small town", "football", "health", "an old book", "birds", "the law"),
    *("physics", "a letter", "work", "sleep", "maps", "art"),
]
ASKS = ("Tell me about {}.", "Write a short story about {}.", "Give me three facts about {}.", "Why do people like {}?")

Scorer = Callable[[Tensor, int], Tensor]
"""From a text ``[1, tokens]`` and how many columns are wanted to logits."""


def main() -> dict[str, Any]:
    """Train, measure and compare."""
    set_seed(0)
    held_out = examples("test", seed=1, size=HELD_OUT)
    with tempfile.TemporaryDirectory() as folder:
        base = dt.load_base("smollm2", dtype="float32")
        rows: dict[str, dict[str, Any]] = {"base": measured(base, held_out)}
        small = healed(base, Path(folder))
        data = jsonl(Path(folder, "notes.jsonl"), examples("train", size=TRAINED))
        notes, whole = tuned(small, data, Path(folder, "expert")), tuned("smollm2", data, Path(folder, "tuned"))
        little = dt.load_base(small, dtype="float32")
        rows["small"] = measured(little, held_out, writes=False)
        dt.load(little.model, notes, name="notes")
        rows["expert"] = measured(little, held_out)
        proxy = dt.ProxyTuned(base, little)
        losses = steered_losses(proxy, base, held_out)
        for alpha in ALPHAS:
            proxy.alpha = alpha
            written = {"exact": math.nan, "fields": math.nan}
            if alpha == 1:
                written = answered(Base(proxy, base.tokenizer, "proxy", "causal-lm"), held_out)
            rows[f"proxy, alpha {alpha:g}"] = {"loss": losses[alpha], **written}
        dt.load(base.model, whole, name="notes")
        rows["tuned"] = measured(base, held_out)
        sharp = dt.ProxyTuned(base, base, alpha=1.5)
        rows["sharpened, alpha 1.5"] = {"loss": steered_losses(sharp, base, held_out)[1.5], **_nothing()}
    return {"SmolLM2-135M": {name: told(row, rows) for name, row in rows.items()}}


def healed(base: Base, folder: Path) -> str:
    """A part of the layers as a model that writes, in a folder."""
    asks = [ask.format(topic) for topic in TOPICS for ask in ASKS]
    turns: Any = [[{"role": "user", "content": ask}] for ask in asks]
    prompts: Any = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    texts = complete(base, prompts, batch_size=48, max_new_tokens=60, do_sample=True, temperature=0.8, top_k=50)
    rows = [{"prompt": ask, "completion": text} for ask, text in zip(asks, texts, strict=True) if text.strip()]
    say(f"{len(rows)} texts to heal by")
    little = dt.load_base("smollm2", dtype="float32")
    model: Any = little.model
    model.model.layers = nn.ModuleList(model.model.layers[number] for number in LAYERS)
    model.config.num_hidden_layers = len(LAYERS)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in LAYERS]
    cut = folder / "cut"
    save(little, cut)
    delta = tuned(str(cut), jsonl(folder / "heal.jsonl", rows), folder / "heal", r=32, alpha=32, epochs=2, rate=1e-3)
    dt.load(little.model, delta)
    dt.merge(little.model)
    return str(save(little, folder / "small"))


def save(base: Base, folder: Path) -> Path:
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def tuned(model: str, data: Path, out: Path, r: int = 8, alpha: int = 16, epochs: int = 1, rate: float = 3e-3) -> Path:
    """The folder of a delta, trained as in the demo."""
    settings = {
        "base": {"model": model, "dtype": "float32"},
        "delta": {"method": "lora", "r": r, "alpha": alpha, "targets": "all_linear"},
        "data": {"train": str(data)},
        "train": {"epochs": epochs, "batch_size": 4, "learning_rate": rate, "warmup_steps": 0.1, "seed": 0},
        "output": str(out),
    }
    result = run(RunConfig.model_validate(settings), progress=False)
    say(f"{out.name}: {result.metrics}")
    return result.final


def measured(base: Base, notes: Sequence[Example], writes: bool = True) -> dict[str, Any]:
    """The loss of a model, and what is right of what it writes."""
    model: Any = base.model
    loss = losses_of(lambda ids, keep: model(input_ids=ids, logits_to_keep=keep).logits, base, notes)
    row = {"loss": loss, **(answered(base, notes) if writes else _nothing())}
    say(str(row))
    return row


def steered_losses(proxy: dt.ProxyTuned, base: Base, notes: Sequence[Example]) -> dict[float, float]:
    """The loss by alpha; the models run once."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def run_once(ids: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        if (key := hash(tuple(ids[0].tolist()))) not in kept:
            own, expert, anti = proxy.logits(Inputs(ids), keep=keep)
            kept[key] = own, expert - anti
        return kept[key]

    def scorer(alpha: float) -> Scorer:
        return lambda ids, keep: torch.add(*run_once(ids, keep), alpha=alpha)

    found = {alpha: losses_of(scorer(alpha), base, notes) for alpha in ALPHAS}
    say(str(found))
    return found


@torch.no_grad()
def losses_of(logits: Scorer, base: Base, notes: Sequence[Example]) -> float:
    """The mean loss over the tokens of the records and their ends."""
    total, count = 0.0, 0
    for note in notes:
        turns: Any = [{"role": "user", "content": note["prompt"]}]
        prompt: Any = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        end = [base.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        answer = [*base.tokenizer(note["completion"], add_special_tokens=False)["input_ids"], *end]
        scores = logits(torch.tensor([[*prompt, *answer]]), len(answer) + 1)[0, :-1].log_softmax(dim=-1)
        total -= float(scores.gather(1, torch.tensor(answer)[:, None]).sum())
        count += len(answer)
    return total / count


def answered(base: Base, notes: Sequence[Example]) -> dict[str, float]:
    """The shares of records and of fields that are right."""
    turns: Any = [[{"role": "user", "content": note["prompt"]}] for note in notes]
    prompts: Any = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    texts = complete(base, prompts, batch_size=40, max_new_tokens=72)
    scores = [score(text, note["completion"]) for text, note in zip(texts, notes, strict=True)]
    return {
        "exact": sum(each.exact for each in scores) / len(scores),
        "fields": sum(each.accuracy for each in scores) / len(scores),
    }


def told(row: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A row with what it closes of the gap."""
    figures: dict[str, Any] = {name: "" if math.isnan(value) else round(value, 3) for name, value in row.items()}
    for name in ("loss", "fields"):
        start, end = rows["base"][name], rows["tuned"][name]
        share = (row[name] - start) / (end - start) if end != start else math.nan
        figures[f"closed, {name}"] = "" if math.isnan(share) else f"{share + 0:.0%}"
    return figures


def jsonl(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def say(text: str) -> None:
    """How it goes, on standard error."""
    print(f"{time.process_time():.0f} s: {text}", file=sys.stderr, flush=True)


def _nothing() -> dict[str, float]:
    return {"exact": math.nan, "fields": math.nan}


if __name__ == "__main__":
    print(json.dumps(main()))
