"""Reading records: every layout and file kind, and what is said about bad ones."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.errors import ConfigError, DataError
from deltatune.train.examples import Chat, Completion, Labeled, Message, Text
from deltatune.train.formats import FORMATS
from deltatune.train.readers import READERS
from deltatune.train.records import read_records

PAIR = {"prompt": "2+2=", "completion": "4"}
ANSWER = {"role": "assistant", "content": "hello"}
TURNS = [{"role": "user", "content": "hi"}, ANSWER]
CHAT = Chat((Message("user", "hi"), Message("assistant", "hello")))

Write = Callable[[str, "str | bytes"], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_records(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Layouts


@pytest.mark.parametrize(
    ("row", "example"),
    [
        (PAIR, Completion("2+2=", "4")),
        ({"messages": TURNS}, CHAT),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, CHAT),
        ({"instruction": "Add", "input": "2 2", "output": "4"}, Completion("Add\n\n2 2", "4", "\n\n")),
        ({"instruction": "Add", "input": "", "output": "4"}, Completion("Add", "4", "\n\n")),
        ({"instruction": "Add", "input": None, "output": "4"}, Completion("Add", "4", "\n\n")),
        ({"instruction": "Add", "output": "4"}, Completion("Add", "4", "\n\n")),
        ({"text": "hi"}, Text("hi")),
        ({"text": "hi", "label": 1}, Labeled("hi", None, 1)),
        ({"text": "hi", "text_pair": "you", "label": "neg"}, Labeled("hi", "you", "neg")),
        ({"text": "a rendering", "instruction": "Add", "output": "4"}, Completion("Add", "4", "\n\n")),
    ],
)
def test_a_layout_is_found_by_its_fields(row: dict[str, Any], example: object) -> None:
    assert [r.example for r in read_records([row])] == [example]


def test_every_format_is_named_when_none_fits() -> None:
    message = refusal([{"question": "2+2"}])
    assert all(str(f) in message for f in FORMATS.values())
    assert message.startswith("source, row 0: fits no format, its fields are 'question'")


def test_two_fitting_formats_have_to_be_chosen_from() -> None:
    row = {**PAIR, "messages": TURNS}
    assert "fit the formats prompt-completion and messages" in refusal([row])
    assert read_records([row], format="messages")[0].example == CHAT


def test_tool_calls_and_tools_are_kept_for_the_template() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}], "name": None}
    (record,) = read_records([{"messages": [*TURNS, call], "tools": [{"type": "function"}]}])
    assert isinstance(record.example, Chat)
    assert record.example.messages[-1] == Message("assistant", "", {"tool_calls": [{"type": "function"}]})
    assert record.example.tools == ({"type": "function"},)


def test_columns_rename_and_may_swap() -> None:
    rows = [{"question": "2+2=", "answer": "4", "prompt": "not this"}]
    columns = {"prompt": "question", "completion": "answer"}
    assert read_records(rows, columns=columns)[0].example == Completion("2+2=", "4")
    swapped = read_records([PAIR], columns={"prompt": "completion", "completion": "prompt"})
    assert swapped[0].example == Completion("4", "2+2=")
    del rows[0]["question"]  # the shadowed `prompt` must not step in
    assert "field 'question' is missing" in refusal(rows, columns=columns, format="prompt-completion")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'qa' is unknown; expected one of prompt-completion, messages"):
        read_records([PAIR], format="qa")
    with pytest.raises(ConfigError, match=r"columns: 'question' is no field of ours"):
        read_records([PAIR], columns={"question": "prompt"})


# Bad records


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "x"}, "field 'completion' is missing"),
        ({}, "fields 'prompt' and 'completion' are missing"),
        ({"prompt": 3, "completion": "y"}, "field 'prompt' should be a string, found int"),
        ({"prompt": "x", "completion": None}, "field 'completion' should be a string, found null"),
        ({"prompt": "x", "completion": "\ud800"}, "field 'completion' holds half a surrogate pair"),
        ({"text": "x"}, "a record of the format text among records of the format prompt-completion"),
        (["x"], "a record should be an object of named fields, found list"),
    ],
)
def test_a_bad_record_is_named_with_its_line(write: Write, row: Any, complaint: str) -> None:
    message = refusal(write("train.jsonl", jsonl(PAIR, row)))
    assert message.startswith(f"train.jsonl, line 2: {complaint}")
    assert message.endswith(
        "; correct the records, or set format or columns (in a run's YAML data.format, data.columns)"
    )


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("hi", "field 'messages' should be a list of objects, found str"),
        (["hi"], "field 'messages' should be a list of objects, found a list of something else"),
        ([], "field 'messages' has no assistant turn"),
        (TURNS[:1], "field 'messages' has no assistant turn"),
        ([{"role": "user", "content": ["hi"]}, ANSWER], "messages[0] 'content' should be a string, found list"),
        ([{"role": "user"}, ANSWER], "messages[0] 'content' should be a string, found null"),
        ([{"content": "hi"}, ANSWER], "messages[0] 'role' should be a string, found null"),
        ([{"role": "bot", "content": "hi"}, ANSWER], "messages[0] has the role 'bot', known are system, user"),
        ([*TURNS, {**ANSWER, "weight": 0}], "messages[2] has weight 0"),
    ],
)
def test_a_bad_chat_is_named_by_its_turn(messages: Any, complaint: str) -> None:
    assert refusal([{"messages": messages}]).startswith(f"source, row 0: {complaint}")


@pytest.mark.parametrize("label", [True, 1.0, None, "", ["neg"]])
def test_a_label_is_a_name_or_a_whole_number(label: object) -> None:
    assert "field 'label' should be a name or an int" in refusal([{"text": "x", "label": label}])


def test_a_forced_format_says_what_is_missing() -> None:
    message = refusal([{"text": "x"}], format="alpaca")
    assert "format text among records of the format alpaca" in message
    assert "fields 'instruction' and 'output' are missing" in refusal([{"x": "y"}], format="alpaca")


def test_five_bad_lines_are_shown_and_the_rest_counted(write: Write) -> None:
    rows = [PAIR] + [{"prompt": "x"}] * 8
    message = refusal(write("train.jsonl", jsonl(*rows) + "{oops\n"))
    assert [f"line {n}: field" in message for n in range(1, 10)] == [False] + [True] * 5 + [False] * 3
    assert "; and 4 more bad records; " in message


# Files


def test_jsonl_allows_a_mark_blank_lines_crlf_and_odd_separators(write: Write) -> None:
    line = json.dumps({"text": "a\u2028b\r"}, ensure_ascii=False)
    records = read_records(write("t.jsonl", b"\xef\xbb\xbf" + f"{line}\r\n\r\n  \n{line}".encode()))
    assert [r.example for r in records] == [Text("a\u2028b\r")] * 2
    assert [str(r.origin) for r in records] == ["t.jsonl, line 1", "t.jsonl, line 4"]


def test_malformed_json_is_one_bad_record_of_its_line(write: Write) -> None:
    message = refusal(write("t.jsonl", '{"text": "x"}\n{"text": "y"\n[[[\n'))
    assert "t.jsonl, line 2: not JSON (Expecting ',' delimiter at column 13)" in message
    assert "t.jsonl, line 3: not JSON" in message
    assert "t.jsonl, line 1: not JSON" in refusal(write("t.jsonl", "[" * 200_000))


def test_a_json_array_is_known_by_rows(write: Write) -> None:
    assert [str(r.origin) for r in read_records(write("t.json", json.dumps([PAIR, PAIR])))] == [
        "t.json, row 0",
        "t.json, row 1",
    ]
    assert "name it .jsonl" in refusal(write("t.json", jsonl(PAIR, PAIR)))
    assert "found a JSON dict; expected an array" in refusal(write("t.json", json.dumps(PAIR)))


@pytest.mark.parametrize(("suffix", "dialect"), [("csv", "excel"), ("tsv", "excel-tab")])
def test_tables_keep_quotes_and_count_lines(tmp_path: Path, suffix: str, dialect: str) -> None:
    path = tmp_path / f"t.{suffix}"
    rows = [["text", "label"], ['two\nlines, "quoted"\tand tabbed', "neg"], ["x", "0"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, dialect).writerows(rows)
    records = read_records(path)
    assert [r.example for r in records] == [Labeled(rows[1][0], None, "neg"), Labeled("x", None, "0")]
    assert [r.origin.number for r in records] == [2, 4]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text,label\nx,1\na,b,c\n", "t.csv, line 3: 3 fields under a header of 2"),
        ("text,label\nx\n", "t.csv, line 2: 1 fields under a header of 2"),
        ("text,text\nx,y\n", "t.csv, line 1: two columns share a name"),
        ('text,label\n"x,1\ny,0\n', "t.csv, line 3: unexpected end of data"),
    ],
)
def test_a_broken_table_is_refused(write: Write, content: str, complaint: str) -> None:
    assert complaint in refusal(write("t.csv", content))


def test_parquet_and_datasets_agree(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": TURNS}, {"messages": [*TURNS, *TURNS]}]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(str(tmp_path / "t.parquet"))
    from_file, from_memory = read_records(tmp_path / "t.parquet"), read_records(table)
    assert [r.example for r in from_file] == [r.example for r in from_memory]
    assert from_file[0].example == CHAT
    assert [str(r.origin) for r in from_file] == ["t.parquet, row 0", "t.parquet, row 1"]
    assert "give one split" in refusal(datasets.DatasetDict(train=table))


def test_numpy_integers_are_labels() -> None:
    numpy = pytest.importorskip("numpy")
    (record,) = read_records([{"text": "x", "label": numpy.int64(3)}])
    assert record.example == Labeled("x", None, 3)
    assert type(record.example.label) is int


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv"])
@pytest.mark.parametrize("line", [1, 3])
def test_bytes_that_are_not_utf8_are_found(write: Write, name: str, line: int) -> None:
    lines = [b'{"text": "x"}'] * 4
    lines[line - 1] = "caf\u00e9".encode("latin-1")
    assert refusal(write(name, b"\n".join(lines))).startswith(f"{name}, line {line}: byte 0xe9 is not UTF-8")


@pytest.mark.parametrize("suffix", [s for s in READERS if s != ".parquet"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_nothing_to_read_is_refused(write: Write, suffix: str, content: str) -> None:
    if suffix in (".csv", ".tsv"):
        content = "text\n" if content else ""
    assert refusal(write(f"t{suffix}", content)).startswith(f"t{suffix}: no records")
    assert refusal([]).startswith("source: no records")


def test_what_is_no_file_or_no_rows_is_refused(tmp_path: Path, write: Write) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert "none.jsonl: can not be read (No such file or directory)" in refusal(tmp_path / "none.jsonl")
    assert "folder.csv: can not be read (Is a directory)" in refusal(str(tmp_path / "folder.csv"))
    assert "none.parquet: can not be read" in refusal(tmp_path / "none.parquet")
    assert "t.parquet: not a parquet file" in refusal(write("t.parquet", b"PAR1 and not much more"))
    assert "has the suffix '.txt'; expected one of .jsonl, .json, .csv" in refusal(write("t.txt", "x"))
    assert refusal(3).startswith("source: found int; expected a path")
    assert refusal(["x"]).startswith("source, row 0: a record should be an object")


@given(st.lists(st.builds(Completion, st.text(), st.text()), min_size=1), st.booleans())
@settings(deadline=None)
def test_jsonl_and_csv_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Completion], ascii: bool
) -> None:
    folder = tmp_path_factory.mktemp("round")
    rows = [{"prompt": e.prompt, "completion": e.completion} for e in examples]
    lines = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)
    (folder / "t.jsonl").write_text(lines, encoding="utf-8", newline="")
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    assert [r.example for r in read_records(folder / "t.jsonl")] == examples
    assert [r.origin.number for r in read_records(folder / "t.jsonl")] == list(range(1, len(examples) + 1))
    assert [r.example for r in read_records(folder / "t.csv")] == examples


def test_reading_text_loads_no_heavy_library(write: Write) -> None:
    path = write("t.jsonl", jsonl(PAIR))
    read = "from deltatune.train.records import read_records; read_records(sys.argv[1])"
    found = "{'torch', 'transformers', 'pandas', 'pyarrow', 'datasets', 'numpy'} & {*sys.modules}"
    code = f"import sys, deltatune.train.encode; {read}; print({found})"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
