"""Signs, keywords and names of functions that are spelt wrong, where nothing but one of them can stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rapidfuzz.distance import OSA

from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.tokens import Token, joined, tokens

__all__ = ["functions", "operators", "spelling"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEYWORDS = _words(
    "SELECT DISTINCT FROM WHERE GROUP ORDER HAVING LIMIT OFFSET JOIN INNER LEFT RIGHT OUTER CROSS NATURAL USING AND "
    "BETWEEN LIKE ILIKE DESC ASC UNION INTERSECT EXCEPT EXISTS CASE WHEN THEN ELSE NULL WITH OVER PARTITION"
)
SHORT = _words("BY ON IN IS AS OR NOT END ALL")
FUNCTIONS = _words(
    "COUNT SUM AVG MIN MAX ROUND ABS COALESCE NULLIF CAST UPPER LOWER LENGTH SUBSTR TRIM RANK DENSE_RANK ROW_NUMBER "
    "LAG LEAD STRFTIME EXTRACT YEAR MONTH"
)
RUN_TOGETHER = {"GROUPBY": "GROUP BY", "ORDERBY": "ORDER BY", "PARTITIONBY": "PARTITION BY", "LEFTJOIN": "LEFT JOIN"}
RUN_TOGETHER |= {"INNERJOIN": "INNER JOIN", "ISNOT": "IS NOT", "NOTIN": "NOT IN", "UNIONALL": "UNION ALL"}
SIGNS = {"==": "=", "===": "=", "=<": "<=", "=>": ">=", "=!": "!=", "!==": "!=", "><": "<>"}
APART = {("!", "="): "!=", ("<", ">"): "<>", ("<", "="): "<=", (">", "="): ">=", ("=", "="): "="}

_Step = Callable[[list[Token], int, frozenset[str]], "tuple[int, str] | None"]


def operators(text: str) -> tuple[str, list[Repair]]:
    """`==`, `! =` and the like as SQL writes them, and of a keyword said twice the first."""
    return _rewritten(text, frozenset(), _sign, _doubled)


def spelling(text: str, schema: Database) -> tuple[str, list[Repair]]:
    """`SELCT`, `GRUOP BY`, `ORDERBY` and the like as SQL writes them. No name of the schema or the query is touched.

    Between two operands only a keyword can stand, or an alias; so a word beside another one that is nearly a keyword,
    and is used as a name nowhere else, was meant as one.
    """
    known = frozenset(t.name.upper() for t in schema.tables) | {
        c.name.upper() for t in schema.tables for c in t.columns
    }
    return _rewritten(text, known, _glued, _keyword, _by)


def functions(text: str) -> tuple[str, list[Repair]]:
    """`CONUT(x)`, `COUNT *` and `COUNT DISTINCT x` as SQL writes them."""
    return _rewritten(text, frozenset(), _function, _counted)


def _rewritten(text: str, known: frozenset[str], *steps: _Step) -> tuple[str, list[Repair]]:
    """Apply steps at each token; a step says how many tokens it replaces by what."""
    repairs: list[Repair] = []
    for step in steps:
        pieces = tokens(text)
        names = known | _names(pieces)
        out: list[Token] = []
        at = 0
        while at < len(pieces):
            count, new = step(pieces, at, names) or (1, "")
            if new:
                repairs.append(Repair("keyword", joined(pieces[at : at + count]), new))
            out.append(replace(pieces[at], text=new) if new else pieces[at])
            at += count
        text = joined(out)
    return text, repairs


def _names(pieces: Sequence[Token]) -> frozenset[str]:
    """Words that surely are names: after AS, and on either side of a dot."""
    found = set()
    for before, piece, after in _neighbours(pieces):
        if piece.upper and ("." in (before.text, after.text) or (before.upper == "AS" and piece.upper not in KEYWORDS)):
            found.add(piece.upper)
    return frozenset(found)


def _neighbours(pieces: Sequence[Token]) -> list[tuple[Token, Token, Token]]:
    edge = Token("sign", "", "")
    return list(zip([edge, *pieces], pieces, [*pieces[1:], edge], strict=False))


def _sign(pieces: list[Token], at: int, _: frozenset[str]) -> tuple[int, str] | None:
    piece = pieces[at]
    if piece.kind != "sign":
        return None
    if piece.text in SIGNS:
        return 1, SIGNS[piece.text]
    if at + 1 < len(pieces) and (new := APART.get((piece.text, pieces[at + 1].text))):
        return 2, new
    return None


def _doubled(pieces: list[Token], at: int, names: frozenset[str]) -> tuple[int, str] | None:
    word = pieces[at].upper
    again = at + 1 < len(pieces) and pieces[at + 1].upper == word
    return (2, word) if again and word in KEYWORDS and word not in names else None


def _glued(pieces: list[Token], at: int, names: frozenset[str]) -> tuple[int, str] | None:
    word = pieces[at].upper
    return (1, RUN_TOGETHER[word]) if word in RUN_TOGETHER and word not in names else None


def _keyword(pieces: list[Token], at: int, names: frozenset[str]) -> tuple[int, str] | None:
    word = pieces[at].upper
    if len(word) < 3 or word in names or word in KEYWORDS or word in SHORT:
        return None
    following = pieces[at + 1].upper if at + 1 < len(pieces) else ""
    if following == "BY":
        return (1, new) if (new := _nearest(word, ("GROUP", "ORDER", "PARTITION"))) else None
    before, after = pieces[at - 1] if at else None, pieces[at + 1] if at + 1 < len(pieces) else None
    if after and after.text == "(" and word not in ("EXIST", "BETWEN", "WHER"):
        beside = before is None or _operand(before)
    else:
        beside = before is None or _operand(before) or (after is not None and _operand(after, start=True))
    return (1, new) if beside and (new := _nearest(word, KEYWORDS)) else None


def _operand(piece: Token, *, start: bool = False) -> bool:
    """Whether an operand ends (or starts) with this."""
    if piece.kind == "sign":
        return piece.text in ("(", "*") if start else piece.text in (")", "*")
    return piece.kind != "word" or (piece.upper not in KEYWORDS and piece.upper not in SHORT)


def _by(pieces: list[Token], at: int, names: frozenset[str]) -> tuple[int, str] | None:
    """GROUP and ORDER have BY behind them."""
    word, after = pieces[at].upper, pieces[at + 1] if at + 1 < len(pieces) else None
    if word not in ("GROUP", "ORDER", "PARTITION") or after is None or after.upper in ("BY", "") or word in names:
        return None
    if len(after.text) <= 3 and after.upper not in names and OSA.distance(after.upper, "BY") == 1:
        return 2, f"{word} BY"
    return 1, f"{word} BY"


def _function(pieces: list[Token], at: int, names: frozenset[str]) -> tuple[int, str] | None:
    word = pieces[at].upper
    if not word or at + 1 == len(pieces) or pieces[at + 1].text != "(" or word in KEYWORDS or word in SHORT:
        return None
    if word in FUNCTIONS or word in names or len(word) < 3:
        return None
    return (1, new) if (new := _nearest(word, FUNCTIONS)) else None


def _counted(pieces: list[Token], at: int, _: frozenset[str]) -> tuple[int, str] | None:
    words = [piece.text.upper() for piece in pieces[at : at + 3]]
    if words[:2] == ["COUNT", "*"]:
        return 2, "COUNT(*)"
    if words[:2] == ["COUNT", "DISTINCT"] and len(words) == 3:
        dotted = [piece.text for piece in pieces[at + 3 : at + 5]]
        column = "".join([pieces[at + 2].text, *(dotted if dotted[:1] == ["."] else [])])
        return 3 + (2 if dotted[:1] == ["."] else 0), f"COUNT(DISTINCT {column})"
    return None


def _nearest(word: str, among: Sequence[str]) -> str | None:
    """The one that differs in a letter or two, by the length of the word."""
    best = min(among, key=lambda other: OSA.distance(word, other))
    return best if OSA.distance(word, best) <= (1 if len(best) <= 5 else 2) else None
