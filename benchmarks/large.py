"""Train on a base of 7B parameters: peak memory and seconds a step, in half precision and in 4 bits.

The weights are random, drawn from a seed and written layer by layer (13.5 GB for LLaMA-2-7B), so nothing is downloaded.
Each row is a process of its own: it loads the base, attaches LoRA (r=8, query and value) and does one step of AdamW
over one text with gradient checkpointing. A thread looks at the process's memory all the while:

    peak        the most memory that was resident, as the system counts it
    anonymous   the part that is the process's own, and has to be there
    file        the part that is pages of the weights' files, which the system may take back whenever it needs room

    python benchmarks/large.py                            # all rows; the weights stay in a temporary folder
    python benchmarks/large.py --folder FOLDER --model qwen2-7b --tokens 1024
    python benchmarks/large.py --row nf4                  # one row
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "LlamaConfig",
        {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512},
    ),
    "llama-2-7b": (
        "LlamaConfig",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
        },
    ),
    "qwen2-7b": (
        "Qwen2Config",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
        },
    ),
}
"""The architectures: the class of the config, and its settings."""

ROWS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "bfloat16, offload": {"offload": True},
    "nf4": {"quant": "nf4"},
}
"""What a base is loaded with."""

GB = 1e9


# The weights.


def write(folder: Path, model: str, seed: int = 0) -> None:
    """Write a random checkpoint in bfloat16, a file for each layer, unless it is there."""
    import torch
    import transformers
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    index = folder / "model.safetensors.index.json"
    if index.exists():
        return
    kind, settings = MODELS[model]
    config = getattr(transformers, kind)(**settings, dtype="bfloat16", tie_word_embeddings=False)
    with torch.device("meta"):
        shapes = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    config.architectures = [kind.replace("Config", "ForCausalLM")]
    config.save_pretrained(folder)
    words = Tokenizer(WordLevel({"<eos>": 0, "a": 1}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder)
    files: dict[str, list[str]] = defaultdict(list)
    for name in shapes:
        parts = name.split(".")
        files[f"layer-{parts[2]}.safetensors" if "layers" in parts else "rest.safetensors"].append(name)
    random = torch.Generator().manual_seed(seed)
    for file, names in files.items():
        save_file({name: draw(name, shapes[name].shape, random) for name in names}, folder / file, {"format": "pt"})
    placed = {name: file for file, names in files.items() for name in names}
    size = sum(2 * shape.numel() for shape in shapes.values())
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": placed}))


def draw(name: str, shape: Any, random: Any) -> Any:
    """A parameter as training would start from: norms at one, biases at zero, matrices normal."""
    import torch

    if len(shape) == 1:
        return torch.full(shape, float("norm" in name), dtype=torch.bfloat16)
    return torch.empty(shape).normal_(std=0.02, generator=random).bfloat16()


# One row.


def measure(folder: Path, row: str, tokens: int) -> dict[str, Any]:
    """Load the base and do one step."""
    import torch
    import transformers

    import deltatune as dt

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with watched() as load:
        model = dt.load_base(folder, **ROWS[row]).model
        delta = dt.attach(model, dt.LoRA(r=8, targets=("query", "value")))
    model.activation_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, lr=1e-4))
    trained = {name: p.detach().clone() for name, p in delta.named_parameters() if p.requires_grad}
    ids = torch.randint(1, model.config.vocab_size, (1, tokens))
    with watched() as step:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
    changed = [name for name, p in delta.named_parameters() if name in trained and not torch.equal(p, trained[name])]
    if not math.isfinite(loss.item()) or not any("lora_B" in name for name in changed):
        raise SystemExit(f"{row}: expected a finite loss and a changed delta, found {loss.item()} and {changed}")
    return {
        "row": row,
        "loss": loss.item(),
        "changed tensors": f"{len(changed)} of {len(trained)}",
        "load": load,
        "step": step,
    }


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Fill in, at the end, the seconds taken and the peaks of resident memory in GB."""
    found: dict[str, float] = {"peak": 0.0, "anonymous": 0.0, "file": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            anonymous, file = resident()
            for name, size in (("peak", anonymous + file), ("anonymous", anonymous), ("file", file)):
                found[name] = max(found[name], size)

    thread = threading.Thread(target=look)
    start = time.perf_counter()
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found["seconds"] = time.perf_counter() - start


def resident() -> tuple[float, float]:
    """This process's own memory, and pages of files, in GB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss"))
    size = {name: int(kib) * 1024 / GB for name, kib, _ in lines}
    return size["RssAnon:"], size["RssFile:"] + size["RssShmem:"]


# All rows.


def main() -> dict[str, Any]:
    """One row, or all rows as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "deltatune-large")
    parser.add_argument("--model", choices=MODELS, default="llama-2-7b")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--row", choices=ROWS)
    options = parser.parse_args()
    folder = options.folder / options.model
    write(folder, options.model)
    if options.row:
        return measure(folder, options.row, options.tokens)
    rows = {}
    for row in ROWS:
        settings = ["--folder", options.folder, "--model", options.model, "--tokens", str(options.tokens), "--row", row]
        output = subprocess.run([sys.executable, __file__, *settings], stdout=subprocess.PIPE, check=True)
        found = json.loads(output.stdout)
        load, step = found["load"], found["step"]
        peaks = {f"{name} GB": round(max(load[name], step[name]), 1) for name in ("peak", "anonymous", "file")}
        rows[row] = {**peaks, "load s": round(load["seconds"]), "step s": round(step["seconds"], 1)}
        print(row, json.dumps(rows[row]), file=sys.stderr, flush=True)
    return {f"{options.model}, {options.tokens} tokens": rows}


if __name__ == "__main__":
    print(json.dumps(main()))
