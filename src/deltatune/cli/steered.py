"""Proxy-tuning from the command line: a base, here or behind an API, steered by an expert."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.verb import note
from deltatune.errors import ConfigError
from deltatune.train.opening import open_model

if TYPE_CHECKING:
    from deltatune.decoding.black_box import BlackBox
    from deltatune.io.bases import Base

__all__ = ["Alpha", "Antiexpert", "Api", "ApiCache", "ApiKey", "ApiTop", "Expert", "ExpertDeltas", "Map", "Steering"]

_PANEL = "Proxy-tuning"
Expert = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", rich_help_panel=_PANEL, help="Steer by this small model: a run's folder, a delta's, or a base."
    ),
]
ExpertDeltas = Annotated[
    list[str],
    typer.Option(metavar="DELTA", rich_help_panel=_PANEL, help="Put this delta on the expert; may be repeated."),
]
Antiexpert = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", rich_help_panel=_PANEL, help="The small model untuned. Default: the expert without deltas."
    ),
]
Alpha = Annotated[
    float | None, typer.Option(metavar="X", rich_help_panel=_PANEL, help="How strongly to steer. Default: 1.")
]
Map = Annotated[
    bool, typer.Option("--map", rich_help_panel=_PANEL, help="Let vocabularies differ; match tokens by their text.")
]
Api = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=_PANEL,
        help="MODEL is behind this OpenAI-compatible API, such as http://localhost:8000/v1; prompts are plain text.",
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key-variable", metavar="NAME", rich_help_panel=_PANEL, help="The environment variable with the key."
    ),
]
ApiCache = Annotated[
    Path | None, typer.Option(metavar="FOLDER", rich_help_panel=_PANEL, help="Keep the API's answers here.")
]
ApiTop = Annotated[
    int, typer.Option(metavar="N", min=1, rich_help_panel=_PANEL, help="How many tokens to ask the API for.")
]


@dataclass(frozen=True)
class Steering:
    """What is to steer, as it was asked for."""

    expert: str | None
    expert_deltas: Sequence[str]
    antiexpert: str | None
    alpha: float | None
    map: bool

    def check(self, api: str | None) -> None:
        """Refuse options that say nothing without an expert, and an API without one."""
        if self.expert is not None:
            return
        asked = {
            "--expert-delta": self.expert_deltas,
            "--antiexpert": self.antiexpert,
            "--alpha": self.alpha is not None,
            "--map": self.map,
            "--api": api,
        }
        for name, given in asked.items():
            if given:
                raise ConfigError(f"{name}: expected --expert beside it, found none; name the model that steers")

    def apply(self, base: Base, **settings: Any) -> Base:
        """The base as one that is steered; itself without an expert.

        Args:
            base: the base.
            **settings: how to load the experts.
        """
        import deltatune as dt

        if self.expert is None:
            return base
        expert, antiexpert = self._experts(settings)
        matching: Any = "map" if self.map else "same"
        proxy = dt.ProxyTuned(base, expert, antiexpert, alpha=self._alpha, vocabulary=matching)
        if self.map:
            note(f"{proxy.vocabulary.share:.1%} of the base's tokens are the expert's too")
        return dataclasses.replace(base, model=proxy)

    def box(self, api: str, model: str, key: str, cache: Path | None, top: int, **settings: Any) -> BlackBox:
        """A model behind an API as one that is steered."""
        import deltatune as dt

        endpoint = dt.Endpoint(api, model, key_variable=key, cache=cache, top=top)
        expert, antiexpert = self._experts(settings)
        return dt.BlackBox(endpoint, expert, antiexpert, alpha=self._alpha)

    @property
    def _alpha(self) -> float:
        return 1.0 if self.alpha is None else self.alpha

    def _experts(self, settings: dict[str, Any]) -> tuple[Base, Base | None]:
        assert self.expert is not None  # else there is nothing to apply
        expert = open_model(self.expert, self.expert_deltas, **settings)
        if self.antiexpert is not None:
            return expert.base, open_model(self.antiexpert, **settings).base
        if not expert.names:
            raise ConfigError(
                f"--expert {self.expert}: expected a delta on it, or an anti-expert, found neither; add --expert-delta "
                "or --antiexpert"
            )
        return expert.base, None
