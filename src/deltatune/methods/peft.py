r"""Any method of Hugging Face PEFT (https://github.com/huggingface/peft), by its config.

:math:`y = f_\theta(x; W_0)` with f what PEFT's own layer computes, :math:`\theta` what it trains, and W₀ the frozen
parameters of the site. What starts, trains and is saved is as PEFT has it, and so are the files.

PEFT replaces modules of a model. Here it is given a *shell* instead: a copy of the module tree that shares the base's
memory. The layers that it puts into the shell are taken out again, one for each site, and what they wrap is exchanged
for a view of the live module. So the base keeps its modules, any number of such deltas can be attached, and each acts
beside all others. If a site's other deltas have changed its output, what PEFT's layer changes of the base's own answer
is added to theirs.

A layer that computes from another input than the site's (OFT turns it) costs the base's product twice; others reuse it.

What PEFT does outside of its layers has no place here, and is refused when it shows: prompts, forward passes of its
own, hooks, modules of other kinds, and changes of the base's weights. What else a method can do is found by trying,
see :func:`deltatune.capabilities`.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Params, Part, bare_copy
from deltatune.attachment.sites import BANK, find_modules, find_sites
from deltatune.errors import AttachError, ConfigError, FileFormatError, MergeError
from deltatune.io.peft_layout import PREFIX, from_keys, to_keys
from deltatune.methods.base import Method, check, inside
from deltatune.methods.lora import lies_transposed

if TYPE_CHECKING:
    import peft

__all__ = ["PeftMethod"]

ADAPTER = "default"

# Entries of a config that say where it was made or what to do with it, not what it computes.
_NO_SETTINGS = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision")


@dataclass(frozen=True)
class PeftMethod(Method):
    """A method of Hugging Face PEFT. ``dt.attach(model, config)`` makes one where deltatune has no such method itself.

    Args:
        config: a ``PeftConfig``, or its entries as plain data, with ``peft_type``.
        targets: deltatune's targets, instead of the config's ``target_modules``. Default: the config's.
        train_also: as for every method. Default: the config's ``modules_to_save``; without, a fresh head.

    Raises:
        ConfigError: PEFT refuses the config, or the method has no layers to attach.
    """

    key: ClassVar[str] = "peft"
    is_whole_in_file: ClassVar[bool] = False
    reads_the_rest: ClassVar[bool] = True

    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "config", _plain(self.config))
        placed = self.layers is None and not self.exclude
        check(placed or bool(self.targets), "peft.targets", "targets, if layers or exclude are given", self.targets)
        if self.train_also is None and self.config.get("modules_to_save"):
            object.__setattr__(self, "train_also", tuple(self.config["modules_to_save"]))
        if self.peft_settings().is_prompt_learning:
            raise ConfigError(
                f"peft: expected a method that adds layers, found {self.config['peft_type']}, which prepends to the "
                "input; use a prompt method of deltatune, or PEFT itself"
            )

    def peft_settings(self) -> peft.PeftConfig:
        """The config as PEFT's own object, without what deltatune does in its place."""
        from peft import PeftConfig

        try:
            config: peft.PeftConfig = PeftConfig.from_peft_type(**copy.deepcopy(dict(self.config)))
        except Exception as error:  # PEFT's checks raise whatever they find fit
            raise ConfigError(f"peft: expected a config that PEFT takes, found {_said(error)}; mend it") from None
        for name, value in {"task_type": None, "modules_to_save": None, "inference_mode": False}.items():
            if hasattr(config, name):
                setattr(config, name, value)
        return config

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        config: Any = self.peft_settings()
        if self.targets:
            sites = find_sites(model, self.targets, layers=self.layers, exclude=self.exclude)
            config.target_modules = [site.name for site in sites]
            if hasattr(config, "fan_in_fan_out"):
                config.fan_in_fan_out = any(lies_transposed(site.module) for site in sites)
        whole = tuple(site.name for site in find_modules(model, self.train_also)) if self.train_also else ()
        only_shapes = device == torch.device("meta")
        if only_shapes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when the parts are made for good
                try:
                    return dict(_parts(model, config, whole, only_shapes=True))
                except AttachError:  # not every tuner can do without memory
                    return dict(_parts(model, config, whole, only_shapes=False))
        parts = _parts(model, config, whole, only_shapes=False)
        return {site: part.to(device) if device is not None else part for site, part in parts.items()}

    def pack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        lead = _lead(delta)
        own = {f"{lead}.{key}": key for key in dict(delta.items())[lead].shapes()}
        rest = {name: tensor for name, tensor in tensors.items() if name not in own}
        return {own[name]: tensor for name, tensor in tensors.items() if name in own} | to_keys(rest)

    def unpack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        lead = _lead(delta)
        whole = {f"{PREFIX}{site}." for site, part in delta.items() if not isinstance(part, PeftPart)}
        rest = {key for key in tensors if any(key.startswith(site) for site in whole)}
        own = {f"{lead}.{key}": tensor for key, tensor in tensors.items() if key not in rest}
        return own | from_keys({key: tensors[key] for key in rest})

    def after_step(self, delta: Delta, step: Any) -> None:
        """Some tuners share out a budget after each step, on request."""
        for _, part in delta.items():
            if isinstance(part, PeftPart) and part.tuned is not None:
                allocate = getattr(part.tuned.base_model, "update_and_allocate", None)
                if allocate is not None:
                    allocate(step.number)

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        parts = {site: part for site, part in delta.items() if isinstance(part, PeftPart)}
        tuned = parts[_lead(delta)].tuned
        assert tuned is not None
        config = _plain(tuned.peft_config[ADAPTER].to_dict(), defaults=True)
        config["task_type"] = self.config.get("task_type")
        for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
            if name in config:
                config[name] = None  # the sites are named one by one
        left_to_us = ("modules_to_save", *_NO_SETTINGS)
        return {k: v for k, v in config.items() if k not in left_to_us} | {"target_modules": list(parts)}

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> PeftMethod | None:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        if config.get("peft_type") not in [kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING]:
            return None
        return cls(config=config, train_also=tuple(config.get("modules_to_save") or ()))


def _plain(config: Any, *, defaults: bool = False) -> dict[str, Any]:
    """The entries of a config as plain data; without those that only repeat PEFT's defaults, unless asked for."""
    entries = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    kind = entries.get("peft_type")
    check(kind is not None, "peft.config", "a PeftConfig, or its entries with peft_type", config)
    found = {name: _as_data(name, value) for name, value in entries.items() if name not in _NO_SETTINGS}
    if defaults:
        return found
    known = _defaults(found["peft_type"])
    unknown = [name for name in found if name not in known]
    check(not unknown, "peft.config", "entries that PEFT knows", unknown, "upgrade PEFT, or remove them")
    return {name: value for name, value in found.items() if name == "peft_type" or known[name] != value}


def _defaults(kind: str) -> dict[str, Any]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {known.value: cls for known, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    check(kind in kinds, "peft.config: peft_type", f"one of {', '.join(kinds)}", kind)
    known = {}
    for each in dataclasses.fields(kinds[kind]):
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        known[each.name] = ... if default is dataclasses.MISSING else _as_data(each.name, default)
    return known


def _as_data(name: str, value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_as_data(name, each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _as_data(name, each) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _as_data(name, dataclasses.asdict(value))
    plain = value is None or isinstance(value, (str, int, float, bool))
    check(plain, f"peft.config: {name}", "plain data, which can be saved", value)
    return value


def _lead(delta: Delta) -> str:
    return next(site for site, part in delta.items() if isinstance(part, PeftPart))


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _parts(
    model: nn.Module, config: peft.PeftConfig, whole: tuple[str, ...], *, only_shapes: bool
) -> dict[str, PeftPart]:
    """Let PEFT put its layers into a shell of the model, and take them out of it again."""
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

    kind = f"peft {getattr(config.peft_type, 'value', config.peft_type)} on {type(model).__name__}"
    # A start that PEFT is asked for may be computed in the base's own memory: it gets other memory then.
    known = _defaults(str(getattr(config.peft_type, "value", config.peft_type)))
    asked = any(name.startswith("init_") and getattr(config, name) != default for name, default in known.items())
    shell, parameters = _shell(model, copied=asked)
    former = {} if asked else {name: _digest(alias) for name, alias in parameters.items()}
    before = {name: module for name, module in shell.named_modules() if name}
    try:
        tuned: Any = get_peft_model(shell, config, ADAPTER, low_cpu_mem_usage=only_shapes)
    except Exception as error:  # PEFT raises whatever it finds fit
        raise AttachError(f"{kind}: expected PEFT to attach it, found {_said(error)}; change its config") from None
    layers: dict[str, Any] = {
        name: module
        for name, module in shell.named_modules()
        if isinstance(module, BaseTunerLayer) and not _is_under(name.rpartition(".")[0], shell, BaseTunerLayer)
    }
    layers = {name: layer for name, layer in layers.items() if not any(inside(name, site) for site in whole)}

    def refuse(what: str) -> None:
        raise AttachError(f"{kind}: expected layers in place of modules alone, found {what}; use PEFT itself for it")

    if not layers:
        refuse("no layer")
    tuner = tuned.base_model
    if type(tuner).forward is not BaseTuner.forward:
        refuse("a forward pass of its own")
    for name, module in before.items():
        if not any(inside(name, site) for site in (*layers, *whole)) and not _holds(shell, name, module):
            refuse(f"{name} exchanged for another module")
        if module._forward_hooks or module._forward_pre_hooks:
            refuse(f"a hook on {name}")
    for name, alias in parameters.items():
        live = model.get_parameter(name)
        if former.get(name) not in (None, _digest(live)):
            refuse(f"{name} of the base changed in place, so load the base again;")
        if alias.data_ptr() != live.data_ptr() and not (asked and torch.equal(alias, live)):
            refuse(f"{name} of the base changed")
        if alias is not live and alias.requires_grad:
            refuse(f"{name} of the base to be trained")

    for name, layer in layers.items():
        _set_on(layer, model.get_submodule(name))
    _strip(shell, "", set(layers))
    parts = {name: PeftPart(layer) for name, layer in layers.items()}
    next(iter(parts.values())).lead(tuned)
    return parts


def _shell(model: nn.Module, *, copied: bool) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A copy of the module tree, with parameters of its own in the base's memory, or in other; and these, by name."""
    base = _view(model)
    base._modules = {name: child for name, child in model._modules.items() if name != BANK}
    memo: dict[int, Any] = {id(buffer): buffer for buffer in base.buffers()}
    parameters: dict[str, nn.Parameter] = {}
    for name, live in base.named_parameters():
        alias = live
        if type(live) is nn.Parameter:  # a packed one is of another class
            alias = nn.Parameter(live.data.clone() if copied else live.data, requires_grad=False)
        memo[id(live)] = parameters[name] = alias
    shell = bare_copy(base, memo)
    for module in shell.modules():
        if getattr(module, "gradient_checkpointing", False):
            vars(module)["gradient_checkpointing"] = False  # PEFT would hook the embeddings for it
    return shell, parameters


def _digest(parameter: Tensor) -> int | None:
    """The sum of the bits, which any change changes."""
    if parameter.is_meta or not parameter.numel():
        return None
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
    return int(parameter.detach().contiguous().reshape(-1).view(bits).sum(dtype=torch.int64))


def _is_under(name: str, shell: nn.Module, kind: type) -> bool:
    while name:
        if isinstance(shell.get_submodule(name), kind):
            return True
        name = name.rpartition(".")[0]
    return False


def _holds(model: nn.Module, name: str, module: nn.Module) -> bool:
    try:
        return model.get_submodule(name) is module
    except AttributeError:
        return False


def _set_on(layer: nn.Module, module: nn.Module) -> Answer:
    """Let a layer of PEFT wrap a view of ``module``, which is no child of it."""
    inner: Any = layer
    while "base_layer" in inner._modules and "base_layer" in inner._modules["base_layer"]._modules:
        inner = inner._modules["base_layer"]
    inner._modules.pop("base_layer", None)
    view = vars(inner)["base_layer"] = _view(module)
    answer = vars(view)["forward"] = Answer(view, vars(module).get("forward"))
    return answer


def _view(module: nn.Module) -> nn.Module:
    """Another module of the same kind with the same parameters, now and later, and without hooks."""
    view = copy.copy(module)
    for name, value in list(vars(view).items()):
        if "hooks" in name and isinstance(value, dict):
            vars(view)[name] = type(value)()
    return view


def _strip(module: nn.Module, prefix: str, layers: set[str]) -> None:
    """Leave of a tree what leads to ``layers``."""
    module._parameters.clear()
    module._buffers.clear()
    for name, child in list(module.named_children()):
        whole = prefix + name
        if whole not in layers:
            if any(layer.startswith(whole + ".") for layer in layers):
                _strip(child, whole + ".", layers)
            else:
                delattr(module, name)


class Answer:
    """Stands in for the forward pass of a view: what is known is not computed again."""

    def __init__(self, view: nn.Module, patched: Any = None) -> None:
        self.view, self.patched = view, patched
        self.known: tuple[Tensor, Tensor] | None = None
        """An input and the site's output for it."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.known is not None and x is self.known[0]:
            return self.known[1].clone()  # PEFT's layers add to it in place
        if self.patched is not None:
            return self.patched(x, *args, **kwargs)
        return type(self.view).forward(self.view, x, *args, **kwargs)


class PeftPart(Part):
    """A layer of PEFT at one site. The first part of a delta leads: it has what all layers share, and the file."""

    answers_anew = True
    is_linear = True  # on weights, where it can be merged

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.shared = nn.ModuleDict()
        self._tuned: tuple[Any, ...] = ()

    def lead(self, tuned: Any) -> None:
        """Take charge of PEFT's model, of which the layers and what they share are left."""
        self._tuned = (tuned,)  # no child: its layers are those of the parts
        self.shared.update({name: child for name, child in tuned.base_model.named_children() if name != "model"})

    @property
    def tuned(self) -> Any:
        """PEFT's model; ``None`` but for the part that leads."""
        return self._tuned[0] if self._tuned else None

    @property
    def base(self) -> Any:
        """The view of the site that the layer wraps."""
        return self.layer.get_base_layer()  # type: ignore[operator]

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        answer = vars(self.base)["forward"]
        answer.known = x, out
        try:
            y = self.layer(x)
        finally:
            answer.known = None
        return (y[0] if isinstance(y, tuple) else y).to(out.dtype)  # type: ignore[no-any-return]

    def shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self._file().items()}

    def export(self, module: nn.Module) -> Params:
        seen: set[int] = set()
        tensors: Params = {}
        for name, tensor in self._file().items():  # PEFT writes what layers share for each of them
            tensors[name] = tensor.detach().clone() if tensor.data_ptr() in seen else tensor.detach()
            seen.add(tensor.data_ptr())
        return tensors

    def _file(self) -> Params:
        from peft import get_peft_model_state_dict

        if self.tuned is None:
            return {}
        return get_peft_model_state_dict(self.tuned, adapter_name=ADAPTER, save_embedding_layers=False)  # type: ignore[no-any-return]

    def restore(self, module: nn.Module, tensors: Params) -> None:
        from peft import set_peft_model_state_dict

        if self.tuned is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it would not find in the file; that has been checked
                done: Any = set_peft_model_state_dict(self.tuned, tensors, adapter_name=ADAPTER)
            if done.unexpected_keys:
                raise FileFormatError(
                    f"{done.unexpected_keys[0]}: expected a tensor that PEFT takes, found one it does not; "
                    "load the file with the version of PEFT that wrote it"
                )

    @torch.no_grad()
    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        bare = {name: p.detach().to(params[name].dtype) for name, p in module.named_parameters()}
        merged = self._merged(module, bare)
        lone = all(torch.equal(params[name], value) for name, value in bare.items())
        if lone and weight == 1.0:
            return params | merged
        return params | {name: params[name] + weight * (value - bare[name]) for name, value in merged.items()}

    def _merged(self, module: nn.Module, params: Params) -> Params:
        """The parameters after PEFT's own merge into a copy."""
        scratch = _view(module)
        scratch._parameters = {
            name: nn.Parameter(params[name].clone(), requires_grad=False) if name in params else None
            for name in module._parameters
        }
        layer: Any = copy.deepcopy(self.layer, {id(self.base): scratch})
        for own in layer.parameters():
            own.data = own.data.to(next(iter(params.values())).dtype)
        try:
            layer.merge(safe_merge=False, adapter_names=[ADAPTER])
        except Exception as error:  # PEFT raises whatever it finds fit
            raise MergeError(
                f"{type(self.layer).__name__}: expected PEFT to merge it, found {_said(error)}; keep it attached"
            ) from None
        if not layer.merged_adapters:
            raise MergeError(
                f"{type(self.layer).__name__}: expected PEFT to merge it, found it does not; keep it attached"
            )
        return {name: p.detach() for name, p in layer.get_base_layer().named_parameters() if name in params}
