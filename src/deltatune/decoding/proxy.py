r"""Proxy-tuning: a model steered at decoding by what tuning did to a smaller one (Liu et al. 2024).

.. math:: p(x_t \mid x_{<t}) = \mathrm{softmax}\left[s_{M}(x_t) + \alpha\,(s_{M^+}(x_t) - s_{M^-}(x_t))\right]

``s`` are logits, :math:`M` the base, :math:`M^+` the expert, a small model that was tuned, and :math:`M^-` the
anti-expert, the same small model untuned. With :math:`\alpha=0`, and where both experts agree, it is the base; with
:math:`M^-=M` and :math:`\alpha=1` it is the expert. https://arxiv.org/abs/2401.08565, equation 1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.attachment.lifecycle import deltas
from deltatune.decoding.alpha import Alpha, alpha_at, check_alpha
from deltatune.decoding.sides import Caches, Inputs, Side, arguments_of, passes, run
from deltatune.decoding.vocabulary import Matching, match
from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from deltatune.decoding.report import Explanation
    from deltatune.io.bases import Base

__all__ = ["ProxyTuned", "ProxyTunedConfig", "expert_sides", "parts_of"]


_PROMPT: ContextVar[int | None] = ContextVar("prompt", default=None)
"""How many tokens the prompt has from which ``generate`` goes on."""


class ProxyTunedConfig(PreTrainedConfig):
    """What ``generate`` has to know of a model that is three."""

    model_type = "proxy-tuned"


class ProxyTuned(PreTrainedModel, GenerationMixin):
    """A base steered by an expert and an anti-expert, as one model that ``generate`` takes.

    Greedy, sampling, beams, batches padded on the left, stop strings and streamers work as of any model; temperature,
    top-p and penalties act on the combined logits. Logits are combined in float32, or float64 if the base's are. Each
    of the three keeps its cache. Two states of one model, a delta on and off, run as one batch.

    Args:
        base: the model to steer, or what ``dt.load_base`` gives. A causal language model.
        expert: the small model that was tuned, or the base itself.
        antiexpert: the small model untuned. Default: the expert with its deltas off.
        alpha: how strongly to steer: a number, one for each written token (the last holds on), or a function of the
            token's number. Default: 1.0, as in the paper.
        delta: without an anti-expert, the delta or deltas that make the expert one. Default: all that it has.
        vocabulary: ``"same"``: the three must have one. ``"map"``: match tokens by how they are written; the others
            are not steered. Default: ``"same"``.
        tokenizers: of base, expert and anti-expert, to compare vocabularies by. Default: those of ``dt.load_base``
            where it gave the models; without them only sizes are compared.

    Attributes:
        vocabulary: how the experts' tokens lie in the base's, with the ``share`` that they have.

    Raises:
        AttachError: without an anti-expert, the expert has no such delta.
        ConfigError: the vocabularies differ, alpha is no finite number, or a model does not write from left to right.
    """

    config_class = ProxyTunedConfig
    main_input_name = "input_ids"

    def __init__(
        self,
        base: PreTrainedModel | Base,
        expert: PreTrainedModel | Base,
        antiexpert: PreTrainedModel | Base | None = None,
        *,
        alpha: Alpha = 1.0,
        delta: str | Sequence[str] | None = None,
        vocabulary: Matching = "same",
        tokenizers: Sequence[Any] = (),
    ) -> None:
        given = [parts_of(each) for each in (base, expert, expert if antiexpert is None else antiexpert)]
        models = [model for model, _ in given]
        known = [*tokenizers, None, None, None]
        known = [own if own is not None else found for own, (_, found) in zip(known, given, strict=False)]
        if known[2] is None and models[2] is models[1]:
            known[2] = known[1]
        for name, model in zip(("base", "expert", "antiexpert"), models, strict=True):
            if model.config.is_encoder_decoder or not model.can_generate():
                raise ConfigError(
                    f"{name}: expected a model that writes from left to right, found {type(model).__name__}; load one "
                    "for causal-lm"
                )
        check_alpha(alpha)
        super().__init__(_config(models[0]))
        self.base, self.expert, self.antiexpert = models
        self.alpha = alpha
        self.tokenizer = known[0]
        self.names = None if delta is None else (delta,) if isinstance(delta, str) else tuple(delta)
        self.has_antiexpert = antiexpert is not None
        self._sides()
        sizes = [model.config.get_text_config(decoder=True).vocab_size for model in models]
        self.vocabulary = match((sizes[0], sizes[1], sizes[2]), (known[0], known[1], known[2]), vocabulary)
        self.generation_config = copy.deepcopy(models[0].generation_config)
        self.generation_config.cache_implementation = None
        self.training = models[0].training

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Caches | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        expert_input_ids: Tensor | None = None,
        expert_attention_mask: Tensor | None = None,
        step: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """The combined logits.

        Args:
            input_ids: ``[batch, tokens]``, in the base's vocabulary; those that the cache does not hold.
            attention_mask: ``[batch, tokens and those in the cache]``. Default: nothing is padding.
            position_ids: ``[batch or 1, tokens]``. Default: as each model counts.
            past_key_values: the caches of all three, to go on from and to add to.
            use_cache: whether to answer with the caches. Default: if there are any.
            logits_to_keep: the last so many columns (0 is all), or these.
            expert_input_ids: what the expert reads in place of ``input_ids``.
            expert_attention_mask: the mask that goes with it.
            step: the number of the token that the last column predicts, for an alpha that changes.
            return_dict: is always taken as true.

        Returns:
            ``logits`` ``[batch, kept, tokens of the base's vocabulary]`` and ``past_key_values``.

        Raises:
            ConfigError: the cache is none of this model's.
        """
        if past_key_values is not None and not isinstance(past_key_values, Caches):
            raise ConfigError(
                f"past_key_values: expected the cache of a proxy-tuned model, found {type(past_key_values).__name__}; "
                "leave it out"
            )
        caches = Caches() if use_cache and past_key_values is None else past_key_values
        own = None if expert_input_ids is None else (expert_input_ids, expert_attention_mask)
        base, expert, antiexpert = self.logits(
            Inputs(input_ids, attention_mask, position_ids), own, caches, logits_to_keep
        )
        combined = base + self.alphas(base.shape[1], step, logits_to_keep, base) * self.vocabulary.difference(
            expert, antiexpert
        )
        return CausalLMOutputWithPast(logits=combined, past_key_values=caches)

    def logits(
        self,
        given: Inputs,
        own: tuple[Tensor, Tensor | None] | None = None,
        caches: Caches | None = None,
        keep: int | Tensor = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of base, expert and anti-expert, each in its vocabulary, on the base's device, in float32 or more.

        Args:
            given: what the base reads.
            own: what the expert reads in its place, and the mask. Default: the same.
            caches: to go on from and to add to.
            keep: the columns wanted.
        """
        theirs = Inputs(self.vocabulary.ids(given.ids), given.mask, given.positions)
        experts = theirs if own is None else Inputs(self.vocabulary.ids(own[0]), own[1], _positions(*own))
        sides = self._sides(own is not None)
        found = run(sides, [given, experts, theirs if sides[2].model is not sides[0].model else given], caches, keep)
        precision = torch.promote_types(found[0].dtype, torch.float32)
        base, expert, antiexpert = (each.to(device=found[0].device, dtype=precision) for each in found)
        return base, expert, antiexpert

    def alphas(self, columns: int, step: int, keep: int | Tensor, like: Tensor) -> Tensor | float:
        """The strength in each column of logits, of which the last predicts the token ``step``."""
        if isinstance(self.alpha, (int, float)):
            return float(self.alpha)
        if not isinstance(keep, int):
            raise ConfigError("logits_to_keep: expected a number beside an alpha that changes, found columns")
        steps = range(step - columns + 1, step + 1)
        return like.new_tensor([alpha_at(self.alpha, number) for number in steps])[:, None]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        *,
        expert_input_ids: Tensor | None = None,
        expert_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What ``generate`` gives to :meth:`forward` for the next token; all of ``input_ids`` has been read or written.

        Args:
            input_ids: ``[batch, tokens]``.
            expert_input_ids: the expert's own prompt.
            expert_attention_mask: its mask. Default: nothing is padding.
            **kwargs: as for any model.
        """
        given: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[arg-type, misc]
        # Some settings of writing, such as the tokenizer that stop strings need, come this way too.
        inputs = {name: value for name, value in given.items() if name in arguments_of(type(self).forward)}
        prompt = _PROMPT.get() or input_ids.shape[1]
        inputs["step"] = input_ids.shape[1] - prompt
        if expert_input_ids is not None:
            written = input_ids[:, prompt:]
            mask = torch.ones_like(expert_input_ids) if expert_attention_mask is None else expert_attention_mask
            ids = torch.cat([expert_input_ids, written.to(expert_input_ids.device)], dim=1)
            caches = kwargs.get("past_key_values")
            seen = 0 if caches is None else caches.length(self._number_of_expert())
            inputs["expert_input_ids"] = ids[:, seen:]
            inputs["expert_attention_mask"] = torch.cat([mask, mask.new_ones(written.shape)], dim=1)
        return inputs

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any
    ) -> Any:
        """As of any model of `transformers`, with two arguments more.

        Args:
            inputs: ``[batch, tokens]``; or pass ``input_ids``.
            generation_config: the settings. Default: the base's own.
            **kwargs: further settings, a streamer and so on. ``expert_input_ids`` ``[batch, other tokens]``, padded on
                the left, with ``expert_attention_mask``, is a prompt for the expert alone, such as one with a chat
                template; base and anti-expert read ``inputs``.

        Raises:
            ConfigError: the expert's own prompt is to come in chunks, or another kind of cache is asked for.
        """
        ids = kwargs.get("input_ids") if inputs is None else inputs
        settings = generation_config or self.generation_config

        def setting(name: str) -> Any:
            return kwargs.get(name, getattr(settings, name, None))

        if (kind := setting("cache_implementation")) not in (None, "dynamic"):
            raise ConfigError(f"cache_implementation: expected none, found {kind!r}; leave it out: caches grow")
        if kwargs.get("expert_input_ids") is not None and setting("prefill_chunk_size") is not None:
            raise ConfigError("prefill_chunk_size: expected none beside expert_input_ids, found one; leave it out")
        if setting("use_cache") is not False and kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = Caches()
            kwargs.pop("cache_implementation", None)
        former = _PROMPT.set(None if ids is None else ids.shape[1])
        try:
            return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]
        finally:
            _PROMPT.reset(former)

    def explain(self, ids: Tensor, prompt_tokens: int, **own: Tensor) -> Explanation:
        """What steering changed at each written token; see :func:`deltatune.decoding.report.explain`.

        Args:
            ids: the prompt and what was written, ``[tokens]`` or ``[1, tokens]``, without padding.
            prompt_tokens: how many of them are the prompt.
            **own: ``expert_input_ids``, if the expert had a prompt of its own.
        """
        from deltatune.decoding.report import explain

        return explain(self, ids, prompt_tokens, **own)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused: it has no weights of its own.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("ProxyTuned: expected weights of its own to save, found none; save its models and deltas")

    def get_input_embeddings(self) -> Any:
        """The base's."""
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """None: no one matrix gives these logits."""
        return None

    def _sides(self, own: bool = False) -> tuple[Side, Side, Side]:
        expert, antiexpert = expert_sides(self.expert, self.antiexpert if self.has_antiexpert else None, self.names)
        # On the base itself, a delta makes the expert, and the base is what it was without.
        base = antiexpert if self.base is expert.model and not self.has_antiexpert else Side(self.base)
        return base, Side(expert.model, expert.off, own), antiexpert

    def _number_of_expert(self) -> int:
        sides = self._sides(own=True)
        return next(number for number, each in enumerate(passes(sides)) if sides[1] in each.sides)


def parts_of(given: Any) -> tuple[Any, Any]:
    """The model and the tokenizer, where it is known, of a model or of what ``dt.load_base`` gives."""
    from deltatune.io.bases import Base

    return (given.model, given.tokenizer) if isinstance(given, Base) else (unwrap(given), None)


def expert_sides(expert: Any, antiexpert: Any, names: Sequence[str] | None) -> tuple[Side, Side]:
    """Expert and anti-expert: two models, or one with deltas on and off.

    Raises:
        AttachError: the expert has no such delta, or none at all.
        ConfigError: deltas are named beside an anti-expert.
    """
    if antiexpert is not None:
        if names is not None:
            raise ConfigError("delta: expected none beside an anti-expert, found one; leave either out")
        return Side(expert), Side(antiexpert)
    bank = bank_of(expert)
    off = frozenset(bank[name].name for name in (deltas(expert) if names is None else names))
    return Side(expert), Side(expert, off)


def _config(base: Any) -> ProxyTunedConfig:
    """What of the base's settings concerns writing."""
    text = base.config.get_text_config(decoder=True)
    names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")
    return ProxyTunedConfig(**{name: getattr(text, name) for name in names if getattr(text, name, None) is not None})


def _positions(ids: Tensor, mask: Tensor | None) -> Tensor | None:
    """Where the tokens stand, from the mask of the whole text."""
    if mask is None:
        return None
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
