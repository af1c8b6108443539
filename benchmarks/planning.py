"""Predicted and measured memory: what ``dt.plan`` says, and what the process took that trained so.

Each row is a process of its own: it trains a small model first, so that all libraries are loaded, then loads the base,
attaches the method and does two steps of ``dt.Trainer``. What was measured is the most that was resident meanwhile,
less what was before the base was loaded.

    python benchmarks/planning.py                       # SmolLM2 and MiniLM
    python benchmarks/planning.py --base smollm2 --methods lora,dora
    python benchmarks/planning.py --base FOLDER --large # a base of 7B from `large.py`: LoRA, half precision and 4 bits

The C library of this system (glibc) keeps freed blocks of up to 32 MB and can not use many of them again, which is
memory that no tensor has. The measuring process tells it to give them back at once (MALLOC_MMAP_THRESHOLD_), as the
allocators of other systems, and of GPUs, do; without that the last column says what a process takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

SIZES = {"smollm2": [(256, 1024), (512, 2048)], "minilm": [(64, 1024), (128, 4096)]}
"""Tokens of a text and of a batch."""

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    **{
        name: {"method": name}
        for name in (
            *("lora", "dora", "adalora", "relora", "prompt", "ptuning", "prefix"),
            *("houlsby", "pfeiffer", "parallel", "ia3", "norm", "child"),
        )
    },
    "bitfit": {"method": "bitfit", "add_missing": True},
}

LARGE: list[dict[str, Any]] = [
    {"tokens": tokens, "length": 512, "method": {"method": "lora", "r": 8}, "dtype": "bfloat16", **how}
    for tokens, how in (
        (512, {}),
        (512, {"checkpointing": True}),
        (512, {"quant": "nf4", "checkpointing": True}),
        (1024, {}),
    )
]
"""What is planned for a base of 7B."""

PAGES = "65536"
"""The size of the smallest block, in bytes, that goes back to the system at once."""


# One row, in a process of its own.


def measure(case: dict[str, Any]) -> dict[str, int]:
    """Bytes that were resident at most, beyond those of the process before it loaded the base."""
    import torch
    import transformers

    import deltatune as dt

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    is_causal = case["base"] != "minilm"
    with tempfile.TemporaryDirectory() as folder:
        train(small(is_causal), {"method": "lora"}, {"tokens": 64, "length": 32}, folder)
        task = "auto" if is_causal else "sequence-classification"
        loading = {name: case[name] for name in ("dtype", "quant") if name in case}
        load = partial(dt.load_base, case["base"], task=task, **loading)
        if "dtype" not in case:  # a large base is not loaded twice
            load()  # so that whatever else it takes is there
        gc.collect()
        before = resident("VmRSS")
        model = load().model
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, with the weights there
        train(model, case["method"], case, folder)
    return {"measured": resident("VmHWM") - before}


def small(is_causal: bool) -> Any:
    """A model that is done at once."""
    import transformers

    size = {"vocab_size": 1000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if is_causal:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, intermediate_size=64))
    return transformers.BertForSequenceClassification(transformers.BertConfig(**size, intermediate_size=64))


def train(model: Any, method: dict[str, Any], case: dict[str, Any], folder: str) -> None:
    """Two steps of ``dt.Trainer``, of the method, or of all weights as the trainer's savings would train them."""
    import torch
    import transformers

    import deltatune as dt
    from deltatune.methods import from_config
    from deltatune.packing.path import why_not

    length, rows = case["length"], case["tokens"] // case["length"]
    packs = why_not(model) is None
    texts = torch.randint(5, model.config.vocab_size, (2 * rows, length)).tolist()
    data = [
        {"input_ids": text, "labels": [-100] * (length // 2) + text[length // 2 :] if packs else number % 2}
        for number, text in enumerate(texts)
    ]
    if not method:
        model.requires_grad_(True).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        with dt.Savings(packing=dt.Packing() if packs else None).on(model):
            for part in (data[:rows], data[rows:]):
                batch = dt.Packing().collate(part) if packs else padded(part)
                model(**({"packed": batch["packed"]} if packs else batch)).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return
    dt.attach(model, from_config(method))
    args = transformers.TrainingArguments(
        folder,
        max_steps=2,
        per_device_train_batch_size=rows,
        optim="adamw_torch_fused",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **({"gradient_checkpointing": True} if case.get("checkpointing") else {}),
    )
    dt.Trainer(model, args, train_dataset=data).train()


def padded(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of examples of one length."""
    import torch

    return {name: torch.tensor([example[name] for example in examples]) for name in ("input_ids", "labels")}


def resident(name: str) -> int:
    """Bytes, of a line of this process's status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


# All rows.


def predict(case: dict[str, Any]) -> int:
    """Bytes that a plan says."""
    import deltatune as dt

    found = dt.plan(
        case["base"],
        methods=[case["method"] or "full"],
        seq_len=case["length"],
        batch_tokens=case["tokens"],
        device="cpu",
        **{name: case[name] for name in ("dtype", "quant", "checkpointing") if name in case},
    )
    assert found.rows[0].cost is not None, found.rows[0].error
    return found.rows[0].cost.total


def run(case: dict[str, Any], **environment: str) -> int:
    """What a process measures of itself."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | environment)
    return int(json.loads(output.stdout.splitlines()[-1])["measured"])


def cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What to measure."""
    if options.large:
        return [{"base": options.base, **case} for case in LARGE]
    bases = [options.base] if options.base else list(SIZES)
    names = options.methods.split(",") if options.methods else list(METHODS)
    return [
        {"base": base, "length": length, "tokens": tokens, "method": METHODS[name]}
        for base in bases
        for length, tokens in SIZES[base]
        for name in names
    ]


def main() -> dict[str, Any]:
    """One case, or all of them, with what was predicted and measured in GB, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base")
    parser.add_argument("--methods")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--case", type=json.loads)
    options = parser.parse_args()
    if options.case:
        return measure(options.case)
    figures: dict[str, Any] = {}
    for case in cases(options):
        predicted, measured = predict(case), run(case, MALLOC_MMAP_THRESHOLD_=PAGES)
        kept = f"{run(case) / 1e9:.3f}" if case["method"] == METHODS["lora"] else "–"  # not of a large base
        row = {
            "predicted GB": f"{predicted / 1e9:.3f}",
            "measured GB": f"{measured / 1e9:.3f}",
            "ratio": f"{predicted / measured:.3f}",
            "glibc's habit GB": kept,
        }
        titles = (f"{Path(case['base']).name}, {case['tokens']:,} tokens of {case['length']}", named(case))
        print(*titles, json.dumps(row), file=sys.stderr, flush=True)
        figures.setdefault(titles[0], {})[titles[1]] = row
    return figures


def named(case: dict[str, Any]) -> str:
    """A row's name: the method, and how the base is held."""
    method = case["method"].get("method", "full")
    how = [case.get("quant") or case.get("dtype"), "checkpointed" if case.get("checkpointing") else None]
    return ", ".join([method, *(each for each in how if each)])


if __name__ == "__main__":
    print(json.dumps(main()))
