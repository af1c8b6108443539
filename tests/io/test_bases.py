from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import logging as bars

from deltatune.errors import ConfigError, DeltaError
from deltatune.io import bases
from deltatune.io import gguf as ggufs
from deltatune.io.bases import ALIASES, load_base, load_tokenizer
from deltatune.io.cache import cache_folder

BERT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
T5 = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
GPT2 = {"vocab_size": 20, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(
    folder: Path, model: transformers.PreTrainedModel, *, eos: str | None = "<eos>", pad: str | None = None
) -> Path:
    """A whole model folder with a tokenizer of three words."""
    words = Tokenizer(WordLevel({"<eos>": 0, "<pad>": 1, "a": 2}, unk_token="a"))
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token=eos, pad_token=pad).save_pretrained(folder)
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return save(tmp_path / "gpt2", transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save(tmp_path / "bert", transformers.BertModel(transformers.BertConfig(**BERT)), pad="<pad>")


def write_gguf(path: Path, *, pre: str = "smollm", seed: int = 0, without: str = "") -> Path:
    """A whole GGUF file of a llama with one layer and a tokenizer of bytes."""
    gguf = pytest.importorskip("gguf")
    width, inner, heads, rng = 16, 32, 2, np.random.default_rng(seed)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *bytes_to_unicode().values(), "ĊĊ"]
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,), "blk.0.attn_norm": (width,)}
    shapes |= {f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_norm": (width,), "blk.0.ffn_gate": (inner, width), "blk.0.ffn_up": (inner, width)}
    shapes |= {"blk.0.ffn_down": (width, inner)}
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, shape in shapes.items():
        if name != without:
            writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let a package seem not to be installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))


# Folders: task, labels, dtype, padding.


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (transformers.BertModel(transformers.BertConfig(**BERT)), "feature-extraction"),
        (transformers.BertForMaskedLM(transformers.BertConfig(**BERT)), "masked-lm"),
        (transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)), "sequence-classification"),
        (transformers.BertForTokenClassification(transformers.BertConfig(**BERT)), "token-classification"),
        (transformers.BertForQuestionAnswering(transformers.BertConfig(**BERT)), "question-answering"),
        (transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)), "causal-lm"),
        (transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)), "seq2seq-lm"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_task_is_what_the_architecture_was_made_for(tmp_path: Path, model: nn.Module, task: str):
    base = load_base(save(tmp_path / "model", model))
    assert (base.task, type(base.model), base.fresh) == (task, type(model), ())
    assert not base.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(base.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("architectures", "encoder_decoder", "task"),
    [
        (["T5WithLMHeadModel"], True, "seq2seq-lm"),
        (["MarianMTModel"], True, "seq2seq-lm"),
        (None, True, "seq2seq-lm"),
        (["OpenAIGPTLMHeadModel"], False, "causal-lm"),
        (["UnknownForCausalLM"], False, "causal-lm"),
    ],
)
def test_the_task_of_unusual_configs(architectures: list[str] | None, encoder_decoder: bool, task: str):
    config = transformers.PretrainedConfig(architectures=architectures, is_encoder_decoder=encoder_decoder)
    assert bases.task_of(config, "x") == task


@pytest.mark.parametrize("architectures", [None, ["Qwen2VLForConditionalGeneration"], ["BertForPreTraining"]])
def test_a_task_that_can_not_be_told_is_asked_for(architectures: list[str] | None):
    with pytest.raises(
        ConfigError, match=r"^base 'x': no task can be told from its architectures .*; set task=seq2seq"
    ):
        bases.task_of(transformers.PretrainedConfig(architectures=architectures), "x")


def test_a_new_head_is_reported_and_labelled(bert: Path):
    base = load_base(bert, task="sequence-classification", id2label={1: "no", 0: "yes"})
    assert base.fresh == ("classifier.bias", "classifier.weight")
    assert base.model.config.id2label == {0: "yes", 1: "no"}
    assert base.model.config.label2id == {"yes": 0, "no": 1}
    assert load_base(bert, task="token-classification", num_labels=3).model.classifier.out_features == 3


def test_a_head_of_another_size_is_refused(tmp_path: Path):
    config = transformers.BertConfig(**BERT, num_labels=3)
    folder = save(tmp_path / "three", transformers.BertForSequenceClassification(config))
    assert load_base(folder).model.num_labels == 3
    with pytest.raises(ConfigError, match="can not be loaded"):
        load_base(folder, num_labels=4)


def test_a_language_model_without_its_head_is_refused(bert: Path):
    with pytest.raises(ConfigError, match=r"no weights for cls\.predictions\.bias, which the task 'masked-lm' needs"):
        load_base(bert, task="masked-lm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "poetry"}, "^task: expected auto, seq2seq-lm, .* or feature-extraction, found 'poetry'"),
        ({"dtype": "float8"}, "^dtype: expected auto, float32, bfloat16 or float16, found 'float8'"),
        ({"quant": "int4"}, "^quant: expected None, nf4, nf4-double or int8, found 'int4'"),
        ({"num_labels": 2}, "^num_labels, id2label: expected a task of .*, found 'causal-lm'"),
        ({"num_labels": 2, "id2label": {0: "x"}}, r"^id2label: expected the ids 0 to 1, found \[0\]"),
        ({"id2label": {1: "x", 2: "y"}}, r"^id2label: expected the ids 0 to 1, found \[1, 2\]"),
        ({"task": "seq2seq-lm"}, "can not be loaded: Unrecognized configuration class"),
        ({"attn_implementation": "none"}, "can not be loaded: Specified `attn_implementation"),
        ({"device": "abacus"}, "can not be loaded: When passing device_map"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(gpt2: Path, arguments: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        load_base(gpt2, **arguments)
    assert "\n" not in str(caught.value)


def test_dtype_and_device(gpt2: Path):
    assert load_base(gpt2).model.dtype == torch.float32
    base = load_base(gpt2, dtype="bfloat16", device="cpu", attn_implementation="eager")
    assert base.model.dtype == torch.bfloat16
    assert base.model.config._attn_implementation == "eager"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.model.modules())


def test_padding_falls_back_on_the_end_of_sequence(gpt2: Path, bert: Path):
    base = load_base(gpt2)
    assert base.tokenizer.pad_token == "<eos>"
    assert base.model.config.pad_token_id == base.model.generation_config.pad_token_id == 0
    assert load_tokenizer(gpt2).pad_token_id == 0
    assert load_base(bert).model.config.pad_token_id == 1


def test_a_tokenizer_without_any_padding_is_refused(tmp_path: Path):
    folder = save(tmp_path / "bare", transformers.BertModel(transformers.BertConfig(**BERT)), eos=None)
    with pytest.raises(ConfigError, match="has no padding token and none to use as one"):
        load_base(folder)


# What can not be found or read.


def test_a_path_that_leads_nowhere(tmp_path: Path):
    for missing in (tmp_path / "nothing", Path("a/b/c"), Path("model.gguf")):
        with pytest.raises(
            ConfigError, match=r"expected a model folder.*, found no such file or folder; check the path$"
        ):
            load_base(missing)


def test_folders_that_hold_something_else(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"found no config\.json"):
        load_base(tmp_path)
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ConfigError, match=r"found x\.gguf; name that file"):
        load_base(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="found a delta; load the base that it names"):
        load_base(tmp_path)


def test_pickled_weights_are_not_read(gpt2: Path):
    weights = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).state_dict()
    (gpt2 / "model.safetensors").unlink()
    torch.save(weights, gpt2 / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no file named model\.safetensors"):
        load_base(gpt2)


@pytest.mark.parametrize(("name", "hint"), [("smolm2", "did you mean smollm2?"), ("nobody/x", "or the connection")])
def test_no_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, hint: str):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DeltaError, match="the hub can not be reached") as caught:
        load_base(name)
    assert str(caught.value).endswith(hint)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_whose_package_is_absent_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, name: str):
    hide(monkeypatch, ALIASES[name].package)
    with pytest.raises(DeltaError, match=f"found no such package; run {ALIASES[name].install}$"):
        load_base(name)


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantisation_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch, gpt2: Path, quant: str):
    hide(monkeypatch, "bitsandbytes")
    with pytest.raises(DeltaError, match=f"quant='{quant}': needs the package bitsandbytes.*pip install bitsandbytes$"):
        load_base(gpt2, quant=quant)


# GGUF and its cache.


def test_a_gguf_file_is_dequantised_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(ggufs, "_read_gguf", lambda gguf, real=ggufs._read_gguf: read.append(real(gguf)) or read[-1])
    file = write_gguf(tmp_path / "tiny.gguf")
    first, second = load_base(file), load_base(file)
    direct, tokenizer = read[0]
    assert len(read) == 1
    for base in (first, second):
        assert base.task == "causal-lm"
        assert base.model.state_dict().keys() == direct.state_dict().keys()
        assert all(torch.equal(tensor, direct.state_dict()[key]) for key, tensor in base.model.state_dict().items())
        assert base.tokenizer("a 12").input_ids == tokenizer("a 12").input_ids
        assert base.model.name_or_path == base.model.config.name_or_path == base.source == str(file)
    assert [folder.name.rpartition("-")[0] for folder in cache.iterdir()] == ["tiny"]


def test_a_gguf_base_is_an_ordinary_model(tmp_path: Path):
    file = write_gguf(tmp_path / "tiny.gguf")
    base = load_base(file)
    assert not getattr(base.model, "is_quantized", False)
    assert not hasattr(base.model.config, "quantization_config")
    base.model.save_pretrained(tmp_path / "copy")
    assert load_base(file, task="sequence-classification", num_labels=5).fresh == ("score.weight",)


def test_other_content_is_another_entry(tmp_path: Path, cache: Path):
    file = write_gguf(tmp_path / "tiny.gguf", seed=0)
    first = load_base(file).model
    second = load_base(write_gguf(file, seed=1)).model
    assert len(list(cache.iterdir())) == 2
    assert not torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)


def test_numbers_are_split_where_the_file_asks_for_it(tmp_path: Path):
    apart = load_tokenizer(write_gguf(tmp_path / "smollm.gguf", pre="smollm"))
    other = load_tokenizer(write_gguf(tmp_path / "gpt2.gguf", pre="gpt-2"))
    assert apart.tokenize("\n\n1") == ["ĊĊ", "1"]
    assert other.tokenize("\n\n1") == ["Ċ", "Ċ", "1"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", full)
    with pytest.raises(DeltaError, match=r"^cache .*: can not be written \(.*No space left.*\); set DELTATUNE_CACHE"):
        load_base(file)
    assert list(cache.iterdir()) == []


def test_two_at_once_agree_on_one_entry(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Both write, the second one to finish finds the entry there and takes it."""
    file = write_gguf(tmp_path / "tiny.gguf")
    read = ggufs._read_gguf(file)
    both = threading.Barrier(2)
    monkeypatch.setattr(ggufs, "_read_gguf", lambda gguf: read)
    monkeypatch.setattr(
        ggufs, "_put", lambda whole, folder, real=ggufs._put: both.wait(30) is None or real(whole, folder)
    )
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(ggufs.dequantised(file))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 2
    assert list(cache.iterdir()) == [found[0]]


def test_files_that_are_no_whole_gguf(tmp_path: Path, cache: Path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="expected a GGUF file, found one that begins with b'hell'"):
        load_base(tmp_path / "notes.txt")
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="can not be loaded"):
        load_base(tmp_path / "cut.gguf")
    with pytest.raises(ConfigError, match=r"no weights for .*norm\.weight"):
        load_base(write_gguf(tmp_path / "part.gguf", without="output_norm"))
    assert not cache.exists()


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_gguf(tmp_path / "tiny.gguf")
    hide(monkeypatch, "gguf")
    with pytest.raises(DeltaError, match="needs the package gguf, found none; run pip install gguf"):
        load_base(file)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DELTATUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/deltatune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/deltatune"


# Silence.


@pytest.mark.parametrize("shown", [True, False])
def test_loading_is_silent_and_leaves_the_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str], shown: bool):
    before = bars.is_progress_bar_enabled()
    (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
    level = logging.getLogger("transformers").level
    try:
        load_base(write_gguf(tmp_path / "tiny.gguf"), task="sequence-classification")
        assert capfd.readouterr() == ("", "")
        assert bars.is_progress_bar_enabled() == shown
        assert are_progress_bars_disabled() == (not shown)
        assert logging.getLogger("transformers").level == level
    finally:
        (bars.enable_progress_bar if before else bars.disable_progress_bar)()


def test_importing_the_module_costs_no_torch():
    code = "import sys, deltatune.io.bases; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0


# The real models.


@pytest.mark.models
def test_minilm():
    base = load_base("minilm")
    assert (base.task, type(base.model).__name__, base.source, base.fresh) == (
        "feature-extraction",
        "BertModel",
        "minilm",
        (),
    )
    assert base.model.name_or_path == base.tokenizer.name_or_path == "minilm"
    assert sum(p.numel() for p in base.model.parameters()) == 22_713_216
    assert base.tokenizer("hello").input_ids == [101, 7592, 102]


@pytest.mark.models
def test_smollm2(monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(ggufs, "_read_gguf", lambda gguf, real=ggufs._read_gguf: read.append(real(gguf)) or read[-1])
    load_tokenizer("smollm2")
    start = time.process_time()  # of this process alone, so that a busy machine does not count
    base = load_base("smollm2")
    assert time.process_time() - start < 2  # a quarter of a second; dequantising takes more than ten
    direct, _ = read[0]
    assert len(read) == 1
    assert all(torch.equal(tensor, direct.state_dict()[key]) for key, tensor in base.model.state_dict().items())
    assert all(torch.equal(tensor, dict(direct.named_buffers())[key]) for key, tensor in base.model.named_buffers())
    assert base.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).endswith(
        "Hi<|im_end|>\n"
    )
    prompt = base.tokenizer("The capital of France is", return_tensors="pt")
    answer = base.model.generate(**prompt, max_new_tokens=1, do_sample=False)
    assert base.tokenizer.decode(answer[0]).endswith("France is Paris")
    quantised = load_base("smollm2", quant="nf4-double")
    assert type(quantised.model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
