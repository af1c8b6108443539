"""A comparison of methods, from a config to a report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import deltatune
from deltatune.comparing import search
from deltatune.comparing.crew import Crew, TrialError
from deltatune.comparing.folder import ComparisonFolder, frame
from deltatune.comparing.interval import Interval, interval
from deltatune.comparing.pareto import draw
from deltatune.comparing.progress import ComparisonProgress
from deltatune.comparing.quality import METRICS, chosen_metric, quality_of
from deltatune.comparing.report import report
from deltatune.comparing.results import Comparison, Curve, Row
from deltatune.comparing.splits import SearchData, Splits, split
from deltatune.comparing.table import markdown
from deltatune.comparing.trials import Job, Kind, Trial
from deltatune.comparing.variants import Variant, all_methods, variants
from deltatune.errors import ConfigError
from deltatune.io.atomic import atomic_files, write_json
from deltatune.methods.base import is_int
from deltatune.train.config import RunConfig
from deltatune.train.config_file import load_config, parse_config
from deltatune.train.folder import RunFolder
from deltatune.train.plot import can_plot

__all__ = ["compare"]

SEEDS = (0, 1, 2)


def compare(
    config: RunConfig | Mapping[str, Any] | str | Path,
    methods: str | Iterable[str] | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    learning_rates: str | Sequence[float] | None = None,
    search_share: float = 0.2,
    search_data: str | Path | None = None,
    metric: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    console: Console | None = None,
    crew: Crew | None = None,
) -> Comparison:
    """Train the same base on the same data with several methods, and see what each reaches and takes.

    Every run is a process of its own, one after the other. All get the same examples in the same order, which the seed
    sets, and so the same number of tokens. A comparison that was killed goes on when it is called again; methods, seeds
    and learning rates may be added to one that is over. If a run fails, its row says why, and the rest goes on.

    Args:
        config: the settings of a run, or its YAML file; what it attaches is replaced. It has to have evaluation data.
        methods: keys of the table of methods, with settings if any: ``"lora,lora:r=16,alpha=32,bitfit"``, or a list of
            these; ``learning_rate=`` is a setting of each. ``base`` trains nothing, or of a classifier the head alone;
            ``full`` is full fine-tuning; ``config`` is what the config attaches. Default: every method that needs no
            settings.
        seeds: of the fresh delta and head, dropout and the order of the data. Default: 0, 1 and 2.
        learning_rates: choose for each method among these, or climb from the config's one by ``"auto"``. A choice is
            made with the first seed on a share of the training data. Default: the config's for all.
        search_share: the share of the training data that the choice is made on. Default: 0.2.
        search_data: a file to make the choice on in place of that, for results that are judged on other data than
            those trained on; it should be like the evaluation data and hold none of them. Default: none.
        metric: ``accuracy``, ``macro_f1`` or ``loss`` of a classifier; ``loss``, ``perplexity`` or ``token_accuracy``
            of a language model. Default: the first of these.
        output: the folder of the comparison. Default: the config's.
        overwrite: delete the comparison that is there.
        progress: print how it goes on. Default: true.
        console: where to. Default: standard output.
        crew: the processes to use, to share them over comparisons. Default: new ones.

    Returns:
        What was found; the folder has it as results.json, table.md, pareto.png and report.html.

    Raises:
        ConfigError: settings, methods or data can not be used, or the folder holds something else.
    """
    settings = _settings(config)
    chosen = variants(
        all_methods() if methods is None else methods,
        [{"method": each.method, **each.settings, "name": each.name} for each in settings.attached],
    )
    rates = search.checked_rates(learning_rates)
    seeds = _checked_seeds(seeds)
    if not 0 < search_share < 1:
        raise ConfigError(f"search share: expected a share above 0 and below 1, found {search_share}; change it")
    folder = ComparisonFolder(Path(output or settings.output))
    searched = SearchData(search_share, None if search_data is None else str(search_data))
    common = frame(settings, searched)
    screen = (console or Console()) if progress else Console(quiet=True)
    folder.check(common, overwrite=overwrite)
    splits = split(settings, folder.data, None if rates is None else searched)
    metric = chosen_metric(metric, classifies=_classifies(settings, splits))
    folder.begin(common, overwrite=overwrite)
    splits.write()
    with (
        contextlib.nullcontext(crew) if crew is not None else Crew() as hands,
        ComparisonProgress(screen, len(chosen), settings.train) as shown,
    ):
        study = _Study(settings, folder, splits, metric, seeds, rates, hands, shown)
        try:
            return study.run(chosen)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the comparison was stopped; the same command goes on from here") from None


def _settings(config: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    return parse_config(config) if isinstance(config, Mapping) else load_config(config)


def _classifies(config: RunConfig, splits: Splits) -> bool:
    return splits.labels is not None and config.base.task in ("auto", "sequence-classification")


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(seeds)
    whole = all(is_int(seed) and seed >= 0 for seed in found)
    if not found or not whole or len(set(found)) < len(found):
        raise ConfigError(f"seeds: expected different whole numbers from 0, found {list(found)}; change them")
    return found


class _Study:
    """One comparison while it runs."""

    def __init__(
        self,
        config: RunConfig,
        folder: ComparisonFolder,
        splits: Splits,
        metric: str,
        seeds: tuple[int, ...],
        rates: str | tuple[float, ...] | None,
        crew: Crew,
        progress: ComparisonProgress,
    ) -> None:
        self.config, self.folder, self.splits, self.metric = config, folder, splits, metric
        self.seeds, self.rates, self.crew, self.progress = seeds, rates, crew, progress
        self.classifies = _classifies(config, splits)
        self.machines: set[str] = set()
        self.idle: list[int] = []

    def run(self, chosen: Sequence[Variant]) -> Comparison:
        """Run every variant; what is known is written after each."""
        rows: list[Row] = []
        found = self._comparison(rows)
        for variant in chosen:
            self.progress.variant()
            rows.append(self._row(variant))
            found = self._comparison(rows)
            self._write(found)
        return found

    def _row(self, variant: Variant) -> Row:
        row: dict[str, Any] = {"label": variant.label, "key": variant.key, "deltas": variant.deltas}
        curves: list[Curve] = []
        notes: list[str] = []
        records: list[dict[str, Any]] = []
        try:
            rate, tried = self._rate(variant, curves, notes)
            row |= {"learning_rate": None if self._trains_nothing(variant) else rate, "tried": tried}
            for seed in self.seeds:
                trial = Trial(variant, rate, seed)
                records.append(self._train(trial, curves))
            row |= self._inspected(Trial(variant, rate, self.seeds[0]), notes)
        except TrialError as error:
            row["failure"] = str(error)
            self.progress.line(f"failed: {error}")
        return Row(**row, **self._figures(records, notes), notes=tuple(notes), curves=tuple(curves))

    def _rate(self, variant: Variant, curves: list[Curve], notes: list[str]) -> tuple[float, dict[str, float | None]]:
        """The learning rate of a variant, and what those that were tried reached."""
        start = variant.learning_rate or self.config.train.learning_rate
        if self.rates is None or variant.learning_rate is not None or self._trains_nothing(variant):
            return start, {}
        qualities: dict[float, float | None] = {}

        def score(rate: float) -> search.Score:
            trial = Trial(variant, rate, self.seeds[0], searching=True)
            try:
                metrics = self._train(trial, curves)["metrics"]
            except TrialError as error:
                if not RunFolder(self.folder.runs / trial.place).read_log():
                    raise  # it has not come to a step, so the learning rate is not to blame
                self.progress.line(f"failed: {error}")
                metrics = {}
            value, loss = quality_of(metrics, self.metric), quality_of(metrics, "loss")
            qualities[rate] = value
            if value is None:
                return (-math.inf, -math.inf)
            return (value if METRICS[self.metric] else -value, -math.inf if loss is None else -loss)

        rates = self.rates
        choice = search.climb(start, score) if isinstance(rates, str) else search.best_of(rates, score)
        if choice.is_at_edge:
            notes.append(f"its learning rate, {choice.learning_rate:g}, is at the edge of those tried")
        return choice.learning_rate, {f"{each:g}": qualities[each] for each in sorted(qualities)}

    def _trains_nothing(self, variant: Variant) -> bool:
        """Whether it is the base of a language model: that of a classifier has a head to train."""
        return not variant.deltas and not self.classifies

    def _train(self, trial: Trial, curves: list[Curve]) -> dict[str, Any]:
        """What a run took and reached, done now or before."""
        self.progress.begin(trial)
        record = self._do("train", trial)
        metrics = record["metrics"]
        value = quality_of(metrics, self.metric)
        shown = "diverged" if value is None else f"{self.metric.replace('_', ' ')} {value:.4f}"
        self.progress.line(f"{shown}, {metrics['seconds']:.1f} s")
        self.machines.add(record["machine"])
        self.idle.append(record["idle_bytes"])
        curves.append(_curve(trial, self.folder.runs / trial.place))
        if value is None and not trial.searching:
            raise TrialError(f"seed {trial.seed}: its {self.metric} is no number; lower the learning rate")
        return record

    def _inspected(self, trial: Trial, notes: list[str]) -> dict[str, Any]:
        try:
            found = self._do("inspect", trial)
        except TrialError as error:
            notes.append(f"could not be looked at: {error}")
            return {}
        names = ("trainable_parameters", "overhead", "merge")
        if not trial.variant.deltas and found["trainable_parameters"]:
            notes.append("its task head is trained and nothing else")
        share = found["trainable_parameters"] / max(found["base_parameters"], 1)
        return {name: found[name] for name in names} | {"share": share}

    def _do(self, kind: Kind, trial: Trial) -> dict[str, Any]:
        folder = self.folder.runs / trial.place
        settings = trial.settings(self.config, self.splits, folder)
        job = Job(kind, str(folder), settings, trial.identity)
        return self.crew.do(job, watch=lambda: self.progress.watch(folder))

    def _figures(self, records: Sequence[Mapping[str, Any]], notes: list[str]) -> dict[str, Any]:
        """What the runs of a variant reached and took together."""
        if not records:
            return {}
        metrics = [record["metrics"] for record in records]
        names = [name for name in METRICS if all(quality_of(each, name) is not None for each in metrics)]
        whole = [record["metrics"]["seconds"] for record in records if not record["resumed"]]
        if len(whole) < len(records):
            notes.append(f"{len(records) - len(whole)} of its runs were interrupted; their time does not count")
        return {
            "scores": {name: interval([each[f"eval_{name}"] for each in metrics]) for name in names},
            "memory_bytes": round(statistics.median(record["memory_bytes"] for record in records)),
            "seconds": statistics.median(whole) if whole else None,
            "tokens": tuple(each["tokens"] for each in metrics),
            "file_bytes": round(statistics.median(record["file_bytes"] for record in records)),
        }

    def _comparison(self, rows: Sequence[Row]) -> Comparison:
        config, train = self.config, self.config.train
        batch = train.batch_size * train.gradient_accumulation
        about: dict[str, Any] = {
            "base": config.base.model,
            "train": f"{Path(config.data.train).name}: {self.splits.counts['train']:,} records",
            "eval": f"{Path(config.data.eval or config.data.train).name}: {self.splits.counts['eval']:,} records",
            "schedule": f"{train.max_steps} steps" if train.max_steps else f"{train.epochs:g} epochs",
            "batch": f"{batch} examples, {train.optimizer}, {train.scheduler}",
            "learning rate": self._search_text(),
            "machine": "; ".join(sorted(self.machines)),
            "deltatune": deltatune.__version__,
        }
        if self.idle:
            about["idle_bytes"] = round(statistics.median(self.idle))
        found = Comparison(self.folder.path, self.metric, self.seeds, tuple(rows), about, self._notes(rows))
        return _with_distances(found)

    def _search_text(self) -> str:
        if self.rates is None:
            return f"{self.config.train.learning_rate:g} for all"
        counts = f"{self.splits.counts['search-eval']:,} other records, seed {self.seeds[0]}"
        if isinstance(self.rates, str):
            return f"climbed to from {self.config.train.learning_rate:g}, judged on {counts}"
        return f"the best of {', '.join(f'{rate:g}' for rate in self.rates)}, judged on {counts}"

    def _notes(self, rows: Sequence[Row]) -> tuple[str, ...]:
        notes = []
        trained = {row.label: row.tokens for row in rows if any(row.tokens) and len(row.tokens) == len(self.seeds)}
        if len(set(trained.values())) > 1:
            found = ", ".join(f"{label} {sum(tokens):,}" for label, tokens in trained.items())
            notes.append(f"the methods were not trained on equally many tokens: {found}")
        if len(self.machines) > 1:
            notes.append("the runs come from different machines; their times and memory can not be compared")
        if len(self.seeds) == 1:
            notes.append("with one seed there is no interval: differences may be chance")
        return tuple(notes)

    def _write(self, found: Comparison) -> None:
        write_json(self.folder.results, found.to_dict())
        with atomic_files(self.folder.path) as scratch:
            (scratch / self.folder.table.name).write_text(markdown(found), encoding="utf-8")
            (scratch / self.folder.report.name).write_text(report(found), encoding="utf-8")
            if can_plot():
                draw(found, scratch / self.folder.picture.name)


def _with_distances(found: Comparison) -> Comparison:
    """The comparison, each row with how far it is behind the best, seed by seed."""
    best = found.best()
    top = None if best is None else found.quality(best)

    def behind(row: Row) -> Interval | None:
        own = found.quality(row)
        if top is None or own is None or row is best or len(own.values) != len(top.values):
            return None
        sign = 1 if found.higher_is_better else -1
        return interval([sign * (a - b) for a, b in zip(top.values, own.values, strict=True)])

    rows = tuple(dataclasses.replace(row, behind=behind(row)) for row in found.rows)
    return dataclasses.replace(found, rows=rows)


def _curve(trial: Trial, folder: Path) -> Curve:
    """The losses in a run's log, thinned to what a picture can show."""
    log = RunFolder(folder).read_log()

    def points(key: str) -> tuple[tuple[int, float], ...]:
        found = [(entry["step"], float(entry[key])) for entry in log if isinstance(entry.get(key), (int, float))]
        kept = found[:: max(1, math.ceil(len(found) / MOST_POINTS))]
        return tuple(kept if not found or kept[-1] == found[-1] else [*kept, found[-1]])

    return Curve(trial.learning_rate, trial.seed, trial.searching, points("loss"), points("eval_loss"))


MOST_POINTS = 200
