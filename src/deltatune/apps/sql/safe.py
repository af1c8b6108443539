"""What a query may be made of, by the names of sqlglot's classes. All that is not named here is refused.

Left out on purpose: whatever writes, locks, waits, reads a file or the network, runs SQL given as text, changes or
tells the state of the server, or makes much out of little (REPEAT, GENERATE_SERIES, PRINTF and the like).
"""

from __future__ import annotations

__all__ = ["FUNCTIONS", "NAMED_FUNCTIONS", "NODES", "SYSTEM_PREFIXES", "TYPES"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


NODES = _names(
    """
    Add Alias Aliases All And Any Between BitwiseAnd BitwiseNot BitwiseOr Boolean CTE Case Collate Column
    DPipe DataType DataTypeParam Distinct Div EQ Escape Except Exists Filter From GT GTE Glob Group Having ILike
    Identifier If In IntDiv Intersect Interval Is Join LT LTE Like Limit LimitOptions Literal Mod Mul NEQ Neg Not Null
    NullSafeEQ NullSafeNEQ Offset Fetch Or Order Ordered Paren Qualify Select Star Sub Subquery Table TableAlias Tuple
    Union Values Var Where Window WindowSpec With WithinGroup
    """
)

FUNCTIONS = _names(
    """
    Abs ArgMax ArgMin Avg Cast Ceil Coalesce Concat ConcatWs Corr Count CountIf CovarPop CovarSamp CumeDist CurrentDate
    CurrentTimestamp Date DateAdd DateDiff DateStrToDate DateSub DateTrunc Day DayOfMonth DayOfWeek DayOfYear DenseRank
    Exp Extract First FirstValue Floor Greatest GroupConcat Initcap Lag Last LastValue Lead Least Left Length Ln Log
    Lower Max Median Min Month Ntile NthValue Nullif PercentRank PercentileCont PercentileDisc Pow Quantile Quarter
    Rank Replace Right Round RowNumber Sign Sqrt Stddev StddevPop StddevSamp StrPosition StrToDate StrToTime Substring
    Sum TimeToStr TimestampTrunc ToChar Trim TryCast TsOrDsAdd TsOrDsDiff TsOrDsToDate TsOrDsToTimestamp Upper Variance
    VariancePop Week WeekOfYear Year Mode
    """
)

NAMED_FUNCTIONS = {
    "sqlite": frozenset({"DATE", "JULIANDAY", "TOTAL", "STRFTIME", "DATETIME", "TIME", "TRUNC"}),
    "duckdb": frozenset({"DAYNAME", "MONTHNAME", "DATE_PART", "FAVG", "FSUM", "JULIAN", "LAST_DAY"}),
    "postgres": frozenset({"DATE_PART", "AGE", "MAKE_DATE", "BTRIM"}),
}
"""Functions that sqlglot has no class for, by dialect."""

TYPES = _names(
    """
    BIGINT BOOLEAN CHAR DATE DECIMAL DOUBLE FLOAT INT INTERVAL NCHAR NVARCHAR SMALLINT TEXT TIME TIMESTAMP TIMESTAMPNTZ
    TIMESTAMPTZ DATETIME TINYINT VARCHAR
    """
)

SYSTEM_PREFIXES = ("sqlite_", "pragma_", "pg_", "duckdb_", "information_schema", "dbstat", "fts3", "bytecode")
"""How the names of tables begin that belong to the database system; refused even where they could be read."""
