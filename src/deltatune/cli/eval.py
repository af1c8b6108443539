"""`deltatune eval`: how good a model is on data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.models import Deltas, Device, Dtype, Model, Quant, Task
from deltatune.cli.verb import AsJson, Verb, check_new, console, print_json
from deltatune.errors import ConfigError, DeltaError
from deltatune.train.opening import open_model

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from deltatune.train.config import DataSpec, RunConfig
    from deltatune.train.encode import EncodedSet
    from deltatune.train.evaluate import Evaluation
    from deltatune.train.records import Record


def eval(
    model: Model,
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Records. Default: what the run was evaluated on.")
    ] = None,
    delta: Deltas = [],  # noqa: B006  # typer reads it and makes a new list
    generate: Annotated[
        bool, typer.Option("--generate", help="Let the model answer each prompt, and count exact matches.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write each prediction to this JSONL file.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a classifier: fit a temperature on these records, none of them in DATA."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a classifier: draw how far its confidence can be believed.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Examples in a batch.")] = 8,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How long an answer may get. Default: as the longest reference."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(metavar="N", min=1, help="Tokens an example may have.")] = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="How a record is laid out. Default: told from its fields.")
    ] = None,
    column: Annotated[
        list[str], typer.Option(metavar="OURS=YOURS", help="Your name for a field of ours, as prompt=question.")
    ] = [],  # noqa: B006
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Use the chat template. Default: if there is one.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Use only the first so many records.")] = None,
    task: Task = None,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Measure a model on data.

    Of a language model: the loss over the supervised tokens, its perplexity, and with --generate the share of answers
    that match exactly. Of a classifier: accuracy, macro F1, what it took for what, and the expected calibration error,
    before and after a temperature if --calibrate says what to fit it on. What the run's settings say of its data holds
    unless an option says otherwise.
    """
    from deltatune.train.evaluate import evaluate
    from deltatune.train.examples import Labeled
    from deltatune.train.labels import LabelSet
    from deltatune.train.opening import classes_of, delta_folders, settings_of
    from deltatune.train.plot import can_plot
    from deltatune.train.setup import encode

    folders = [folder for name in (model, *delta) for folder in delta_folders(Path(name))]
    config = next(filter(None, map(settings_of, folders)), None)
    given = {
        "train": None if data is None else str(data),
        "max_length": max_length,
        "format": format,
        "columns": _columns(column) or None,
        "chat": chat,
        "limit": limit,
    }
    spec = _data_settings(config, given)
    records = _records(data, config, spec)
    labelled = bool(records) and all(isinstance(record.example, Labeled) for record in records)
    if out is not None:
        check_new("--out", out)
        if not (generate or labelled):
            raise ConfigError("--out: expected predictions, found only a loss; add --generate")
    if not labelled and (calibrate is not None or plot is not None):
        option = "--plot" if calibrate is None else "--calibrate"
        raise ConfigError(f"{option}: expected a classifier, found a language model; leave it out")
    if plot is not None and not can_plot():
        raise DeltaError('--plot: needs the package matplotlib, found none; run pip install "deltatune[plot]"')
    others = None if calibrate is None else _records(calibrate, config, spec)
    classes = (classes_of(model, config) or LabelSet.of(records).names) if labelled else None
    opened = open_model(
        model,
        delta,
        dtype=dtype,
        quant=quant,
        device=device,
        task=task or ("sequence-classification" if classes else None),
        labels=classes,
    )
    if opened.base.fresh and not opened.names:
        fresh = opened.base.fresh[0]
        raise ConfigError(f"{model}: expected a trained head, found none ({fresh} is random); name a delta by --delta")
    labels = LabelSet(classes) if classes else None
    encoded = encode(records, opened.base, spec, labels)
    screen = console(stderr=json)
    with _bar(screen, len(encoded.examples) * (1 + (generate and not classes))) as advance:
        result = evaluate(
            opened.base,
            encoded,
            batch_size=batch_size,
            generate=generate,
            max_new_tokens=max_new_tokens,
            progress=advance,
        )
    calibration = None
    if result.scores is not None:
        held = None
        if others is not None:
            more = encode(others, opened.base, spec, labels)
            held = evaluate(opened.base, more, batch_size=batch_size), more
        calibration = _calibration(result, encoded, held, plot, title=model)
    if out is not None:
        _write_predictions(out, result)
    if json:
        print_json(_as_data(result, opened.names) | {"calibration": calibration})
    else:
        _show(screen, result, calibration)


def _calibration(
    result: Evaluation,
    data: EncodedSet,
    held: tuple[Evaluation, EncodedSet] | None,
    plot: Path | None,
    title: str,
) -> dict[str, float]:
    """The expected calibration error, and what a temperature that is fitted on other data makes of it."""
    from deltatune.calibration import Calibration, plot_reliability, reliability, temperature

    assert result.scores is not None
    truth = _truth(data)
    panels = {"as it is": reliability(Calibration()(result.scores), truth)}
    found = {"calibration_error": panels["as it is"].expected_error}
    if held is not None:
        other, others = held
        assert other.scores is not None
        mended = temperature(other.scores, _truth(others))
        panels["calibrated"] = reliability(mended(result.scores), truth)
        found |= {
            "temperature": mended.temperature,
            "calibration_error_after": panels["calibrated"].expected_error,
        }
    if plot is not None:
        plot_reliability(panels, plot, title)
    return found


def _truth(data: EncodedSet) -> Tensor:
    """The class of each example."""
    import torch

    return torch.tensor([example["labels"] for example in data.examples])


def _columns(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not all(pair.partition("=")):
            raise ConfigError(f"--column {pair}: expected ours=yours, as in --column prompt=question")
    return dict(pair.split("=", 1) for pair in pairs)


def _data_settings(config: RunConfig | None, given: dict[str, Any]) -> DataSpec:
    """The run's settings of its data, with those given here in their place."""
    from pydantic import ValidationError

    from deltatune.train.config import DataSpec
    from deltatune.train.faults import fault_lines

    settings = config.data.model_dump() if config else {"train": "-"}
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        return DataSpec.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("\n".join(fault_lines(error, DataSpec.model_json_schema()))) from None


def _records(data: Path | None, config: RunConfig | None, spec: DataSpec) -> list[Record]:
    from deltatune.train.records import read_records
    from deltatune.train.setup import read_split

    if data is not None:
        return read_records(data, format=spec.format, columns=spec.columns)[: spec.limit]
    if config is None:
        raise ConfigError("DATA: expected a file of records, found none; name it after the model")
    return read_split(config)[: spec.limit]


@contextmanager
def _bar(screen: Console, total: int) -> Iterator[Any]:
    from rich.progress import Progress

    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("evaluating", total=total)
        yield lambda count: progress.advance(task, count)


def _write_predictions(out: Path, result: Evaluation) -> None:
    import json

    rows = (
        {"prompt": p.prompt, "reference": p.reference, "prediction": p.prediction, "exact": p.exact}
        for p in result.predictions
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _as_data(result: Evaluation, names: tuple[str, ...]) -> dict[str, Any]:
    confusion = result.confusion
    return {
        "deltas": names,
        "examples": result.examples,
        "supervised": result.supervised,
        "metrics": result.metrics,
        "confusion": None if confusion is None else {"labels": confusion.labels, "counts": confusion.counts},
    }


def _show(screen: Console, result: Evaluation, calibration: dict[str, float] | None) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("examples", f"{result.examples:,}")
    for name, value in (result.metrics | (calibration or {})).items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    screen.print(table)
    if result.confusion is not None:
        counts = Table("true \\ predicted", *result.confusion.labels)
        for label, row in zip(result.confusion.labels, result.confusion.counts, strict=True):
            counts.add_row(label, *map(str, row))
        screen.print(counts)


VERB = Verb(
    eval,
    (
        ("deltatune eval out", "a finished run, on its own evaluation data"),
        ("deltatune eval out test.jsonl --generate --out answers.jsonl", "on other data; keep the answers"),
        ("deltatune eval out test.csv --calibrate dev.csv --plot reliability.png", "a classifier's confidence, mended"),
        ("deltatune eval smollm2 test.jsonl", "the base alone, to compare with"),
        ("deltatune eval smollm2 test.jsonl --delta out/final --json", "a base with a delta; for a script"),
    ),
)
