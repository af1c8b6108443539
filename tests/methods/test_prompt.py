"""Prompt tuning against the model on [P; E(x)] itself, however it is run; and that the shared run is run once."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import AttachError, ConfigError, SiteError
from tests.methods.training import assert_close, doubled, losses
from tests.models.families import DECODER, FAMILIES, SIZES, VOCABULARY, Family
from tests.models.tools import assert_same_tensors, families, gradients, stir

P = 4
CAUSAL = ("llama", "qwen2", "qwen3", "gpt2")


def vectors(delta: Delta) -> list[Tensor]:
    """Each P that a delta owns."""
    return [part.prompt() for _, part in delta.items() if hasattr(part, "prompt")]  # type: ignore[operator]


def attached(model: nn.Module, name: str = "default", **settings: Any) -> Delta:
    """A prompt that does something."""
    return stir(dt.attach(model, dt.PromptTuning(**{"tokens": P, "train_also": (), **settings}), name=name))


def by_hand(
    model: Any, prompt: Tensor, ids: Tensor, mask: Tensor | None = None, stack: Any = None, **inputs: Any
) -> Any:
    """The base, or a stack of it, on [P; E(x)]."""
    embeds = model.get_input_embeddings()(ids)
    whole = torch.cat([prompt.to(embeds.dtype).expand(len(ids), -1, -1), embeds], dim=1)
    if mask is not None:
        inputs["attention_mask"] = F.pad(mask, (len(prompt), 0), value=1)
    with dt.disabled(model):
        return (stack or model)(inputs_embeds=whole, **inputs)


def batch(padding: str = "right") -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    return ids, mask if padding == "right" else mask.flip(1)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@families(*CAUSAL)
def test_a_shared_run_is_p_before_the_text(family: Family, padding: str, implementation: str) -> None:
    """In float64: the loss, the logits of the text and the gradients."""
    model: Any = doubled(family)[0]
    model.set_attn_implementation(implementation)
    delta = attached(model)
    ids, mask = batch(padding)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100  # what P's last vector would have to predict
    given = labels.clone()
    output = model(ids, attention_mask=mask, labels=labels)
    output.loss.backward()
    found = gradients(model)
    model.zero_grad()

    (prompt,) = vectors(delta)
    expected = by_hand(model, prompt, ids, mask, labels=F.pad(labels, (P, 0), value=-100))
    expected.loss.backward()
    real = mask.bool()
    assert output.logits.shape[1] == 5
    rounding = 1e-10 if family.name == "gpt2" else 1e-6  # transformers computes angles in float32
    assert_close(output.logits[real], expected.logits[:, P:][real], rounding)
    assert_same_tensors(gradients(model), found, atol=rounding, rtol=rounding)
    with dt.disabled(model):
        assert (output.logits - model(ids, attention_mask=mask).logits)[0].abs().max() > 0.1
    assert torch.equal(labels, given)


def test_the_loss_is_that_of_the_text_alone() -> None:
    """P predicts nothing, not even the first token of the text."""
    model: Any = FAMILIES["llama"].model()
    delta = attached(model)
    ids, _ = batch()
    output = model(ids, labels=ids)
    whole = by_hand(model, vectors(delta)[0], ids).logits
    assert_close(output.loss, F.cross_entropy(whole[:, P:-1].flatten(0, 1), ids[:, 1:].flatten()), 1e-5)


def build(kind: str) -> Any:
    """Models beside the families: other ways to count positions, to pool, and to let tokens meet."""
    sizes = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
    blocks = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    ends = {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCABULARY}
    local = {"local_attention": 4, "global_attn_every_n_layers": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    makers: dict[str, Any] = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**sizes)),
        "bert-plain": lambda: transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False),
        "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**sizes, pad_token_id=1)),
        "modernbert": lambda: transformers.ModernBertModel(transformers.ModernBertConfig(**sizes, **local, **tokens)),
        "opt": lambda: transformers.OPTForCausalLM(
            transformers.OPTConfig(**{**sizes, "ffn_dim": 48, "word_embed_proj_dim": 32})
        ),
        "gptj": lambda: transformers.GPTJForCausalLM(
            transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=VOCABULARY)
        ),
        "bloom": lambda: transformers.BloomForCausalLM(
            transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY)
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(**blocks, **ends, max_position_embeddings=64, scale_embedding=True)
        ),
        "lfm2": lambda: transformers.Lfm2ForCausalLM(
            transformers.Lfm2Config(**DECODER, layer_types=["conv", "full_attention"])
        ),
    }
    torch.manual_seed(0)
    model = makers[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    return model


def states(output: Any) -> Tensor:
    return output.last_hidden_state if "last_hidden_state" in output else output.logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("kind", ["bert", "bert-plain", "roberta", "modernbert", "gptj", "bloom", "lfm2"])
def test_p_put_into_each_row_is_p_before_the_text(kind: str, padding: str) -> None:
    model, (ids, mask) = build(kind), batch(padding)
    delta = attached(model)
    expected = states(by_hand(model, vectors(delta)[0], ids, mask))[:, P:]
    found = model(ids, attention_mask=mask)
    real = mask.bool()
    assert_close(states(found)[real], expected[real], 1e-4)
    if kind == "bert":  # what is pooled is still the text's first token
        assert_close(found.pooler_output, model.pooler(expected), 1e-4)


def test_a_head_that_calls_an_inner_stack_meets_p_there() -> None:
    model, (ids, mask) = build("opt"), batch()
    delta = attached(model)
    expected = by_hand(model, vectors(delta)[0], ids, mask).logits[:, P:]
    assert_close(model(ids, attention_mask=mask).logits[mask.bool()], expected[mask.bool()], 1e-4)


def test_layers_called_alone_are_refused() -> None:
    model: Any = FAMILIES["llama"].model()
    attached(model)
    x = torch.randn(1, 3, 32)
    with pytest.raises(AttachError, match="expected a call of the whole stack, found its attention called alone"):
        model.model.layers[0](x, position_embeddings=model.model.rotary_emb(x, torch.arange(3)[None]))


def test_a_stack_without_a_cache_of_keys_is_refused() -> None:
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=VOCABULARY)
    with pytest.raises(SiteError, match="expected a cache of keys and values in MambaModel, found none"):
        dt.attach(transformers.MambaForCausalLM(config), dt.PromptTuning(tokens=P))


@pytest.mark.parametrize("side", ["encoder", "decoder", "both"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_either_side_of_an_encoder_decoder(name: str, side: str) -> None:
    model = FAMILIES["t5"].model() if name == "t5" else build("bart")
    (ids, mask), (said, _) = batch(), batch("left")
    said = said.flip(0)[:, :4].contiguous()
    text = {"encoder": (5, 6, 7, 8), "decoder": (5, 6, 7, 8), "both": (5, 6, 7, 8)}[side]
    delta = dt.attach(model, dt.PromptTuning(tokens=P, side=side, init_ids=text))  # type: ignore[arg-type]
    assert len(vectors(delta)) == (2 if side == "both" else 1)
    before = torch.tensor(text).expand(3, -1)
    with torch.no_grad(), dt.disabled(model):
        longer = torch.cat([before, ids], dim=1), F.pad(mask, (P, 0), value=1)
        expected = model(
            *((ids, mask) if side == "decoder" else longer),
            decoder_input_ids=said if side == "encoder" else torch.cat([before, said], dim=1),
        ).logits[:, -4:]
    output = model(ids, attention_mask=mask, decoder_input_ids=said)
    assert_close(output.logits, expected, 1e-4)
    model(ids, attention_mask=mask, labels=said).loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in delta.parameters())
    assert model(ids, labels=said).logits.shape == (3, 4, VOCABULARY)

    written = {}
    for cached in (True, False):
        for beams in (1, 3):
            torch.manual_seed(1)
            written[cached, beams] = model.generate(
                ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, num_beams=beams, use_cache=cached
            )
    assert torch.equal(written[True, 1], written[False, 1])
    assert torch.equal(written[True, 3], written[False, 3])


@pytest.mark.parametrize("sides", [("encoder", "encoder"), ("both", "decoder"), ("decoder", "both")], ids="-".join)
@pytest.mark.parametrize("masked", [True, False], ids=["", "no-mask"])
def test_rows_with_different_prompts_in_an_encoder_decoder(sides: tuple[Any, Any], masked: bool) -> None:
    """The prompt of a row stands right before its text, past those of other rows."""
    model: Any = FAMILIES["t5"].model()
    (ids, mask), (said, _) = batch(), batch("left")
    inputs = {"input_ids": ids, "decoder_input_ids": said} | ({"attention_mask": mask} if masked else {})
    base = model(**inputs).logits
    attached(model, "a", side=sides[0], init="uniform")
    only_a = model(**inputs).logits
    dt.disable(model)
    attached(model, "b", side=sides[1], tokens=3, init="uniform")
    only_b = model(**inputs).logits
    dt.enable(model)
    both = model(**inputs).logits
    with dt.routed(model, ["a", None, "b"]):
        found = model(**inputs).logits
    assert_close(found, torch.stack([only_a[0], base[1], only_b[2]]), 1e-4)
    with dt.routed(model, [None, ["a", "b"], "a"]):
        found = model(**inputs).logits
    assert_close(found, torch.stack([base[0], both[1], only_a[2]]), 1e-4)
    for routes in (["a", None, "b"], [["b", "a"], "b", "a"]):
        with dt.routed(model, routes):
            cached, plain = (
                model.generate(**{k: v for k, v in inputs.items() if "decoder" not in k}, max_new_tokens=5, use_cache=c)
                for c in (True, False)
            )
        assert torch.equal(cached, plain)


def test_a_stack_that_counts_by_itself_takes_a_prompt_on_every_row_or_none() -> None:
    model, (ids, mask) = build("bart"), batch()
    base = model(ids, attention_mask=mask, labels=ids).logits
    attached(model)
    with (
        dt.routed(model, ["default", None, None]),
        pytest.raises(AttachError, match="BartEncoder counts its positions"),
    ):
        model(ids, attention_mask=mask, labels=ids)
    with dt.routed(model, [None] * 3):
        assert torch.equal(model(ids, attention_mask=mask, labels=ids).logits, base)


@families("bert", "llama")
def test_two_prompts_on_a_row(family: Family) -> None:
    """A causal stack runs over each by itself; in an encoder they see each other, the later one first."""
    model: Any = family.model()
    inputs = family.inputs()
    a, b = attached(model, "a"), attached(model, "b", tokens=3)
    found = family.forward(model)
    (p_a,), (p_b,) = vectors(a), vectors(b)
    with torch.no_grad():
        if family.name == "bert":
            together = by_hand(model, torch.cat([p_b, p_a]), inputs["input_ids"], inputs["attention_mask"], model.bert)
            expected = model.classifier(model.bert.pooler(together.last_hidden_state[:, 7:]))
        else:
            expected = _seen_apart(model, [p_a, p_b], **inputs)
    assert_close(found, expected, 1e-4)


def _seen_apart(model: Any, prompts: list[Tensor], input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """All prompts in front of each row, with a mask that lets none see another, each counted to -1."""
    texts = model.get_input_embeddings()(input_ids)
    whole = torch.cat([*(p.expand(3, -1, -1) for p in prompts), texts], dim=1)
    positions = torch.cat([*(torch.arange(-len(p), 0) for p in prompts), torch.arange(5)])
    kind = torch.cat([torch.full((len(p),), i) for i, p in enumerate(prompts)] + [torch.full((5,), -1)])
    seen = torch.ones(len(kind), len(kind)).tril().bool() & ((kind[:, None] == kind) | (kind[:, None] == -1))
    seen = seen & F.pad(attention_mask, (len(kind) - 5, 0), value=1).bool()[:, None, None]
    with dt.disabled(model):
        out = model(inputs_embeds=whole, position_ids=positions[None].expand(3, -1), attention_mask=seen)
    return out.logits[:, -5:]  # type: ignore[no-any-return]


@families(*CAUSAL, "bert", "t5")
def test_rows_with_different_prompts_and_a_lora_on_some(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    attached(model, "p")
    attached(model, "q", tokens=2, init="uniform")
    stir(dt.attach(model, dt.LoRA(r=2, targets=family.targets, train_also=()), name="l"))
    alone = {}
    for names in (("p",), ("q",), ("p", "l")):
        dt.disable(model)
        dt.enable(model, *names)
        alone[names] = family.forward(model)
    dt.enable(model)
    with dt.routed(model, ["p", ["p", "l"], "q"]):
        assert_close(
            family.forward(model), torch.stack([alone[n][i] for i, n in enumerate([("p",), ("p", "l"), ("q",)])]), 1e-4
        )
    with dt.routed(model, [["l", "p"], None, "p"]):
        assert_close(family.forward(model), torch.stack([alone["p", "l"][0], base[1], alone["p",][2]]), 1e-4)


@families("llama", "bert", "t5")
def test_a_row_trains_its_own_prompt_alone(family: Family) -> None:
    model = family.model()
    a, b = attached(model, "a"), attached(model, "b")
    with dt.routed(model, ["a", None, "a"]):
        family.loss(model).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in a.parameters())
    assert all(p.grad is None or not p.grad.any() for p in b.parameters())


class Runs:
    """Counts the calls of a stack by what they read, ``[rows, tokens]``."""

    def __init__(self, stack: nn.Module) -> None:
        self.shapes: list[tuple[int, int]] = []
        stack.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        read = args[0] if args else kwargs.get("input_ids")
        self.shapes.append(tuple((kwargs["inputs_embeds"] if read is None else read).shape[:2]))

    def taken(self) -> list[tuple[int, int]]:
        shapes, self.shapes = self.shapes, []
        return shapes


@families("llama", "gpt2")
def test_generation_costs_no_token_more_than_one_run_over_p(family: Family) -> None:
    model: Any = family.model()
    attached(model)
    runs = Runs(model.base_model)
    ids, mask = batch("left")
    how = {"max_new_tokens": 4, "min_new_tokens": 4}
    first = model.generate(ids, attention_mask=mask, **how)
    assert runs.taken() == [(1, P), (3, 5), (3, 1), (3, 1), (3, 1)]
    assert torch.equal(model.generate(ids, attention_mask=mask, **how), first)
    assert runs.taken() == [(3, 5), (3, 1), (3, 1), (3, 1)]
    with torch.no_grad():
        model(ids, attention_mask=mask)
        model(ids[:1, :2])
    assert runs.taken() == [(3, 5), (1, 2)]
    beams = model.generate(ids, attention_mask=mask, num_beams=3, **how)
    assert runs.taken() == [(3, 5) if beams is None else (9, 5), (9, 1), (9, 1), (9, 1)]


@families("llama", "gpt2")
def test_routed_rows_share_a_run_as_far_as_they_are_alike(family: Family) -> None:
    model: Any = family.model()
    for name in "pq":
        attached(model, name)
    stir(dt.attach(model, dt.LoRA(r=2, targets=family.targets), name="l"))
    runs = Runs(model.base_model)
    ids, mask = batch("left")
    with dt.routed(model, [["p", "l"], ["p", "q"], "p"]):
        model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3)
    # p under the LoRA, p alone for two rows, q alone
    assert runs.taken() == [(1, P), (1, P), (1, P), (3, 5), (3, 1), (3, 1)]
    with dt.routed(model, ["p", None, ["p", "l"]]):
        model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3)
    assert runs.taken() == [(3, 5), (3, 1), (3, 1)]


def _step(model: Any, delta: Delta) -> None:
    optimizer = torch.optim.SGD(delta.parameters(), lr=1.0)
    model(batch()[0], labels=batch()[0]).loss.backward()
    optimizer.step()


def _in_place(model: Any, delta: Delta) -> None:
    with torch.no_grad():
        next(delta.parameters()).add_(1)


def _past_autograd(model: Any, delta: Delta) -> None:
    next(delta.parameters()).data.add_(1)


def _base_in_place(model: Any, delta: Delta) -> None:
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "layers.1" in n and "q_proj" in n).mul_(2)


def _base_state(model: Any, delta: Delta) -> None:
    model.load_state_dict({name: tensor * 1.1 for name, tensor in model.state_dict().items()})


def _reloaded(model: Any, delta: Delta) -> None:
    from deltatune.io.files import restore

    folder = Path(model.scratch)
    other = type(model)(model.config).eval()
    dt.save(stir(dt.attach(other, dt.PromptTuning(tokens=P, train_also=()), name="other"), seed=8), folder)
    restore(delta, folder)


def _merged(model: Any, delta: Delta) -> None:
    dt.merge(model, "lora")


CHANGES = {
    "step": _step,
    "in-place": _in_place,
    "data": _past_autograd,
    "base": _base_in_place,
    "base-state": _base_state,
    "restored": _reloaded,
    "lora-off": lambda model, delta: dt.disable(model, "lora"),
    "lora-changed": lambda model, delta: stir(dt.deltas(model)["lora"], seed=9),
    "lora-gone": lambda model, delta: dt.detach(model, "lora"),
    "another": lambda model, delta: stir(dt.attach(model, dt.LoRA(r=2), name="another"), seed=9),
    "bitfit": lambda model, delta: stir(dt.attach(model, dt.BitFit(add_missing=True), name="another"), seed=9),
    "cast": lambda model, delta: model.to(torch.float64),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_whatever_changes_the_run_is_seen(change: Any, tmp_path: Path) -> None:
    model: Any = FAMILIES["llama"].model()
    model.scratch = str(tmp_path)
    delta = attached(model)
    stir(dt.attach(model, dt.LoRA(r=2, targets=("query", "value")), name="lora"))
    ids, mask = batch()
    runs = Runs(model.base_model)
    with torch.no_grad():
        model(ids, attention_mask=mask)
    change(model, delta)
    runs.taken()
    with torch.no_grad():
        found = model(ids, attention_mask=mask).logits
        assert runs.taken() == [(1, P), (3, 5)]
        expected = by_hand(model, vectors(delta)[0], ids, mask).logits[:, P:]  # under nothing else
    fresh = copy.deepcopy(model)  # keeps no run
    with torch.no_grad():
        assert torch.equal(fresh(ids, attention_mask=mask).logits, found)
        if change is CHANGES["lora-gone"]:
            assert_close(found[mask.bool()], expected[mask.bool()], 1e-4)


def test_a_merge_and_its_undoing_are_seen() -> None:
    model: Any = FAMILIES["llama"].model()
    attached(model)
    stir(dt.attach(model, dt.LoRA(r=2, targets=("query", "value")), name="lora"))
    runs = Runs(model.base_model)
    ids, mask = batch()
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        for change in (lambda: dt.merge(model, "lora"), lambda: dt.unmerge(model)):
            change()
            runs.taken()
            found = model(ids, attention_mask=mask).logits
            assert runs.taken() == [(1, P), (3, 5)]
            assert_close(found, before, 1e-3)


def test_precision_is_part_of_a_run() -> None:
    model: Any = FAMILIES["llama"].model()
    attached(model)
    ids, _ = batch()
    with torch.no_grad():
        exact = model(ids).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(ids)
        assert torch.equal(model(ids).logits, exact)


def test_a_cache_goes_on_with_the_run_it_has_begun_with() -> None:
    """As if P itself were in the cache: two conversations under different deltas do not mix."""
    model: Any = FAMILIES["llama"].model()
    delta = attached(model)
    lora = stir(dt.attach(model, dt.LoRA(r=2, targets=("query", "value")), name="lora"))
    ids, _ = batch()
    caches = {}
    with torch.no_grad():
        for on in (True, False):
            (lora.enable if on else lora.disable)()
            caches[on] = transformers.DynamicCache(config=model.config)
            model(ids, past_key_values=caches[on])
        runs = Runs(model.base_model)
        for on in (True, False, True):
            (lora.enable if on else lora.disable)()
            found = model(ids[:, :1], past_key_values=caches[on]).logits
            assert runs.taken() == [(3, 1)]
        lora.enable()
        whole = model(torch.cat([ids, ids[:, :1], ids[:, :1]], dim=1)).logits[:, -1:]
        assert_close(found, whole, 1e-4)
    assert len(dict(delta.items())["model"].kept.begun) == 2  # type: ignore[union-attr]
    del caches
    gc.collect()
    assert not dict(delta.items())["model"].kept.begun  # type: ignore[union-attr]


class Noted(torch.autograd.Function):
    """The identity, with a token that lives as long as the graph does."""

    tokens: ClassVar[list[Any]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.token = nn.Module()
        Noted.tokens.append(weakref.ref(ctx.token))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_a_pass_is_kept_alive_by_a_prompt(training: bool) -> None:
    model: Any = FAMILIES["llama"].model().train(training)
    attached(model)
    Noted.tokens.clear()
    model.model.layers[1].self_attn.v_proj.register_forward_hook(lambda module, args, output: Noted.apply(output))
    ids, _ = batch()
    loss = model(ids, labels=ids).loss
    assert [token() is None for token in Noted.tokens] == [False, False]  # over P and over the text
    del loss
    gc.collect()
    assert [token() is None for token in Noted.tokens] == [True, True]


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@families("llama", "gpt2", "t5", "bert")
def test_gradients_are_those_without_checkpointing(family: Family, reentrant: bool) -> None:
    """Two passes under different routes before one backward, with the base's own dropout."""
    model: Any = family.model().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    attached(model, "a")
    attached(model, "b", tokens=2)

    def gradient() -> dict[str, Tensor]:
        torch.manual_seed(3)
        model.zero_grad()
        loss = family.loss(model)
        with dt.routed(model, ["a", "b", None]):
            loss = loss * family.loss(model)
        with dt.disabled(model):
            loss = loss + family.loss(model)
        loss.backward()
        return gradients(model)

    expected = gradient()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert_same_tensors(gradient(), expected)


@families("llama", "gpt2", "t5", "bert")
@pytest.mark.parametrize("training", [True, False])
def test_a_copy_is_independent(family: Family, training: bool) -> None:
    model = family.model().train(training)
    attached(model)
    if training:
        family.loss(model).backward()
    expected = family.forward(model)
    copied = copy.deepcopy(model)
    assert torch.equal(family.forward(copied), expected)
    stir(dt.deltas(copied)["default"], seed=3)
    assert not torch.equal(family.forward(copied), expected)
    assert torch.equal(family.forward(model), expected)
    dt.detach(model)
    assert not torch.equal(family.forward(copied), family.forward(model))


class Tokenizer:
    """Of words that are numbers."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}


def test_starts() -> None:
    model: Any = FAMILIES["llama"].model()
    table = model.get_input_embeddings().weight

    def start(**settings: Any) -> Tensor:
        (prompt,) = vectors(dt.attach(model, dt.PromptTuning(**settings)))
        dt.detach(model)
        return prompt.detach()

    words = start(tokens=50, common=7)
    rows = (words[:, None] == table).all(dim=-1)
    assert rows.any(dim=1).all()
    assert rows.any(dim=0).nonzero().flatten().tolist() == list(range(7))
    uniform = start(tokens=200, init="uniform")
    assert -0.5 <= uniform.min() < -0.45
    assert 0.45 < uniform.max() <= 0.5
    labels = start(tokens=6, init_ids=[5, [6, 8], 7], common=1)
    assert_close(labels, torch.stack([table[5], (table[6] + table[8]) / 2, table[7], *[table[0]] * 3]), 1e-6)
    assert start(tokens=2, init_ids=(5, 6)).shape == (2, 32)


def test_a_table_that_scales_gives_what_the_model_would_read() -> None:
    model = build("bart")
    (prompt,) = vectors(dt.attach(model, dt.PromptTuning(tokens=2, init_ids=(5, 6))))
    assert_close(prompt.detach(), model.get_encoder().embed_tokens(torch.tensor([5, 6])).detach(), 1e-6)


def test_from_text_and_from_labels() -> None:
    text = dt.PromptTuning.from_text(Tokenizer(), "11 23 5")
    assert text == dt.PromptTuning(tokens=3, init_ids=(11, 23, 5))
    assert dt.PromptTuning.from_text(Tokenizer(), "11 23 5", tokens=5).init_ids == (11, 23, 5, 11, 23)
    assert dt.PromptTuning.from_text(Tokenizer(), "11 23 5", tokens=2, side="both").init_ids == (11, 23)
    labels = dt.PromptTuning.from_labels(Tokenizer(), ["11 23", "5"], init="uniform")
    assert labels == dt.PromptTuning(tokens=20, init_ids=((11, 23), (5,)), init="uniform")
    with pytest.raises(ConfigError, match="text: expected at least one token, found ''"):
        dt.PromptTuning.from_labels(Tokenizer(), [""])
    with pytest.raises(ConfigError, match=r"prompt\.init_ids: expected 1 to 1 of them, found 2"):
        dt.PromptTuning.from_labels(Tokenizer(), ["1", "2"], tokens=1)


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"tokens": 0}, "prompt.tokens: expected a number from 1, found 0"),
        ({"init": "zeros"}, "prompt.init: expected one of ('uniform', 'vocabulary'), found 'zeros'"),
        ({"side": "left"}, "prompt.side: expected one of"),
        ({"common": 0}, "prompt.common: expected a number from 1, found 0"),
        ({"targets": ("query",)}, "prompt.targets: expected none"),
        ({"init_ids": ()}, "prompt.init_ids: expected 1 to 20 of them, found 0"),
        ({"init_ids": (1, ())}, "prompt.init_ids: expected token ids, found 'an empty group of them'"),
    ):
        with pytest.raises(ConfigError) as refused:
            dt.PromptTuning(**settings)  # type: ignore[arg-type]
        assert str(refused.value).startswith(message)
    model = FAMILIES["llama"].model()
    for ids in ((-1,), (VOCABULARY,), ((3, VOCABULARY),)):
        with pytest.raises(ConfigError, match=f"prompt.init_ids: expected ids from 0 to {VOCABULARY - 1}"):
            dt.attach(model, dt.PromptTuning(init_ids=ids))
    assert not dt.deltas(model)


@families("llama", "gpt2", "bert", "bert-mlm", "t5")
def test_counts(family: Family) -> None:
    assert dt.attach(family.model(), dt.PromptTuning(tokens=7, train_also=())).size == 7 * 32
    both = dt.PromptTuning(tokens=7, train_also=(), side="both")
    assert dt.attach(family.model(), both).size == 7 * 32 * (2 if family.name == "t5" else 1)


@families("llama", "gpt2", "bert", "t5")
def test_learns(family: Family) -> None:
    model = family.model()
    attached(model)
    before, after = losses(family, model, lr=0.1)
    assert after < 0.9 * before


@pytest.mark.parametrize("read_prompt", [False, True])
def test_an_encoders_head_reads_the_text_unless_it_should_read_the_prompt(read_prompt: bool) -> None:
    family = FAMILIES["bert"]
    model: Any = family.model()
    delta = attached(model, read_prompt=read_prompt)
    inputs = family.inputs()
    whole = by_hand(
        model, vectors(delta)[0], inputs["input_ids"], inputs["attention_mask"], model.bert
    ).last_hidden_state
    first = whole if read_prompt else whole[:, P:]
    assert_close(family.forward(model), model.classifier(model.bert.pooler(first)), 1e-4)


def test_a_causal_classifier_reads_the_last_token_of_each_padded_row() -> None:
    config = transformers.LlamaConfig(**DECODER, num_labels=3)
    model: Any = transformers.LlamaForSequenceClassification(config).eval()
    delta = attached(model)
    ids, mask = batch()
    ids = ids.masked_fill(mask == 0, 0)
    whole = by_hand(model, vectors(delta)[0], ids, mask, model.model).last_hidden_state[:, P:]
    last = mask.sum(dim=1) - 1
    assert_close(model(ids, attention_mask=mask).logits, model.score(whole[torch.arange(3), last]), 1e-4)


@pytest.mark.parametrize("side", ["encoder", "both"])
def test_plain_tuples_and_everything_else_a_stack_can_answer(side: Any) -> None:
    bert: Any = build("bert")
    bert.set_attn_implementation("eager")
    ids, _ = batch()
    attached(bert)
    assert [t.shape for t in bert(ids, return_dict=False)] == [(3, 5, 32), (3, 32)]
    t5: Any = FAMILIES["t5"].model()
    t5.set_attn_implementation("eager")
    attached(t5, side=side)
    output = t5(ids, labels=ids[:, :4].contiguous(), output_attentions=True, output_hidden_states=True)
    assert {tuple(w.shape) for w in output.decoder_attentions} == {(3, 4, 4, 4)}
    assert {tuple(h.shape) for h in output.decoder_hidden_states} == {(3, 4, 32)}
    assert {tuple(w.shape) for w in output.cross_attentions} == {(3, 4, 4, 5 + P)}
    assert isinstance(t5(ids, labels=ids[:, :4].contiguous(), return_dict=False), tuple)


def test_generates_in_inference_mode_on_a_model_made_in_it() -> None:
    with torch.inference_mode():
        model: Any = transformers.LlamaForCausalLM(FAMILIES["llama"].model().config).eval()
        attached(model)
        runs = Runs(model.base_model)
        model.generate(batch()[0], max_new_tokens=3, min_new_tokens=3)
    assert runs.taken() == [(1, P), (3, 5), (3, 1), (3, 1)]


@families("gpt2")
def test_acts_beside_a_prefix_of_shifted_positions(family: Family) -> None:
    """The prefix stands before P and before the text, for both alike."""
    model: Any = family.model()
    text = (7, 8, 9)
    ids, mask = batch()
    dt.attach(model, dt.PrefixTuning(tokens=3, init_ids=text), name="prefix")
    prompt = attached(model, name="prompt")
    found = model(ids, attention_mask=mask).logits
    with dt.disabled(model):
        words = model.get_input_embeddings()(torch.tensor(text))
    expected = by_hand(model, torch.cat([words, vectors(prompt)[0]]), ids, mask).logits[:, 7:]
    assert_close(found[mask.bool()], expected[mask.bool()], 1e-4)


@families("llama", "bert")
def test_a_resumed_run_is_the_uninterrupted_one(family: Family, tmp_path: Path) -> None:
    found = {}
    for name, stops in (("whole", [4]), ("resumed", [2, 4])):
        for stop in stops:
            torch.manual_seed(0)
            model = family.model()
            delta = dt.attach(model, dt.PromptTuning(tokens=P))
            inputs = family.inputs()
            labels = {"labels": torch.tensor([0, 1, 2])} if family.name == "bert" else {"labels": inputs["input_ids"]}
            rows = [{k: v[i % 3] for k, v in {**inputs, **labels}.items()} for i in range(8)]
            args = transformers.TrainingArguments(
                output_dir=str(tmp_path / name),
                max_steps=4,
                per_device_train_batch_size=2,
                learning_rate=0.1,
                save_steps=2,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                logging_strategy="no",
            )
            trainer = dt.Trainer(model=model, args=args, train_dataset=rows)
            if stop == 2:
                trainer.add_callback(_StopAt(2))
            trainer.train(resume_from_checkpoint=stop == 4 and name == "resumed")
        found[name] = {key: tensor.clone() for key, tensor in delta.state_dict().items()}
    assert found["whole"].keys() == found["resumed"].keys()
    for key, tensor in found["whole"].items():
        assert torch.equal(found["resumed"][key], tensor), key


class _StopAt(transformers.TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@families("bert", "gpt2")
@pytest.mark.parametrize("method", [dt.PromptTuning(tokens=P), dt.PrefixTuning(tokens=P)])
def test_text_that_leaves_no_learned_positions_is_refused(family: Family, method: Any) -> None:
    model: Any = family.model()
    dt.attach(model, method)
    room = model.config.max_position_embeddings - P
    model(torch.full((1, room), 5))
    with pytest.raises(AttachError, match=rf"leaves room for the {P} rows in front of it in {room + P:,} learned"):
        model(torch.full((1, room + 1), 5))
