r"""Where a delta acts: from what a user writes to the modules it means.

A target is, in this order, a semantic name (``query``), a module name or the end of one
(``self_attn.q_proj``), or a regular expression that matches a whole module name (``.*layers\.[0-3]\..*q_proj``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from deltatune.attachment.layers import ADAPTABLE, is_adaptable, is_linear, is_quantized
from deltatune.errors import SiteError

__all__ = [
    "BANK",
    "ROLES",
    "Layers",
    "Site",
    "base_modules",
    "by_name",
    "find_modules",
    "find_sites",
    "fresh_heads",
    "head_modules",
    "is_pattern",
    "refuse_packed",
]

BANK = "deltatune"
"""The name under which a model holds its deltas; no base module is ever sought below it."""

Layers = int | str | Sequence[int | str] | None

# One pattern a role, over every family: each module name ends in one of these. They were read off the module trees
# of BERT, T5, LLaMA, Qwen, GPT-2, ViT, CLIP, DistilBERT, ALBERT, DeBERTa, ModernBERT, OPT, Phi, Falcon, BLOOM, GPT-J,
# wav2vec 2.0 and the diffusers transformers.
ROLES: dict[str, str] = {
    "query": r"(q_proj|query|query_proj|to_q|q_lin|q|q_attn)",
    "key": r"(k_proj|key|key_proj|to_k|k_lin|k)",
    "value": r"(v_proj|value|value_proj|to_v|v_lin|v)",
    "attention_output": r"(self_attn|attn\d*|attention|self_attention|[sS]elfAttention|EncDecAttention|cross_attn"
    r"|encoder_attn)\.(o_proj|out_proj|o|c_proj|out_lin|to_out\.0|output\.dense|dense|Wo)",
    "mlp_gate": r"(gate_proj|wi_0)",
    "mlp_up": r"(up_proj|wi|wi_1|c_fc|fc1|fc_in|intermediate[._]dense|lin1|ff\.net\.0\.proj|dense_h_to_4h|ffn)",
    "mlp_down": r"(down_proj|wo|mlp\.c_proj|fc2|fc_out|(?<!attention\.)output[._]dense|lin2|ff\.net\.2|dense_4h_to_h"
    r"|ffn_output|mlp\.Wo)",
}

# Projections that hold several roles in one matrix. A role can not be taken out of them: its rows share a weight, a
# file key and a merge with the others. All the roles together are the projection itself.
FUSED: dict[str, frozenset[str]] = {
    r"(c_attn|query_key_value|qkv_proj|qkv|Wqkv)": frozenset({"query", "key", "value"}),
    r"(gate_up_proj|mlp\.Wi)": frozenset({"mlp_gate", "mlp_up"}),
}

SEMANTIC = (*ROLES, "all", "all_linear", "embedding", "norm")


@dataclass(frozen=True)
class Site:
    """A module of the base where a delta acts."""

    name: str
    module: nn.Module


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The base's modules by name, without the root and without what is attached; one with two names by its first."""
    seen: set[nn.Module] = set()
    for name, child in model.named_children():
        if name != BANK:
            yield from child.named_modules(seen, prefix=name)


def find_sites(
    model: nn.Module,
    targets: str | Iterable[str],
    *,
    layers: Layers = None,
    exclude: str | Iterable[str] = (),
    fits: Callable[[nn.Module], bool] = is_adaptable,
    expected: str = ADAPTABLE,
    shared: bool = False,
) -> list[Site]:
    """The sites that ``targets`` name, in the order of the module tree.

    Args:
        model: any module tree.
        targets: semantic names, module names or their ends, or full regular expressions.
        layers: which layers to keep: indices (``0``), ranges with both ends (``"2-5"``), ``"first:4"``,
            ``"last:8"``, or several of these. Counted for each stack (encoder, decoder) on its own. Default: all.
        exclude: targets to leave out, with all that is inside them.
        fits: which kinds of module the method can act on. Default: those with a matrix.
        expected: those kinds in words, for the error.
        shared: whether a projection that holds other roles too will do, as for what only reads its input.

    Raises:
        SiteError: a target names nothing usable, or nothing is left.
    """
    modules = dict(base_modules(model))
    wanted: dict[str, None] = {}
    targets = _as_tuple(targets)
    for target in targets:
        names = _matches(model, modules, target, SEMANTIC if shared else targets)
        wanted |= dict.fromkeys(_usable(target, names, modules, fits, expected))
    dropped = {name for target in _as_tuple(exclude) for name in _matches(model, modules, target, targets)}
    keep = _layer_filter(modules, layers)
    names = [name for name in modules if name in wanted and keep(name) and not dropped & _path(name)]
    if not names:
        raise SiteError(
            f"targets {list(targets)} with layers={layers!r} and exclude={list(_as_tuple(exclude))}: expected at least "
            f"one module, found {len(wanted)} before layers and exclude and none after; widen layers or exclude less"
        )
    return [Site(name, modules[name]) for name in names]


def find_modules(model: nn.Module, names: Iterable[str]) -> list[Site]:
    """The modules of any kind with parameters that ``names`` name, for training whole modules.

    Raises:
        SiteError: a name matches no module, or one without parameters.
    """
    modules = dict(base_modules(model))
    found: dict[str, None] = {}
    for name in names:
        matches = by_name(modules, name)
        if not matches:
            raise _nothing(name, modules)
        found |= dict.fromkeys(matches)
    for name in found:
        if not any(True for _ in modules[name].parameters()):
            raise SiteError(
                f"module {name!r} ({type(modules[name]).__name__}) has no parameters to train; leave it out"
            )
    sites = [Site(name, modules[name]) for name in modules if name in found]
    refuse_packed(sites)
    return sites


def refuse_packed(sites: Iterable[Site]) -> None:
    """Refuse to train quantised modules whole.

    Raises:
        SiteError: a module, or one in it, is packed.
    """
    for site in sites:
        if any(is_quantized(module) for module in site.module.modules()):
            raise SiteError(
                f"module {site.name!r} is packed, so it can not be trained whole; load it dense (as load_base does, or "
                "by llm_int8_skip_modules of BitsAndBytesConfig), or leave it out"
            )


def fresh_heads(model: nn.Module) -> list[Site]:
    """The task head of a model that has one: what lies outside its pretrained part.

    A ``transformers`` model names its pretrained part (``base_model``). What stands beside it is a head made for a
    task, unless it is the language-model head, which is pretrained too. So a ``BertForSequenceClassification``
    has the head ``classifier`` and a ``LlamaForCausalLM`` has none.
    """
    trunk = getattr(model, "base_model", model)
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    if trunk is model or outputs is not None:
        return []
    return [
        Site(name, child)
        for name, child in model.named_children()
        if child is not trunk and name != BANK and any(True for _ in child.parameters())
    ]


def _matches(model: nn.Module, modules: dict[str, nn.Module], target: str, asked: tuple[str, ...]) -> list[str]:
    """The names that one target means, of whatever kind; a :class:`SiteError` if it means none."""
    if target in SEMANTIC:
        return _by_role(model, modules, target, asked)
    found = by_name(modules, target)
    if not found:
        raise _nothing(target, modules)
    return found


def is_pattern(target: str) -> bool:
    """Whether a target is a regular expression: it holds a character that names do not."""
    return bool(set(target) & set("\\*+?|()[]{}^$"))


def by_name(modules: Iterable[str], target: str) -> list[str]:
    """Those of the names ``modules`` that a target which is no semantic name means; none if there are none."""
    if is_pattern(target):
        try:
            pattern = re.compile(target)
        except re.error as error:
            raise SiteError(
                f"target {target!r} is no regular expression: {error}; write a module name or mend it"
            ) from None
        return [name for name in modules if pattern.fullmatch(name)]
    return [name for name in modules if name == target or name.endswith("." + target)]


def _by_role(model: nn.Module, modules: dict[str, nn.Module], role: str, asked: tuple[str, ...]) -> list[str]:
    if role == "all":
        fresh = {module for head in fresh_heads(model) for module in head.module.modules()}
        found = [name for name, module in modules.items() if module not in fresh]
    elif role == "all_linear":
        heads = head_modules(model)
        found = [name for name, module in modules.items() if is_linear(module) and module not in heads]
    elif role == "embedding":
        found = _input_embeddings(model, modules)
    elif role == "norm":
        leaves = {name: module for name, module in modules.items() if not any(module.children())}
        found = [name for name, module in leaves.items() if "norm" in type(module).__name__.lower()]
    else:
        found = _projections(modules, ROLES[role]) or _fused(modules, role, asked)
    if not found:
        raise SiteError(
            f"target {role!r}: expected modules of that role in {type(model).__name__}, found none; "
            f"name modules instead, such as {_examples(modules)}"
        )
    return found


def _projections(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    ends = re.compile(rf"(.*\.)?{pattern}")
    return [name for name, module in modules.items() if is_linear(module) and ends.fullmatch(name)]


def _fused(modules: dict[str, nn.Module], role: str, asked: tuple[str, ...]) -> list[str]:
    for pattern, roles in FUSED.items():
        found = _projections(modules, pattern) if role in roles else []
        if found and not roles <= set(asked):
            leaf = found[0].rpartition(".")[2]
            raise SiteError(
                f"target {role!r}: this model keeps {', '.join(sorted(roles))} in one matrix, {leaf!r} ({len(found)} "
                f"of them), so one alone can not be adapted; target {leaf!r}, or all of {', '.join(sorted(roles))}"
            )
        if found:
            return found
    return []


def _input_embeddings(model: nn.Module, modules: dict[str, nn.Module]) -> list[str]:
    """The module that turns token ids into vectors.

    Where stacks hold modules of their own over the same weight (T5's encoder and decoder), those are what is called
    and the table that ``get_input_embeddings`` answers is only their shared name. A model of several towers (CLIP) has
    no one answer, but the tower that reads text has.
    """
    tables = {name: module for name, module in modules.items() if isinstance(module, nn.Embedding)}
    table = _table(model)
    if table is not None:
        same = [name for name, module in tables.items() if module.weight is table.weight]
        return [name for name in same if tables[name] is not table] or same
    answers = [table for table in map(_table, modules.values()) if table is not None]
    return [name for name, module in tables.items() if module in answers or not answers]


def _table(model: nn.Module) -> nn.Embedding | None:
    try:
        table = getattr(model, "get_input_embeddings", lambda: None)()
    except (AttributeError, NotImplementedError):
        return None
    return table if isinstance(table, nn.Embedding) else None


def head_modules(model: nn.Module) -> set[nn.Module]:
    """Every module of the model's head, made for a task or for language modelling."""
    heads = {module for head in fresh_heads(model) for module in head.module.modules()}
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    return heads | ({outputs} if outputs is not None else set())


def _usable(
    target: str,
    names: list[str],
    modules: dict[str, nn.Module],
    fits: Callable[[nn.Module], bool],
    expected: str,
) -> list[str]:
    usable = [name for name in names if fits(modules[name])]
    if usable:
        return usable
    kinds = sorted({type(modules[name]).__name__ for name in names})
    found = " and ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")
    inside = [n for n, m in modules.items() if n.startswith(names[0] + ".") and fits(m)]
    hint = f"target its modules, such as {inside[0]!r}" if inside else "choose a module of such a kind"
    raise SiteError(f"target {target!r} is {found}, expected {expected}; {hint}")


def _path(name: str) -> set[str]:
    """The names of a module and of all that it is inside of."""
    steps = name.split(".")
    return {".".join(steps[:n]) for n in range(1, len(steps) + 1)}


def _nothing(target: str, modules: dict[str, nn.Module]) -> SiteError:
    ends = {".".join(name.split(".")[-n:]) for name in modules for n in (1, 2)}
    near = difflib.get_close_matches(target, sorted(ends | set(SEMANTIC)), n=4, cutoff=0.4)
    near = near or [example.strip("'") for example in _examples(modules).split(", ")]
    return SiteError(f"target {target!r} matches no module; the nearest names are {', '.join(map(repr, near))}")


def _examples(modules: dict[str, nn.Module]) -> str:
    leaves = dict.fromkeys(name.rpartition(".")[2] for name, module in modules.items() if is_linear(module))
    return ", ".join(repr(leaf) for leaf in list(leaves)[:6]) or "(no linear module exists)"


def _layer_filter(modules: dict[str, nn.Module], layers: Layers):  # type: ignore[no-untyped-def]
    """A predicate on module names. A layer's number is the first number in a name, counted within what precedes it."""
    if layers is None:
        return lambda name: True
    depth: dict[str, int] = {}
    for name in modules:
        if place := _layer_of(name):
            depth[place[0]] = max(depth.get(place[0], 0), place[1] + 1)
    if not depth:
        raise SiteError(f"layers={layers!r}: expected numbered layers, found none in this model; leave layers out")
    specs = [layers] if isinstance(layers, (int, str)) else list(layers)
    chosen = {stack: set().union(*(_layer_range(spec, count) for spec in specs)) for stack, count in depth.items()}
    if not any(chosen.values()):
        raise SiteError(
            f"layers={layers!r}: expected layers among {_describe(depth)}, found none; choose numbers below"
        )
    return lambda name: (place := _layer_of(name)) is not None and place[1] in chosen[place[0]]


def _layer_of(name: str) -> tuple[str, int] | None:
    found = re.match(r"(.*?)\.?\b(\d+)(?:\.|$)", name)
    return (found[1], int(found[2])) if found else None


def _layer_range(spec: int | str, count: int) -> set[int]:
    if isinstance(spec, int):
        return {spec if spec >= 0 else count + spec} & set(range(count))
    if found := re.fullmatch(r"(first|last):(\d+)", spec):
        number = min(int(found[2]), count)
        return set(range(number)) if found[1] == "first" else set(range(count - number, count))
    if found := re.fullmatch(r"(\d+)(?:-(\d+))?", spec):
        return set(range(int(found[1]), int(found[2] or found[1]) + 1)) & set(range(count))
    raise SiteError(f"layers: expected a number, 'a-b', 'first:n' or 'last:n', found {spec!r}")


def _describe(depth: dict[str, int]) -> str:
    return ", ".join(f"{stack} 0-{count - 1}" for stack, count in depth.items())


def _as_tuple(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
