"""Prefixes and prompts next to Hugging Face PEFT: the same logits, gradients and texts, and files both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import FileFormatError
from tests.models.families import DECODER, FAMILIES, SIZES, VOCABULARY
from tests.models.tools import assert_close, stir

P = 4


def bare_bert() -> Any:
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=VOCABULARY)).eval()


def causal_classifier() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**DECODER, num_labels=3)).eval()


TASKS: dict[str, tuple[Any, str]] = {
    "llama": (FAMILIES["llama"].model, "CAUSAL_LM"),
    "qwen2": (FAMILIES["qwen2"].model, "CAUSAL_LM"),
    "qwen3": (FAMILIES["qwen3"].model, "CAUSAL_LM"),
    "gpt2": (FAMILIES["gpt2"].model, "CAUSAL_LM"),
    "t5": (FAMILIES["t5"].model, "SEQ_2_SEQ_LM"),
    "bert": (bare_bert, "FEATURE_EXTRACTION"),
    "bert-classifier": (FAMILIES["bert"].model, "SEQ_CLS"),
    "llama-classifier": (causal_classifier, "SEQ_CLS"),
}
PROMPTED = tuple(TASKS)
PREFIXED = ("llama", "qwen2", "qwen3", "gpt2")


def inputs(name: str) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(4))
    mask = torch.ones(3, 5, dtype=torch.long)
    if name != "llama-classifier":  # PEFT gives it no ids to find the last token by
        mask[1, 3:] = 0
    said = {"decoder_input_ids": ids.flip(0).contiguous()} if name == "t5" else {}
    return {"input_ids": ids, "attention_mask": mask, **said}


def text(output: Any) -> Tensor:
    """What a model says of the text, without what PEFT has it say of P."""
    found: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return found if found.dim() == 2 else found[:, -5:]


def peer(model: nn.Module, config: Any) -> Any:
    """The model with a delta of PEFT: a new one, or the one in a folder."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks on tasks and positions are not under test
        if isinstance(config, Path):
            return peft.PeftModel.from_pretrained(model, str(config)).eval()
        return peft.get_peft_model(model, config).eval()


def run(model: Any, given: dict[str, Tensor], **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(**given, **more)


def config(kind: str, task: str, **settings: Any) -> Any:
    import peft

    cls = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig, "ptuning": peft.PromptEncoderConfig}
    return cls[kind](task_type=task, num_virtual_tokens=P, **settings)


def encoder(of: Any) -> list[nn.Parameter]:
    """What PEFT trains for a prompt or prefix, without a head."""
    return [p for n, p in of.named_parameters() if "prompt_encoder" in n and p.requires_grad]


@pytest.mark.parametrize("name", PROMPTED)
def test_reads_a_prompt_of_pefts(name: str, tmp_path: Path) -> None:
    build, task = TASKS[name]
    theirs = peer(build(), config("prompt", task))
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:  # the head too
                parameter.add_(torch.randn_like(parameter) / 5)
    theirs.save_pretrained(tmp_path)
    expected = text(run(theirs, inputs(name)))
    model = build()
    base = text(run(model, inputs(name)))
    delta = dt.load(model, tmp_path, trainable=True)
    found = text(run(model, inputs(name)))
    real = inputs(name)["attention_mask"].bool() if found.dim() == 3 and name != "t5" else slice(None)
    assert_close(found[real], expected[real], 1e-4)
    assert (expected - base)[real].abs().max() > 1e-2

    weights = torch.linspace(-1, 1, found[real].numel()).view(found[real].shape)
    (found[real] * weights).sum().backward()
    (expected[real] * weights).sum().backward()
    (own,) = [p for n, p in delta.named_parameters() if n.endswith("prompt.vectors")]
    (other,) = encoder(theirs)
    assert own.grad is not None
    assert other.grad is not None
    assert_close(own.grad, other.grad[:P], 1e-3)


@pytest.mark.parametrize("name", PROMPTED)
@pytest.mark.parametrize("kind", ["prompt", "ptuning"])
def test_peft_reads_a_prompt_of_ours(name: str, kind: str, tmp_path: Path) -> None:
    build, _ = TASKS[name]
    model = build()
    more = {"read_prompt": True} if name == "bert-classifier" else {}
    method = dt.PromptTuning if kind == "prompt" else dt.PTuning
    delta = stir(dt.attach(model, method(tokens=P, **more)))  # type: ignore[arg-type]
    expected = text(run(model, inputs(name)))
    dt.save(delta, tmp_path)
    found = text(run(peer(build(), tmp_path), inputs(name)))
    real = inputs(name)["attention_mask"].bool() if found.dim() == 3 and name != "t5" else slice(None)
    assert_close(found[real], expected[real], 1e-4)
    again = build()
    dt.load(again, tmp_path)
    assert_close(text(run(again, inputs(name))), expected, 1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert"])
@pytest.mark.parametrize("network", ["MLP", "LSTM"])
def test_reads_a_p_tuning_of_pefts(name: str, network: str, tmp_path: Path) -> None:
    build, task = TASKS[name]
    theirs = peer(build(), config("ptuning", task, encoder_hidden_size=8, encoder_reparameterization_type=network))
    theirs.save_pretrained(tmp_path)
    expected = text(run(theirs, inputs(name)))
    model = build()
    dt.load(model, tmp_path)
    found = text(run(model, inputs(name)))
    real = inputs(name)["attention_mask"].bool() if name != "t5" else slice(None)
    assert_close(found[real], expected[real], 1e-4)


def stirred(theirs: Any) -> Any:
    with torch.no_grad():
        for parameter in encoder(theirs):
            parameter.add_(torch.randn_like(parameter))
    return theirs


def written(model: Any, **how: Any) -> Tensor:
    torch.manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, **how)
    return out[:, 5:]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", PREFIXED)
@pytest.mark.parametrize("projection", [False, True], ids=["", "mlp"])
def test_reads_a_prefix_of_pefts(name: str, projection: bool, tmp_path: Path) -> None:
    build, task = TASKS[name]
    more = {"prefix_projection": True, "encoder_hidden_size": 16} if projection else {}
    theirs = stirred(peer(build(), config("prefix", task, **more)))
    theirs.save_pretrained(tmp_path)
    expected = text(run(theirs, inputs(name)))
    model = build()
    delta = dt.load(model, tmp_path, trainable=True)
    found = text(run(model, inputs(name)))
    real = inputs(name)["attention_mask"].bool()
    assert_close(found[real], expected[real], 1e-4)
    if not projection:
        found[real].pow(2).sum().backward()
        expected[real].pow(2).sum().backward()
        (other,) = encoder(theirs)
        width = other.shape[1] // 4
        values = [p.grad for n, p in delta.named_parameters() if n.endswith("values")]
        for index, gradient in enumerate(values):  # keys are rotated here and not there
            assert_close(gradient, other.grad[:, (2 * index + 1) * width : (2 * index + 2) * width], 1e-3)


@pytest.mark.parametrize("name", PREFIXED)
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_writes_what_peft_writes(name: str, kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    build, task = TASKS[name]
    theirs = stirred(peer(build(), config(kind, task)))
    theirs.save_pretrained(tmp_path)
    expected = written(theirs, **how)
    expected = expected if expected.shape[1] == 4 else expected[:, -4:]
    model = build()
    base = written(model, **how)
    dt.load(model, tmp_path)
    # With a prompt PEFT counts a row's padding too, so that its text stands far from P: only the other row is alike.
    rows = [0] if kind == "prompt" else [0, 1]
    assert torch.equal(written(model, **how)[rows], expected[rows])
    if name != "qwen2":  # it ties its embeddings, and repeats a word whatever stands before
        assert not torch.equal(base[rows], expected[rows])


@pytest.mark.parametrize("name", PREFIXED)
@pytest.mark.parametrize("hidden", [None, 6])
def test_peft_reads_a_prefix_of_ours(name: str, hidden: int | None, tmp_path: Path) -> None:
    build, _ = TASKS[name]
    model = build()
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P, hidden=hidden)))
    expected = text(run(model, inputs(name)))
    dt.save(delta, tmp_path)
    found = text(run(peer(build(), tmp_path), inputs(name)))
    real = inputs(name)["attention_mask"].bool()
    assert_close(found[real], expected[real], 1e-4)


def unread(delta: Delta, folder: Path) -> bool:
    """Whether a file is one that PEFT refuses; it loads here all the same."""
    model = delta.model
    before = text(run(model, inputs("t5" if "T5" in type(model).__name__ else "")))
    dt.save(delta, folder)
    dt.detach(model)
    dt.load(model, folder)
    assert_close(text(run(model, inputs("t5" if "T5" in type(model).__name__ else ""))), before, 1e-5)
    kind = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
    return bool(kind.startswith("DELTATUNE_"))


def test_what_peft_would_compute_otherwise_is_no_file_of_pefts(tmp_path: Path) -> None:
    cases = {
        "head-reads-text": ("bert", dt.PromptTuning(tokens=P)),
        "no-task": ("bert-mlm", dt.PromptTuning(tokens=P)),
        "side": ("t5", dt.PromptTuning(tokens=P, side="both")),
        "two-stacks": ("t5", dt.PrefixTuning(tokens=P)),
        "some-layers": ("llama", dt.PrefixTuning(tokens=P, layers=0)),
        "no-shift": ("gpt2", dt.PrefixTuning(tokens=P, shift_positions=False)),
        "prefix-no-task": ("bert-mlm", dt.PrefixTuning(tokens=P)),
    }
    for case, (family, method) in cases.items():
        assert unread(stir(dt.attach(FAMILIES[family].model(), method)), tmp_path / case), case
    plain = {"llama": dt.PrefixTuning(tokens=P), "gpt2": dt.PromptTuning(tokens=P), "t5": dt.PromptTuning(tokens=P)}
    for family, method in plain.items():
        assert not unread(stir(dt.attach(FAMILIES[family].model(), method)), tmp_path / family), family


def test_files_of_pefts_that_do_not_fit_are_refused_whole(tmp_path: Path) -> None:
    for kind in ("prompt", "prefix"):
        theirs = peer(FAMILIES["llama"].model(), config(kind, "CAUSAL_LM"))
        theirs.save_pretrained(tmp_path / kind)
        other: Any = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**DECODER, "hidden_size": 64, "num_hidden_layers": 3})
        )
        with pytest.raises(FileFormatError, match="it was made for another base or method"):
            dt.load(other, tmp_path / kind)
        assert not dt.deltas(other)
        assert other.config._attn_implementation == "sdpa"


def test_both_halves_of_an_encoder_decoders_file(tmp_path: Path) -> None:
    """PEFT saves a second half for the decoder that it never runs; with one half asked for it saves one."""
    build, task = TASKS["t5"]
    for halves in (1, 2):
        theirs = peer(build(), config("prompt", task, num_transformer_submodules=halves))
        theirs.save_pretrained(tmp_path / str(halves))
        model = build()
        delta = dt.load(model, tmp_path / str(halves))
        assert delta.size == P * 32
        assert_close(text(run(model, inputs("t5"))), text(run(theirs, inputs("t5"))), 1e-4)


def test_gradients_of_a_loss_with_labels_are_pefts() -> None:
    """PEFT puts -100 before the labels, so P's last vector learns the first token of a text, as nothing does here."""
    build, task = TASKS["llama"]
    ids = inputs("llama")["input_ids"]
    labels = ids.clone()
    labels[:, 0] = -100
    theirs = peer(build(), config("prompt", task))
    run(theirs, {"input_ids": ids}, labels=labels).loss.backward()
    model = build()
    delta = dt.attach(model, dt.PromptTuning(tokens=P))
    (own,), (other,) = list(delta.parameters()), encoder(theirs)
    with torch.no_grad():
        own.copy_(other)
    run(model, {"input_ids": ids}, labels=labels).loss.backward()
    assert own.grad is not None
    assert_close(own.grad, other.grad, 1e-4)
    assert F.cosine_similarity(own.grad.flatten(), torch.ones(P * 32), dim=0).abs() < 0.9
