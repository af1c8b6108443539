"""The trained linker: what it reads, that batches change nothing, and that it comes back from a file as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import deltatune as dt
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.linking.cross_encoder import CrossEncoder, Settings
from deltatune.apps.sql.linking.pieces import cut
from deltatune.apps.sql.linking.ranking import Ranking
from deltatune.apps.sql.linking.recall import recall
from deltatune.apps.sql.linking.training import Training, focal_loss, train
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.errors import ConfigError, FileFormatError

from .test_ranking import SCHOOL
from .tiny import EXAMPLES, save_bert

QUESTIONS = [example.question for example in EXAMPLES] + ["", "which " * 100]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_bert(tmp_path_factory.mktemp("bert")))


def linker(base: str, method: dt.Method | None = None, seed: int = 0, **settings: int) -> CrossEncoder:
    return CrossEncoder.create(method, settings=Settings(base, **settings), seed=seed)


def trained(base: str, **settings: int) -> CrossEncoder:
    found = linker(base, **settings)
    train(found, EXAMPLES, {"school": SCHOOL}, Training(steps=4, lr=1e-2))
    return found


def assert_close(one: Ranking, other: Ranking, tolerance: float) -> None:
    assert one.tables == pytest.approx(other.tables, abs=tolerance)
    assert list(one.columns) == list(other.columns)
    for table, scores in one.columns.items():
        assert scores == pytest.approx(other.columns[table], abs=tolerance)


# What it reads.


@pytest.mark.parametrize("longest", [20, 60, 10_000])
@pytest.mark.parametrize("name", SOURCES)
def test_pieces_hold_each_column_once_where_they_say(base: str, name: str, longest: int) -> None:
    tokenizer, schema = linker(base).base.tokenizer, database(name)
    pieces = cut(schema, tokenizer, longest)
    found = [(piece.table, span.column) for piece in pieces for span in piece.spans]
    assert found == [(table.name, column.name) for table in schema.tables for column in table.columns]
    for piece in pieces:
        ids = tokenizer(piece.text, add_special_tokens=False)["input_ids"]
        assert len(ids) == piece.length
        assert piece.length <= longest or len(piece.spans) == 1
        for span in piece.spans:
            column = schema.table(piece.table).column(span.column)
            text = f"{column.name.replace('_', ' ')}: {column.comment}"
            assert ids[span.start : span.stop] == tokenizer(text, add_special_tokens=False)["input_ids"]
    if longest == 10_000:
        assert [piece.table for piece in pieces] == [table.name for table in schema.tables]


def test_names_of_all_kinds_are_read(base: str) -> None:
    odd = Database(
        "odd", (Table("_", (Column("__", "text"), Column("a | b: c", "text", "word " * 99))), Table("t", ()))
    )
    (ranking,) = linker(base).rank(["word"], odd)
    assert list(ranking.columns["_"]) == ["__", "a | b: c"]
    assert ranking.columns["t"] == {}
    scores = [*ranking.tables.values(), *ranking.columns["_"].values()]
    assert all(0 < score < 1 for score in scores)


# Scores.


def test_a_batch_gives_what_one_by_one_gives(base: str) -> None:
    """Padding, order and the cut into batches change nothing."""
    whole = trained(base)
    small = CrossEncoder(whole.base, whole.delta, Settings(base, batch_tokens=1))
    for together, alone in zip(whole.rank(QUESTIONS, SCHOOL), small.rank(QUESTIONS, SCHOOL), strict=True):
        assert_close(together, alone, 1e-5)
    for question, together in zip(QUESTIONS, whole.rank(QUESTIONS, SCHOOL), strict=True):
        assert_close(together, whole.rank([question], SCHOOL)[0], 1e-5)


def test_scores_are_the_logits_of_their_tokens(base: str) -> None:
    """Counted anew from one sequence: means over the table's name and comment, and over each column."""
    found, question = trained(base), "Which floor?"
    (ranking,) = found.rank([question], SCHOOL)
    tokenizer, model = found.base.tokenizer, found.base.model
    text = "room: where | room id: number of the room | floor: floor"
    inputs = tokenizer(question, text, return_tensors="pt")
    logits = model(**inputs).logits[0, :, 0]
    words = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    bars = [i for i, word in enumerate(words) if word == "|"]
    table = logits[words.index("[SEP]") + 1 : bars[0]].mean()
    assert ranking.tables["room"] == pytest.approx(table.sigmoid().item(), abs=1e-5)
    room, floor = logits[bars[0] + 1 : bars[1]].mean(), logits[bars[1] + 1 : -1].mean()
    assert ranking.columns["room"] == pytest.approx({"room_id": room.sigmoid().item(), "floor": floor.sigmoid().item()})


def test_a_wide_table_has_the_best_score_of_its_pieces(base: str) -> None:
    found = trained(base, table_tokens=12)
    pieces = [piece for piece in found.pieces(SCHOOL) if piece.table == "enrolment"]
    assert len(pieces) > 1
    logits = found.score([("Who?", piece) for piece in pieces]).tables
    (ranking,) = found.rank(["Who?"], SCHOOL)
    assert ranking.tables["enrolment"] == pytest.approx(logits.max().sigmoid().item(), abs=1e-5)


def test_ranking_leaves_the_model_as_it_was(base: str) -> None:
    found = linker(base)
    found.base.model.train()
    assert found.rank([], SCHOOL) == []
    found.rank(["Who?"], SCHOOL)
    assert found.base.model.training


# Training.


@pytest.mark.parametrize(
    "method",
    [dt.LoRA(targets=("all_linear",)), dt.BitFit(), dt.IA3(), dt.Pfeiffer(), dt.PrefixTuning(tokens=2)],
    ids=lambda method: method.key,
)
def test_gradients_reach_the_delta_and_nothing_else(base: str, method: dt.Method) -> None:
    found = linker(base, method)
    scores = found.score([("Which floor?", piece) for piece in found.pieces(SCHOOL)])
    (scores.tables.square().sum() + scores.columns.square().sum()).backward()
    names = [name for name, p in found.delta.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("copy" in name for name in names)  # the head
    assert any("copy" not in name for name in names)
    own = {id(p) for p in found.delta.parameters()}
    assert not [name for name, p in found.base.model.named_parameters() if p.grad is not None and id(p) not in own]


@pytest.mark.parametrize("method", [None, dt.DoRA(targets=("all_linear",))], ids=["lora", "dora"])
def test_training_finds_what_it_was_shown(base: str, method: dt.Method | None) -> None:
    found = linker(base, method)
    schemas = {"school": SCHOOL}
    before = recall(found, EXAMPLES, schemas, tables=1, columns=1)
    losses = train(found, EXAMPLES, schemas, Training(steps=90, batch=7, lr=2e-2))
    after = recall(found, EXAMPLES, schemas, tables=1, columns=1)
    assert losses[-1] < losses[0] / 10
    assert after.tables[1] == pytest.approx(7 / 9)  # one question is about three tables, and only one can be first
    assert after.tables[1] > before.tables[1]
    assert after.columns[1] > before.columns[1]
    assert after.whole > before.whole
    assert not found.delta.is_trainable


@pytest.mark.parametrize("negatives", [None, 1])
def test_the_same_seed_gives_the_same_linker(base: str, negatives: int | None) -> None:
    def scores(seed: int) -> Ranking:
        found = linker(base, seed=seed)
        train(found, EXAMPLES, {"school": SCHOOL}, Training(steps=3, seed=seed, negatives=negatives))
        return found.rank(["Which floor?"], SCHOOL)[0]

    state = torch.get_rng_state()
    assert scores(0) == scores(0)
    assert scores(0) != scores(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_do_not_depend_on_how_a_step_is_cut(base: str) -> None:
    def losses(batch_tokens: int) -> list[float]:
        found = linker(base, batch_tokens=batch_tokens)
        return train(found, EXAMPLES, {"school": SCHOOL}, Training(steps=4, lr=1e-2))

    assert losses(10_000) == pytest.approx(losses(1), rel=1e-3)


def test_a_step_shows_a_part_of_the_schema_with_all_that_is_asked_for(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, schema = linker(base), database("funds")
    seen: list[Database] = []
    monkeypatch.setattr(found, "pieces", lambda part: seen.append(part) or cut(part, found.base.tokenizer, 192))
    sql = "SELECT i.fnd_abbr, i.mgt_fee, p.ret_1y FROM mf_info AS i JOIN mf_perf AS p ON i.fnd_code = p.fnd_code"
    example = Example("Which fee?", sql, "funds")
    train(found, [example], {"funds": schema}, Training(steps=4, batch=1, negatives=2, columns=4))
    assert len(seen) == 4
    for part in seen:
        shown = {table.name: [column.name for column in table.columns] for table in part.tables}
        assert len(shown) == 4
        assert {"fnd_code", "fnd_abbr", "mgt_fee"} <= set(shown["mf_info"])
        assert {"fnd_code", "ret_1y"} <= set(shown["mf_perf"])
        assert all(len(columns) <= 4 for columns in shown.values())
    assert len({tuple(table.name for table in part.tables) for part in seen}) > 1
    assert len({part.table("mf_perf").columns for part in seen}) > 1


def test_focal_loss() -> None:
    logits, wanted = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([1.0, 0.0, 1.0])
    p = torch.sigmoid(logits)
    expected = torch.stack([
        -0.75 * (1 - p[0]) ** 2 * p[0].log(),
        -0.25 * p[1] ** 2 * (1 - p[1]).log(),
        -0.75 * (1 - p[2]) ** 2 * p[2].log(),
    ])  # fmt: skip
    torch.testing.assert_close(focal_loss(logits, wanted), expected)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    torch.testing.assert_close(focal_loss(logits, wanted, gamma=0, alpha=0.5), plain / 2)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"lr": 0.0}, {"alpha": 1.0}, {"gamma": -1.0}, {"negatives": -1}, {"columns": -1}]
)
def test_settings_of_training_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="training: expected"):
        Training(**settings)  # type: ignore[arg-type]


def test_training_on_nothing_is_refused(base: str) -> None:
    with pytest.raises(ConfigError, match="training: expected examples, found none"):
        train(linker(base), [], {"school": SCHOOL})


# Files.


@pytest.mark.parametrize("method", [None, dt.IA3()], ids=["lora", "ia3"])
def test_a_saved_linker_gives_the_same_scores(base: str, tmp_path: Path, method: dt.Method | None) -> None:
    found = linker(base, method, table_tokens=20)
    train(found, EXAMPLES, {"school": SCHOOL}, Training(steps=3, lr=1e-2))
    found.save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "linker.json"}
    torch.manual_seed(7)  # the head of a fresh base is another one now
    again = CrossEncoder.load(tmp_path)
    assert again.settings == found.settings
    for one, other in zip(again.rank(QUESTIONS, SCHOOL), found.rank(QUESTIONS, SCHOOL), strict=True):
        # IA3's file holds its factors, of which it trains the distance from one: the last bit may differ.
        assert_close(one, other, 0 if method is None else 1e-6)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", "{}", json.dumps({"format": 9}), json.dumps({"format": 1, "nonsense": 2})]
)
def test_a_folder_without_a_linker_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "linker.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"linker\.json: expected"):
        CrossEncoder.load(tmp_path)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="table_tokens: expected at least 1, found 0"):
        Settings(table_tokens=0)


# The real encoder.


@pytest.mark.slow
@pytest.mark.models
def test_a_few_steps_of_minilm_find_more_of_what_they_were_shown(tmp_path: Path) -> None:
    found, schemas = CrossEncoder.create(), {"school": SCHOOL}
    before = recall(found, EXAMPLES, schemas, tables=1, columns=1)
    train(found, EXAMPLES, schemas, Training(steps=30, lr=2e-3))
    after = recall(found, EXAMPLES, schemas, tables=1, columns=1)
    assert after.tables[1] > before.tables[1]
    assert after.columns[1] > before.columns[1]
    found.save(tmp_path)
    assert CrossEncoder.load(tmp_path).rank(QUESTIONS, SCHOOL) == found.rank(QUESTIONS, SCHOOL)
