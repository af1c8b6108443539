"""Prefix tuning against its equation, against prepending text, and in everything a model does around attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import AttachError, ConfigError, MergeError, SiteError
from tests.methods.training import answers, assert_close, backward, doubled, losses
from tests.models.families import DECODER, FAMILIES, VOCABULARY, Family
from tests.models.tools import assert_bit_identical, assert_same_tensors, families, gradients, stir, values

P = 4
TEXT = (11, 23, 5, 42)
ROTARY = ("llama", "qwen2", "qwen3")


def matrices(delta: Delta) -> dict[str, tuple[Tensor, Tensor]]:
    """P_K and P_V by site, each ``[p, kv_heads * head_dim]``."""
    return {site: part.matrices() for site, part in delta.items() if part.acts_in_attention}  # type: ignore[operator]


def cache_of(model: Any, delta: Delta, batch: int) -> Any:
    """The same rows as transformers has past keys and values, which is an implementation of its own."""
    cache = transformers.DynamicCache()
    for layer, (keys, values_) in enumerate(matrices(delta).values()):
        width = 8
        heads = [m.view(P, -1, width).transpose(0, 1).expand(batch, -1, -1, -1) for m in (keys, values_)]
        cache.update(*heads, layer)
    return cache


@families(*ROTARY)
def test_equals_past_keys_and_values_in_logits_and_gradients(family: Family) -> None:
    model, inputs = doubled(family)
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P)))
    backward(family, model, inputs)
    found = gradients(model)
    assert found
    model.zero_grad()
    ours = answers(family, model, inputs)

    mask = F.pad(inputs["attention_mask"], (P, 0), value=1)
    positions = torch.arange(5).expand(3, -1)  # rows take no position from the text

    def past(**given: Any) -> Any:
        with dt.disabled(model):
            return model(
                input_ids=given["input_ids"],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache_of(model, delta, 3),
            )

    assert_close(ours, past(**inputs).logits)
    backward(family, past, inputs)  # type: ignore[arg-type]
    assert_same_tensors(gradients(model), found, atol=1e-10, rtol=1e-10)


def test_equals_the_equation_in_an_encoder_and_across_stacks() -> None:
    """T5: self-attention of both stacks and cross-attention, layer by layer in plain float64."""
    family = FAMILIES["t5"]
    model, inputs = doubled(family)
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P)))
    rows = matrices(delta)
    assert len(rows) == 6  # two layers in each stack, and the decoder's look at the encoder
    seen: dict[str, list[Tensor]] = {}

    def watch(site: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            x, states = args[0], kwargs.get("key_value_states")
            seen[site] = [x, x if states is None else states, output[1], kwargs["mask"], output[0]]

        return hook

    for site in rows:
        model.get_submodule(site).register_forward_hook(watch(site), with_kwargs=True)
    answers(family, model, inputs)
    for site, (p_k, p_v) in rows.items():
        module: Any = model.get_submodule(site)
        x, source, bias, mask, out = seen[site]
        heads = [
            (torch.cat([p[None].expand(3, -1, -1), projected], dim=1)).view(3, -1, 4, 8).transpose(1, 2)
            for p, projected in ((p_k, module.k(source)), (p_v, module.v(source)))
        ]
        scores = module.q(x).view(3, -1, 4, 8).transpose(1, 2) @ heads[0].transpose(2, 3)
        scores = scores + F.pad(bias.expand(3, -1, -1, -1), (P, 0))
        if mask is not None:
            visible = F.pad(mask if mask.dtype == torch.bool else mask == 0, (P, 0), value=True)
            scores = scores.masked_fill(~visible, -torch.inf)
        elif module.is_causal:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(P + 1).bool(), -torch.inf)
        expected = (scores.softmax(dim=-1) @ heads[1]).transpose(1, 2).reshape(3, -1, 32)
        assert_close(out, module.o(expected))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@families(*ROTARY, "gpt2")
def test_rows_that_start_from_text_are_that_text(family: Family, implementation: str) -> None:
    model: Any = family.model()
    model.set_attn_implementation(implementation)
    ids, mask = family.inputs()["input_ids"], family.inputs()["attention_mask"].flip(1)  # padding on the left
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    text = torch.tensor(TEXT).expand(3, -1)
    with torch.no_grad():
        expected = model(
            torch.cat([text, ids], dim=1),
            attention_mask=F.pad(mask, (P, 0), value=1),
            position_ids=torch.cat([torch.arange(P).expand(3, -1), positions + P], dim=1),
        ).logits[:, P:]
        base = model(ids, attention_mask=mask, position_ids=positions).logits
        dt.attach(model, dt.PrefixTuning(tokens=P, init_ids=TEXT))
        found = model(ids, attention_mask=mask, position_ids=positions).logits
        with dt.routed(model, ["default", None, "default"]):
            routed = model(ids, attention_mask=mask, position_ids=positions).logits
    real = mask.bool()
    assert_close(found[real], expected[real], 1e-4)
    assert (expected - base)[real].abs().max() > 0.1
    assert_close(routed[[0, 2]], found[[0, 2]], 1e-4)
    assert_close(routed[1][real[1]], base[1][real[1]], 1e-4)


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no-cache": {"use_cache": False},
    "static-cache": {"cache_implementation": "static", "disable_compile": True},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@families(*ROTARY, "gpt2")
@pytest.mark.parametrize("how", WAYS.values(), ids=list(WAYS))
def test_writes_what_the_text_would_have_it_write(family: Family, how: dict[str, Any], implementation: str) -> None:
    model: Any = family.model()
    model.set_attn_implementation(implementation)
    ids = torch.randint(3, VOCABULARY, (2, 5))
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])

    def write(ids: Tensor, mask: Tensor) -> Tensor:
        torch.manual_seed(5)
        written = model.generate(ids, attention_mask=mask, max_new_tokens=5, min_new_tokens=5, **how)
        return written[:, ids.shape[1] :]  # type: ignore[no-any-return]

    base = write(ids, mask)
    text = torch.cat([torch.tensor(TEXT).expand(2, -1), ids], dim=1)
    expected = write(text, F.pad(mask, (P, 0), value=1))
    dt.attach(model, dt.PrefixTuning(tokens=P, init_ids=TEXT))
    assert torch.equal(write(ids, mask), expected)
    assert not torch.equal(expected, base)
    with dt.routed(model, ["default", None]):
        routed = write(ids, mask)
    half = len(routed) // 2
    assert torch.equal(routed[:half], expected[:half])
    assert torch.equal(routed[half:], base[half:])


def test_text_may_keep_all_positions_to_itself() -> None:
    model = FAMILIES["gpt2"].model()
    delta = dt.attach(model, dt.PrefixTuning(tokens=P, shift_positions=False))
    assert all(part.acts_in_attention for _, part in delta.items())
    long = torch.randint(3, VOCABULARY, (1, 64))  # as many as the model has positions
    model(long)
    dt.detach(model)
    dt.attach(model, dt.PrefixTuning(tokens=P))
    with pytest.raises(AttachError, match="64 learned positions"):
        model(long)


def test_init_from_text_leaves_the_model_and_its_mode_alone() -> None:
    model: Any = FAMILIES["llama"].model().train()
    model.model.layers[0].eval()
    before = values(model)
    dt.attach(model, dt.PrefixTuning(tokens=P, init_ids=TEXT))
    assert_bit_identical(values(model), before)
    assert [layer.training for layer in model.model.layers] == [False, True]
    assert all(p.requires_grad == name.startswith("deltatune.") for name, p in model.named_parameters())


def test_init_from_text_reads_the_base_alone() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    expected = matrices(dt.attach(model, dt.PrefixTuning(tokens=P, init_ids=TEXT), name="a"))
    other = family.model()
    stir(dt.attach(other, dt.LoRA(targets=("query", "key", "value"), layers=0)))
    stir(dt.attach(other, dt.PromptTuning(tokens=2), name="p"))
    found = matrices(dt.attach(other, dt.PrefixTuning(tokens=P, init_ids=TEXT), name="a"))
    for site, pair in expected.items():
        for one, two in zip(pair, found[site], strict=True):
            assert torch.equal(one, two)


class Tokenizer:
    """Of words that are numbers."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}


def test_from_text() -> None:
    method = dt.PrefixTuning.from_text(Tokenizer(), "11 23 5 42", dropout=0.1)
    assert method == dt.PrefixTuning(tokens=4, init_ids=TEXT, dropout=0.1)
    assert dt.PrefixTuning.from_text(Tokenizer(), "11 23", tokens=5).init_ids == (11, 23, 11, 23, 11)
    assert dt.PrefixTuning.from_text(Tokenizer(), "11 23 5 42", tokens=2).init_ids == (11, 23)
    with pytest.raises(ConfigError, match="text: expected at least one token, found ''"):
        dt.PrefixTuning.from_text(Tokenizer(), "")


@families("t5", "bert")
def test_a_start_from_text_needs_one_stack(family: Family) -> None:
    model = family.model()
    method = dt.PrefixTuning(tokens=P, init_ids=TEXT)
    if family.name == "bert":
        dt.attach(model, method)
    else:
        with pytest.raises(SiteError, match="expected attention in one stack"):
            dt.attach(model, method)
        assert not dt.deltas(model)


@families("llama", "gpt2", "t5", "bert")
def test_the_network_folds_away_on_save(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P, hidden=6, train_also=())))
    expected = family.forward(model)
    rows = matrices(delta)
    dt.save(delta, tmp_path)
    dt.detach(model)
    again = dt.load(model, tmp_path, trainable=True)
    assert_close(family.forward(model), expected, 1e-5)
    assert again.size == sum(keys.numel() + values_.numel() for keys, values_ in rows.values())
    family.loss(model).backward()  # and it trains on as plain rows
    assert all(p.grad is not None for p in again.parameters())


def test_the_network_is_the_papers() -> None:
    model, inputs = doubled(FAMILIES["llama"])
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P, hidden=6)))
    tensors = dict(delta.named_parameters())
    shapes = [tuple(p.shape) for p in tensors.values()]
    assert sorted(shapes) == sorted([(P, 32), (6, 32), (6,), (32, 6), (32,), (32, 6), (32,)])
    embedding, bottom = tensors["parts.0.trunk.embedding"], "parts.0.trunk.bottom"
    for index, (keys, values_) in enumerate(matrices(delta).values()):
        hidden = torch.tanh(embedding @ tensors[f"{bottom}.weight"].T + tensors[f"{bottom}.bias"])
        made = hidden @ tensors[f"parts.{index}.top.weight"].T + tensors[f"parts.{index}.top.bias"]
        assert_close(torch.cat([keys, values_], dim=1), made)
    backward(FAMILIES["llama"], model, inputs)
    assert all(p.grad is not None and bool(p.grad.any()) for p in tensors.values())


@families("llama", "gpt2")
def test_the_networks_embedding_is_as_wide_as_the_model(family: Family) -> None:
    delta = dt.attach(family.model(), dt.PrefixTuning(tokens=P, hidden=6))
    assert dict(delta.named_parameters())["parts.0.trunk.embedding"].shape == (P, 32)


@families("llama")
def test_what_a_file_brings_can_be_trained_on(family: Family, tmp_path: Path) -> None:
    first, model = family.model(), family.model()
    dt.save(stir(dt.attach(first, dt.PrefixTuning(tokens=P, hidden=6))), tmp_path)
    delta = dt.load(model, tmp_path)
    assert not delta.is_trainable
    delta.unfreeze()
    assert all(parameter.requires_grad for parameter in delta.parameters())
    family.loss(model).backward()
    assert all(parameter.grad is not None for parameter in delta.parameters())


@pytest.mark.parametrize("hidden", [None, 6])
@families("llama", "t5", "bert")
def test_restoring_goes_into_the_tensors_an_optimiser_holds(family: Family, hidden: int | None, tmp_path: Path) -> None:
    from deltatune.io.files import restore

    model = family.model()
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P, hidden=hidden, train_also=()))).freeze()
    dt.save(delta, tmp_path)
    expected, held = family.forward(model), list(delta.parameters())
    stir(delta, seed=1)
    restore(delta, tmp_path)
    assert_close(family.forward(model), expected, 1e-5)
    assert not delta.is_trainable
    if hidden is None:
        assert [id(p) for p in delta.parameters()] == [id(p) for p in held]


def test_layers_are_those_that_are_asked_for() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P, layers="last:1")))
    assert delta.sites == ("model.layers.1.self_attn",)
    assert delta.size == 2 * P * 16
    first: list[Tensor] = []
    layer = model.get_submodule("model.layers.0")
    handle = layer.register_forward_hook(lambda module, args, output: first.append(output))
    changed = family.forward(model)
    with dt.disabled(model):
        base = family.forward(model)
    handle.remove()
    assert torch.equal(first[0], first[1])
    assert not torch.allclose(changed, base)


SIZES = {"llama": 2 * 2 * P * 16, "gpt2": 2 * 2 * P * 32, "t5": 6 * 2 * P * 32, "bert": 2 * 2 * P * 32 + 3 * 33}


@families(*SIZES)
def test_counts(family: Family) -> None:
    assert dt.attach(family.model(), dt.PrefixTuning(tokens=P)).size == SIZES[family.name]


@families("llama", "gpt2", "t5", "bert")
def test_acts_beside_lora_on_keys_and_values(family: Family) -> None:
    model = family.model()
    targets = ("c_attn",) if family.name == "gpt2" else ("key", "value")
    lora = stir(dt.attach(model, dt.LoRA(r=2, targets=targets, train_also=()), name="lora"))
    only_lora = family.forward(model)
    prefix = stir(dt.attach(model, dt.PrefixTuning(tokens=P, train_also=()), name="prefix"))
    both = family.forward(model)
    dt.disable(model, "lora")
    only_prefix = family.forward(model)
    dt.enable(model)
    for one, two in ((both, only_lora), (both, only_prefix), (only_lora, only_prefix)):
        assert (one - two).abs().max() > 1e-2
    family.loss(model).backward()
    assert all(p.grad is not None for p in [*lora.parameters(), *prefix.parameters()])
    done = dt.merge(model, "lora")  # beside a prefix that stays attached
    assert done.weights == {"lora": 1.0}
    assert_close(family.forward(model), both, 1e-3)
    dt.unmerge(model)
    with pytest.raises(MergeError, match="acts on activations and has no form as weights"):
        dt.merge(model, "prefix")
    assert torch.equal(family.forward(model), both)


@families("llama", "gpt2")
def test_two_prefixes_on_a_row_are_one_longer_prefix(family: Family) -> None:
    model = family.model()
    whole = stir(dt.attach(model, dt.PrefixTuning(tokens=5), name="whole"))
    expected, rows = family.forward(model), matrices(whole)
    dt.disable(model)
    for name, part in (("a", slice(0, 3)), ("b", slice(3, 5))):
        delta = dt.attach(model, dt.PrefixTuning(tokens=3 if name == "a" else 2), name=name)
        for site, (keys, values_) in matrices(delta).items():
            with torch.no_grad():
                keys.copy_(rows[site][0][part])
                values_.copy_(rows[site][1][part])
    assert_close(family.forward(model), expected, 1e-5)
    with dt.routed(model, [["a", "b"], "a", None]):
        routed = family.forward(model)
    assert_close(routed[0], expected[0], 1e-4)
    with dt.routed(model, ["a"] * 3):
        assert_close(routed[1], family.forward(model)[1], 1e-4)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("hidden", [None, 6])
@families("llama", "gpt2", "t5", "bert")
def test_gradients_with_dropout_are_those_without_checkpointing(
    family: Family, hidden: int | None, reentrant: bool
) -> None:
    model: Any = family.model().train()
    stir(dt.attach(model, dt.PrefixTuning(tokens=P, hidden=hidden, dropout=0.3)))

    def gradient() -> dict[str, Tensor]:
        torch.manual_seed(3)
        model.zero_grad()
        family.loss(model).backward()
        return gradients(model)

    expected = gradient()
    assert set(expected) == {name for name, p in model.named_parameters() if p.requires_grad}
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert_same_tensors(gradient(), expected)


def test_dropout_drops_in_training_alone() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    stir(dt.attach(model, dt.PrefixTuning(tokens=P, dropout=0.5)))
    assert torch.equal(family.forward(model), family.forward(model))
    model.train()
    assert not torch.equal(family.forward(model), family.forward(model))


@families("llama", "gpt2", "t5")
def test_a_bfloat16_base_has_float32_rows_that_are_cast_down(family: Family) -> None:
    model = family.model().to(torch.bfloat16)
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P)))
    assert {p.dtype for p in delta.parameters()} == {torch.float32}
    out = family.forward(model)
    assert out.dtype == torch.bfloat16
    family.loss(model).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in delta.parameters())
    exact = family.model()
    twin = dt.attach(exact, dt.PrefixTuning(tokens=P))
    twin.load_state_dict(delta.state_dict())
    assert (family.forward(exact) - out).abs().max() < 0.1 * out.abs().max()


@families("llama", "gpt2", "t5", "bert")
@pytest.mark.parametrize("hidden", [None, 6])
def test_a_copy_is_independent_after_a_training_step_too(family: Family, hidden: int | None) -> None:
    model = family.model().train()
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P, hidden=hidden)))
    family.loss(model).backward()
    copied = copy.deepcopy(model)
    expected = family.forward(model)
    assert torch.equal(family.forward(copied), expected)
    stir(dt.deltas(copied)["default"], seed=3)
    assert torch.equal(family.forward(model), expected)
    assert not torch.equal(family.forward(copied), expected)
    dt.detach(copied)
    dt.detach(model, delta)
    assert torch.equal(family.forward(copied), family.forward(model))


@pytest.mark.parametrize("hidden", [None, 8])
@families("llama", "gpt2", "t5", "bert")
def test_learns(family: Family, hidden: int | None) -> None:
    model = family.model()
    dt.attach(model, dt.PrefixTuning(tokens=P, hidden=hidden, train_also=()))
    before, after = losses(family, model, lr=0.1)
    assert after < 0.97 * before


def test_learns_a_task() -> None:
    """A prefix makes a frozen model write one word after any text."""
    model: Any = FAMILIES["llama"].model()
    dt.attach(model, dt.PrefixTuning(tokens=8))
    ids = torch.randint(3, VOCABULARY, (8, 5))
    optimizer = torch.optim.Adam(dt.parameter_groups(model, 0.1))
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(ids).logits[:, -1], torch.full((8,), 7)).backward()
        optimizer.step()
    fresh = torch.randint(3, VOCABULARY, (16, 5))
    assert (model(fresh).logits[:, -1].argmax(dim=-1) == 7).float().mean() > 0.8
    with dt.disabled(model):
        assert (model(fresh).logits[:, -1].argmax(dim=-1) == 7).float().mean() < 0.2


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"tokens": 0}, "prefix.tokens: expected a whole number from 1, found 0"),
        ({"hidden": 0}, "prefix.hidden: expected a width from 1, or none, found 0"),
        ({"dropout": 1.0}, "prefix.dropout: expected 0 <= p < 1, found 1.0"),
        ({"targets": ("query",)}, "prefix.targets: expected none"),
        ({"tokens": 4, "init_ids": (1, 2)}, "prefix.init_ids: expected 4 token ids, found 2"),
        ({"tokens": 2, "init_ids": (1, 2), "hidden": 4}, "prefix.init_ids: expected no MLP beside it"),
    ):
        with pytest.raises(ConfigError) as refused:
            dt.PrefixTuning(**settings)  # type: ignore[arg-type]
        assert str(refused.value).startswith(message)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiles() -> None:
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "num_hidden_layers": 1})).eval()
    stir(dt.attach(model, dt.PrefixTuning(tokens=P)))
    ids = torch.randint(3, VOCABULARY, (2, 5))
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad():
        assert_close(compiled(ids).logits, model(ids).logits, 1e-4)
        with dt.disabled(model):
            assert_close(compiled(ids).logits, model(ids).logits, 1e-4)


def test_a_module_of_another_kind_has_no_prefix() -> None:
    with pytest.raises(SiteError, match="expected modules of that role"):
        dt.attach(nn.Sequential(nn.Linear(2, 2)), dt.PrefixTuning(tokens=P))


def test_a_model_that_rotates_from_layer_to_layer_is_saved_too(tmp_path: Path) -> None:
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48,
    )  # fmt: skip
    torch.manual_seed(0)
    model, ids = transformers.Gemma3ForCausalLM(config).eval(), torch.tensor([[5, 6, 7]])
    delta = stir(dt.attach(model, dt.PrefixTuning(tokens=P)))
    expected = model(ids).logits
    dt.save(delta, tmp_path)
    dt.detach(model)
    dt.load(model, tmp_path)
    torch.testing.assert_close(model(ids).logits, expected)
