"""A cached trunk trains what the whole model trains, and is not run again."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import TrainingArguments

import deltatune as dt
from deltatune.errors import AttachError, ConfigError
from deltatune.packing.packed import pack
from deltatune.packing.path import PackedModel
from deltatune.packing.prefill import prefill
from deltatune.train.collate import Collator
from deltatune.train.kept import layers_of
from deltatune.train.lean import lean
from deltatune.train.trunk_cache import TrunkCache, cached_trunk
from tests.models.families import DECODER, FAMILIES, VOCABULARY, bert_config, gpt2_config
from tests.models.methods import ROWS
from tests.models.tools import attach, fingerprint, gradients, stir
from tests.packing.texts import examples
from tests.processes import alone

DEEP = {**DECODER, "num_hidden_layers": 4}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DEEP)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**DEEP, tie_word_embeddings=True)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(gpt2_config(n_layer=4)),
    "bert": lambda: transformers.BertForSequenceClassification(bert_config(num_hidden_layers=4)),
}
EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
TEXTS = examples(VOCABULARY)
EPOCHS = [[[0, 1, 2, 3], [4, 5, 6]], [[6, 3, 1], [5, 4, 0, 2]], [[2], [0, 6], [1, 3, 4, 5]]]
"""Which texts are together at each step, anew in each epoch."""

causal = pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
every_dtype = pytest.mark.parametrize("dtype", EXACT, ids=str)

Call = Callable[[nn.Module, list[dict[str, Any]]], Tensor]


def made(name: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A model of four layers with LoRA in the last two, in training."""
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype)
    targets = FAMILIES[name].targets
    stir(dt.attach(model, dt.LoRA(**{"r": 2, "targets": targets, "layers": "last:2", **settings})), size=0.05)
    return model.train()


def packed(model: nn.Module, texts: list[dict[str, Any]]) -> Tensor:
    return model(packed=pack(texts, least=4)).loss  # type: ignore[no-any-return]


def padded(model: nn.Module, texts: list[dict[str, Any]]) -> Tensor:
    return model(**Collator(0)(texts)).loss  # type: ignore[no-any-return]


def padded_left(model: nn.Module, texts: list[dict[str, Any]]) -> Tensor:
    # What a text begins with can not be learned here: padding would predict it.
    texts = [{**text, "labels": [-100, *text["labels"][1:]]} for text in texts]
    batch = Collator(0, side="left")(texts)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return model(**batch, position_ids=positions).loss  # type: ignore[no-any-return]


def pairs() -> list[dict[str, Any]]:
    """The texts in two segments, in three classes."""
    ids = [text["input_ids"] for text in TEXTS]
    types = [[int(at > len(each) // 2) for at in range(len(each))] for each in ids]
    return [
        {"input_ids": each, "token_type_ids": its, "labels": number % 3}
        for number, (each, its) in enumerate(zip(ids, types, strict=True))
    ]


def step(model: nn.Module, call: Call, texts: list[dict[str, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = call(model, texts)
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    return loss.detach(), found


def assert_same_steps(model: Any, call: Call, folder: Path, share: float, texts: Any = TEXTS) -> None:
    """Every step of every epoch gives what it gives without a cache; from the second epoch on without the trunk."""
    batches = [[[texts[i] for i in batch] for batch in epoch] for epoch in EPOCHS]
    with PackedModel(model).taking_packed() if call is packed else contextlib.nullcontext():
        expected = [[step(model, call, batch) for batch in epoch] for epoch in batches]
        with cached_trunk(model, folder) as cache, runs(model) as ran:
            for number, epoch in enumerate(batches):
                ran.clear()
                for batch, (loss, wanted) in zip(epoch, expected[number], strict=True):
                    found_loss, found = step(model, call, batch)
                    torch.testing.assert_close(found_loss, loss, rtol=share, atol=0)
                    assert found.keys() == wanted.keys()
                    ours, theirs = (torch.cat([each.flatten() for each in grads.values()]) for grads in (found, wanted))
                    assert (ours - theirs).norm() <= share * theirs.norm() > 0
                steps = len(epoch)
                assert ran == ([0, 1, 2, 3] * steps if number == 0 else [2, 3] * steps)
            assert cache.reused == sum(map(len, EPOCHS[1:]))
            assert len(cache) == len(texts)


@contextlib.contextmanager
def runs(model: nn.Module) -> Iterator[list[int]]:
    """The numbers of the layers in which an MLP ran, as they come."""
    ran: list[int] = []
    with contextlib.ExitStack() as hooks:
        for number, layer in enumerate(layers_of(model).values()):
            mlp = getattr(layer, "mlp", None) or layer.intermediate
            hooks.callback(mlp.register_forward_hook(lambda *_, number=number: ran.append(number)).remove)
        yield ran


@contextlib.contextmanager
def given(model: nn.Module, layer: int = 2) -> Iterator[list[Tensor]]:
    """What a layer is given, call by call."""
    noted: list[Tensor] = []
    module = list(layers_of(model).values())[layer]
    hook = module.register_forward_pre_hook(lambda _, args: noted.append(args[0].detach().clone()))
    yield noted
    hook.remove()


@every_dtype
@causal
@pytest.mark.parametrize("call", [packed, padded, padded_left])
def test_steps_are_those_without_a_cache(name: str, dtype: torch.dtype, call: Call, tmp_path: Path) -> None:
    assert_same_steps(made(name, dtype), call, tmp_path, EXACT[dtype])


@every_dtype
def test_of_an_encoder(dtype: torch.dtype, tmp_path: Path) -> None:
    model = made("bert", dtype, train_also=("classifier",))
    assert_same_steps(model, padded, tmp_path, EXACT[dtype], pairs())


@pytest.mark.parametrize("method", ["dora", "prefix", "bitfit", "ia3", "child", "pfeiffer", "norm"])
def test_other_methods_in_the_last_layers(method: str, tmp_path: Path) -> None:
    model: Any = MODELS["llama"]().double().train()
    layers = {"layers": "last:2"}
    methods: dict[str, Any] = {
        "dora": dt.DoRA(r=2, **layers),
        "prefix": dt.PrefixTuning(tokens=3, std=1.0, **layers),
        "bitfit": dt.BitFit(add_missing=True, **layers),
        "ia3": dt.IA3(**layers),
        "child": dt.ChildTuning(mode="random", p=0.2, **layers),
        "pfeiffer": dt.Pfeiffer(m=8, **layers),
        "norm": dt.Norm(targets=r".*layers\.[23]\..*norm|model\.norm"),
    }
    stir(dt.attach(model, methods[method]))
    assert_same_steps(model, packed, tmp_path, 1e-10)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_with_lean_and_checkpointed_layers(reentrant: bool | None, tmp_path: Path) -> None:
    model = made(dtype=torch.float64, targets="all_linear", dropout=0.0)
    if reentrant is not None:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    with lean(model):
        if reentrant is None:
            assert_same_steps(model, packed, tmp_path, 1e-10)
        else:  # layers run again, so their runs are not counted
            with PackedModel(model).taking_packed():
                expected = step(model, packed, TEXTS)
                with cached_trunk(model, tmp_path) as cache:
                    for _ in range(2):
                        loss, found = step(model, packed, TEXTS)
                        torch.testing.assert_close(loss, expected[0])
                        for name, tensor in expected[1].items():
                            torch.testing.assert_close(found[name], tensor)
                    assert cache.reused == 1


def test_autocast_is_another_precision(tmp_path: Path) -> None:
    model = made()
    with cached_trunk(model, tmp_path) as cache, given(model) as states:
        loss = step(model, padded, TEXTS)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = step(model, padded, TEXTS)[0]
            assert cache.reused == 0
            assert torch.equal(step(model, padded, TEXTS)[0], low)
        assert torch.equal(step(model, padded, TEXTS)[0], loss)
        assert cache.reused == 2
        assert not torch.equal(states[0], states[1])
        mask = Collator(0)(TEXTS)["attention_mask"].bool()
        assert torch.equal(states[2][mask], states[1][mask])
        assert torch.equal(states[3][mask], states[0][mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_read_is_what_was_answered_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model = made(dtype=dtype)
    with PackedModel(model).taking_packed(), cached_trunk(model, tmp_path), given(model) as states:
        first = pack(TEXTS, least=4)
        model(packed=first)
        order = [3, 6, 0]
        again = pack([TEXTS[i] for i in order], least=4)
        model(packed=again)
    assert states[1].dtype == dtype
    for text, number in zip(again.layout.texts, order, strict=True):
        rows = [row for span in text for row in range(*span)]
        rows_before = [row for span in first.layout.texts[number] for row in range(*span)]
        assert torch.equal(states[1][0, rows], states[0][0, rows_before])


def test_random_batches(tmp_path: Path) -> None:
    """Texts that begin alike, in batches that are drawn anew, some met before and some not."""
    model, twin, rng = made(dtype=torch.float64), made(dtype=torch.float64), random.Random(0)
    texts = [text for seed in range(3) for text in examples(VOCABULARY, seed=seed, shared=5)]
    with torch.no_grad(), given(twin) as expected:
        for text in texts:
            twin(input_ids=torch.tensor([text["input_ids"]]))
    with PackedModel(model).taking_packed(), cached_trunk(model, tmp_path) as cache, given(model) as states:
        for _ in range(60):
            chosen = rng.sample(range(len(texts)), rng.randint(1, 5))
            batch = pack([texts[i] for i in chosen], share=rng.random() < 0.8, least=rng.randint(1, 6))
            model(packed=batch)
            for number, spans in zip(chosen, batch.layout.texts, strict=True):
                rows = [row for span in spans for row in range(*span)]
                torch.testing.assert_close(states[-1][0, rows], expected[number][0])
        assert len(cache) == len(texts)
        assert cache.reused > 10


def test_tokens_that_texts_share_are_kept_once(tmp_path: Path) -> None:
    model = made()
    batch = pack(TEXTS, least=4)
    with PackedModel(model).taking_packed(), cached_trunk(model, tmp_path) as cache:
        model(packed=batch)
        assert cache.bytes_for(batch.tokens) == batch.tokens * 32 * 4
    assert sum(file.stat().st_size for file in tmp_path.glob("*.rows")) == batch.rows * 32 * 4


# Runs, one after the other.


def filled(folder: Path, model: Any = None, **settings: Any) -> None:
    model = made(**settings) if model is None else model
    with cached_trunk(model, folder) as cache:
        padded(model, TEXTS)
        assert cache.reused == 0
        assert len(cache) == len(TEXTS)


def is_reused(folder: Path, model: Any) -> bool:
    with cached_trunk(model, folder) as cache:
        padded(model, TEXTS)
        return bool(cache.reused)


def test_a_later_run_goes_on_with_it(tmp_path: Path) -> None:
    filled(tmp_path)
    model = made()
    stir(dt.deltas(model)["default"], seed=3)
    dt.attach(model, dt.LoRA(r=4, layers="last:1"), name="other")
    with PackedModel(model).taking_packed(), cached_trunk(model, tmp_path) as cache, runs(model) as ran:
        packed(model, TEXTS)  # however they are laid out
        assert cache.reused == 1
        assert ran == [2, 3]


def _killed(folder: Path) -> None:
    model = made()
    with cached_trunk(model, folder) as cache:
        padded(model, TEXTS[:4])
        cache.commit()
        padded(model, TEXTS[4:6])
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_leaves_what_it_had_committed(tmp_path: Path) -> None:
    assert alone(_killed, tmp_path) is None
    model = made()
    with cached_trunk(model, tmp_path) as cache:
        assert len(cache) == 4
        padded(model, TEXTS[:4])
        assert cache.reused == 1
        padded(model, TEXTS[4:])
        assert cache.reused == 1
        assert len(cache) == len(TEXTS)
    assert is_reused(tmp_path, made())


@torch.no_grad()
def test_whatever_the_states_follow_from_is_noticed(tmp_path: Path) -> None:
    def changed(change: Callable[[Any], Any]) -> Any:
        model = made()
        return change(model) or model

    filled(tmp_path)
    assert is_reused(tmp_path, made())
    weight = "model.layers.1.mlp.up_proj.weight"

    def nudge(model: Any) -> None:
        model.get_parameter(weight).view(torch.int32)[3, 4] ^= 1

    def positions(model: Any) -> None:
        model.model.rotary_emb.inv_freq.mul_(2)

    def eps(model: Any) -> None:
        model.config.rms_norm_eps = 1e-3

    def higher(model: Any) -> None:
        dt.detach(model, "default")
        dt.attach(model, dt.LoRA(r=2, layers="last:1"))

    for change in (nudge, positions, eps, lambda model: model.bfloat16(), higher):
        assert not is_reused(tmp_path, changed(change)), change
        assert not is_reused(tmp_path, made())  # what was there is gone
        assert is_reused(tmp_path, made())


def test_what_lies_above_is_not_noticed(tmp_path: Path) -> None:
    filled(tmp_path)
    model = made()
    with torch.no_grad():
        model.lm_head.weight.add_(1)
        model.model.layers[2].mlp.up_proj.weight.add_(1)
    stir(dt.attach(model, dt.ChildTuning(mode="random", p=0.2, layers="last:2"), name="child"))
    assert is_reused(tmp_path, model)


def test_the_weights_that_count_are_those_below(tmp_path: Path) -> None:
    model = made()
    with cached_trunk(model, tmp_path) as cache:
        below = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.")
        assert set(cache.trunk.parameters()) == {n for n, _ in model.named_parameters() if n.startswith(below)}


# Within a run.


def test_a_changed_weight_is_noticed_within_a_run(tmp_path: Path) -> None:
    model = made()
    with cached_trunk(model, tmp_path) as cache:
        padded(model, TEXTS)
        model.double().float()  # the same again, in other places
        padded(model, TEXTS)
        assert cache.reused == 1
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.add_(0.1)
        with pytest.raises(ConfigError, match="expected the weights below layer 2 as they were"):
            padded(model, TEXTS)


def test_a_delta_attached_below_is_noticed_within_a_run(tmp_path: Path) -> None:
    model = made()
    with cached_trunk(model, tmp_path):
        padded(model, TEXTS)
        dt.attach(model, dt.LoRA(layers="last:1"), name="above")
        padded(model, TEXTS)
        dt.attach(model, dt.LoRA(layers=[1]), name="below")
        with pytest.raises(ConfigError, match=r"found 'below' at model.layers.1.self_attn.q_proj"):
            padded(model, TEXTS)


def test_evaluation_reads_what_is_there_and_adds_nothing(tmp_path: Path) -> None:
    model = made()
    other = examples(VOCABULARY, seed=7)
    with PackedModel(model).taking_packed():
        model.eval()
        with torch.no_grad():
            expected = [packed(model, TEXTS), packed(model, other), padded(model, TEXTS)]
        prompts = torch.tensor([TEXTS[0]["input_ids"]])
        written = model.generate(prompts, max_new_tokens=5, do_sample=False)
        with cached_trunk(model, tmp_path) as cache, runs(model) as ran:
            packed(model.train(), TEXTS)
            model.eval()
            ran.clear()
            with torch.inference_mode():
                torch.testing.assert_close(packed(model, TEXTS), expected[0])
                assert ran == [2, 3]
                torch.testing.assert_close(packed(model, other), expected[1])
                torch.testing.assert_close(padded(model, TEXTS), expected[2])  # with a key-value cache
                assert ran == [2, 3] + [0, 1, 2, 3] * 2
            assert len(cache) == len(TEXTS)
            assert torch.equal(model.generate(prompts, max_new_tokens=5, do_sample=False), written)


def test_what_asks_for_more_than_the_last_states_gets_it(tmp_path: Path) -> None:
    model = made()
    batch = {name: value for name, value in Collator(0)(TEXTS).items() if name != "labels"}
    texts = [text["input_ids"] for text in TEXTS]
    with PackedModel(model).taking_packed(), cached_trunk(model, tmp_path) as cache:
        packed(model, [{"input_ids": text[:-1], "labels": text[:-1]} for text in texts])
        padded(model, TEXTS)
        reused = cache.reused
        states = model(**batch, output_hidden_states=True).hidden_states
        assert not torch.equal(states[1], states[0])
        assert cache.reused == reused
        assert model(**batch, use_cache=True).past_key_values.layers[0].keys is not None
        kept = prefill(model, texts)  # takes notes in every layer's attention
        assert kept.cache.layers[0].keys.shape == kept.cache.layers[3].keys.shape
        assert model(inputs_embeds=model.model.embed_tokens(batch["input_ids"])).logits.isfinite().all()
        assert cache.reused == reused
        assert model(**batch).past_key_values is None
        assert cache.reused == reused + 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_texts_differ_by_whatever_their_states_depend_on(name: str, tmp_path: Path) -> None:
    model = made(name)
    ids = torch.tensor([[5, 6, 7, 8]])
    calls: list[dict[str, Any]] = [
        {},
        {"position_ids": torch.tensor([[1, 2, 3, 4]])},
        {"attention_mask": torch.tensor([[0, 1, 1, 1]])},
        {"attention_mask": torch.tensor([[1, 0, 1, 1]])},
        {"attention_mask": torch.tensor([[1, 1, 1, 0]])},
        *([{"token_type_ids": torch.tensor([[1, 1, 2, 2]])}] if name == "gpt2" else []),
    ]
    plain = [model(input_ids=ids, **call).logits for call in calls]
    with cached_trunk(model, tmp_path) as cache:
        for _ in range(2):
            for call, expected in zip(calls, plain, strict=True):
                seen = call.get("attention_mask", torch.ones_like(ids)).bool()
                found = model(input_ids=ids, **call).logits
                torch.testing.assert_close(found[seen], expected[seen])
            assert len(cache) == len(calls)
        assert cache.reused == len(calls)
        same = {"attention_mask": torch.ones_like(ids), "position_ids": torch.arange(4)[None]}
        model(input_ids=ids, **same)
        assert len(cache) == len(calls)
        # Tokens that are further apart than their positions say are so for a sliding window.
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 0, 1]]))
        model(input_ids=torch.tensor([[5, 6, 8]]), position_ids=torch.tensor([[0, 1, 3]]))
        assert len(cache) == len(calls) + 2


def test_the_model_is_as_it_was_afterwards(tmp_path: Path) -> None:
    model = made()
    before, state = fingerprint(model), torch.get_rng_state()
    with cached_trunk(model, tmp_path):
        assert torch.equal(torch.get_rng_state(), state)
        for _ in range(2):
            padded(model, TEXTS)
            assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
        twin = copy.deepcopy(model)
        with torch.no_grad():
            expected = padded(twin, TEXTS)
            for parameter in twin.model.embed_tokens.parameters():
                parameter.zero_()
        assert not torch.equal(padded(twin, TEXTS), expected)  # it runs by itself
        with pytest.raises(RuntimeError, match="stopped"), _stopping(model.model.layers[3]):
            padded(model, TEXTS)
        assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert fingerprint(model) == before
    dt.detach(model, "default")
    assert not [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]


@contextlib.contextmanager
def _stopping(module: nn.Module) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise RuntimeError("stopped")

    hook = module.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("packing", [None, False])
def test_a_trainer_trains_the_same(packing: bool | None, tmp_path: Path) -> None:
    def trained(folder: Path | None) -> tuple[dict[str, Tensor], TrunkCache | None]:
        model = made(dtype=torch.float64)
        args = TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=3,
            num_train_epochs=3,
            learning_rate=0.1,
            optim="sgd",
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        other = examples(VOCABULARY, seed=7)
        trainer = dt.Trainer(model, args, train_dataset=TEXTS, eval_dataset=other, packing=packing)
        with contextlib.nullcontext() if folder is None else cached_trunk(model, folder) as cache:
            trainer.train()
        return {name: tensor.clone() for name, tensor in dt.deltas(model)["default"].state_dict().items()}, cache

    expected, _ = trained(None)
    found, cache = trained(tmp_path / "trunk")
    assert cache is not None
    assert cache.reused == 6
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=0)


# What is refused.


def test_deltas_in_the_first_layer_or_before(tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    found = {
        "lora": r"'lora' at model.layers.0.self_attn.q_proj, which acts in the first layer; attach it with layers=",
        "prefix": r"'prefix' at model.layers.0.self_attn, which acts in the first layer",
        "prompt": r"'prompt' at model.layers.0.self_attn, which acts in the first layer",
    }
    for name, message in found.items():
        model = family.model()
        attach(model, ROWS[name], family, name=name)
        with pytest.raises(ConfigError, match=message), cached_trunk(model, tmp_path):
            pass
    model = made()
    dt.attach(model, dt.LoRA(targets=("embed_tokens",)), name="words")
    with pytest.raises(ConfigError, match=r"'words' at model.embed_tokens, which acts before layer 2"):
        cached_trunk(model, tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


def test_a_weight_of_the_trunk_that_is_trained_elsewhere(tmp_path: Path) -> None:
    model = made()
    layers = model.model.layers
    layers[3].mlp.up_proj.weight = layers[1].mlp.up_proj.weight
    dt.attach(model, dt.ChildTuning(mode="random", p=0.2, targets=("up_proj",), layers="last:1"), name="tied")
    with cached_trunk(model, tmp_path) as cache:
        assert len(cache.trunk.layers) == 1
    layers[3].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    dt.attach(model, dt.ChildTuning(mode="random", p=0.2, targets=("down_proj",), layers="last:1"), name="first")
    with pytest.raises(ConfigError, match=r"found 'first' at model.layers.3.mlp.down_proj, which acts in the first"):
        cached_trunk(model, tmp_path).__enter__()


def test_deltas_behind_the_layers_leave_all_but_the_last_to_the_trunk(tmp_path: Path) -> None:
    model: Any = MODELS["bert"]().train()
    stir(dt.attach(model, dt.LoRA(targets=("pooler.dense",), train_also=("classifier",))))
    with cached_trunk(model, tmp_path) as cache, runs(model) as ran:
        assert torch.equal(padded(model, pairs()), padded(model, pairs()))
        assert cache.reused == 1
    assert ran == [0, 1, 2, 3, 3]


def test_a_merged_delta_is_of_the_weights(tmp_path: Path) -> None:
    model = made()
    stir(dt.attach(model, dt.LoRA(r=2), name="below"))
    dt.merge(model, "below")
    with cached_trunk(model, tmp_path) as cache:
        loss = padded(model, TEXTS)
        torch.testing.assert_close(padded(model, TEXTS), loss)
        assert cache.reused == 1
        dt.unmerge(model)
        with pytest.raises(ConfigError, match="'below'"):
            padded(model, TEXTS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: transformers.BertForSequenceClassification(bert_config(hidden_dropout_prob=0.1)),
            "found random numbers drawn in bert.embeddings.dropout while training; set the model's dropout to 0",
        ),
        (
            lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, attention_dropout=0.1)),
            "found random numbers drawn in model.layers.0.self_attn while training",
        ),
        (FAMILIES["t5"].model, "found the encoder and the decoder"),
        (FAMILIES["vit"].model, "expected a model that takes tokens"),
        (
            lambda: transformers.T5EncoderModel(FAMILIES["t5"].model().config),
            "expected layers that hand on hidden states and nothing else, found others in T5Stack",
        ),
        (
            lambda: transformers.AlbertModel(
                transformers.AlbertConfig(
                    vocab_size=VOCABULARY,
                    embedding_size=8,
                    hidden_size=32,
                    num_attention_heads=4,
                    intermediate_size=48,
                    num_hidden_layers=3,
                )
            ),
            "expected layers that run one after the other, found none in AlbertModel",
        ),
        (
            lambda: transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    **DECODER, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
                )
            ),
            "found model.rotary_emb of type dynamic",
        ),
    ],
    ids=["dropout", "attention dropout", "t5", "vit", "t5 encoder", "albert", "dynamic positions"],
)
def test_models_without_a_fixed_trunk(model: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    base = model()
    layers = None if isinstance(base, transformers.AlbertModel) else "last:1"
    dt.attach(base, dt.LoRA(targets=("query", "value"), layers=layers))
    before = fingerprint(base)
    with pytest.raises(ConfigError, match=message), cached_trunk(base, tmp_path):
        pass
    assert fingerprint(base) == before


def test_a_trunk_in_training_and_a_model_without_deltas(tmp_path: Path) -> None:
    model = made()
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"found model.layers.1.mlp.up_proj.weight in training; freeze it"):
        cached_trunk(model, tmp_path).__enter__()
    with pytest.raises(AttachError, match="expected an attached delta"):
        cached_trunk(FAMILIES["llama"].model(), tmp_path).__enter__()
