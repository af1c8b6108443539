"""The databases: the same for the same seed, whole in their references, and consistent in their sums."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.generate import generate, rows
from deltatune.apps.sql.reflect import read_database
from deltatune.apps.sql.run import Reader
from deltatune.errors import ConfigError

# The values that the first release has made. If they change, published results on them are no longer comparable.
DIGESTS = {"funds": "fd424a9d31b49057", "equities": "1099e7b384c421cc", "macro": "938eb3798681ef74"}


def digest(name: str, seed: int) -> str:
    found = hashlib.sha256()
    for table, columns in rows(name, "tiny", seed):
        found.update(table.name.encode())
        for values in columns.values():
            found.update(values.tobytes() if values.dtype != object else "\0".join(values).encode())
    return found.hexdigest()


@pytest.mark.parametrize("name", SOURCES)
def test_a_seed_always_makes_the_same_values(name: str) -> None:
    assert digest(name, 0)[:16] == DIGESTS[name]
    assert digest(name, 1) == digest(name, 1) != digest(name, 0)


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_of_one_seed_is_the_same_to_the_byte(name: str, tmp_path: Path) -> None:
    for copy in ("a.sqlite", "b.sqlite"):
        generate(name, tmp_path / copy, size="tiny", seed=3)
    assert (tmp_path / "a.sqlite").read_bytes() == (tmp_path / "b.sqlite").read_bytes()


@pytest.mark.parametrize("name", SOURCES)
def test_the_schema_is_as_in_the_field(name: str) -> None:
    schema = database(name)
    assert 8 <= len(schema.tables) <= 14
    assert max(len(table.columns) for table in schema.tables) >= 20
    assert all(column.comment for table in schema.tables for column in table.columns)
    assert all(any(column.key for column in table.columns) for table in schema.tables)


@pytest.mark.parametrize("name", SOURCES)
def test_every_reference_leads_to_a_row_and_every_key_is_unique(name: str) -> None:
    held: dict[str, dict[str, list[object]]] = {}
    for table, columns in rows(name, "tiny"):
        own = held.setdefault(table.name, {column: [] for column in columns})
        for column, values in columns.items():
            own[column] += values.tolist()
    for table in database(name).tables:
        keys = list(zip(*(held[table.name][c.name] for c in table.columns if c.key), strict=True))
        assert len(keys) == len(set(keys)), table.name
        for column in table.columns:
            if column.references:
                target, other = column.references
                assert set(held[table.name][column.name]) <= set(held[target][other]), (table.name, column.name)


SUMS = {
    "funds": {
        "mf_scale": ["end_shr - (beg_shr + sub_shr - rdm_shr)", "inst_pct + indv_pct - 100"],
        "mf_alloc": ["stk_pct + bnd_pct + csh_pct + oth_pct - 100"],
        "mf_fin": [
            "int_inc + div_inc + stk_gain + bnd_gain + fv_chg + oth_inc - tot_inc",
            "mgt_exp + cst_exp + trd_exp + int_exp + oth_exp - tot_exp",
            "tot_inc - tot_exp - net_prf",
        ],
    },
    "equities": {
        "eq_quote": ["cls - pre_cls - chg"],
        "eq_bal": [
            "tot_ast - tot_liab - tot_eqt",
            "cur_ast + nca - tot_ast",
            "csh + trd_ast + acct_rcv + invty + prepay + oth_cur_ast - cur_ast",
            "fix_ast + cip + intan_ast + gdwl + lt_inv + oth_nca - nca",
            "st_loan + acct_pay + adv_rcv + tax_pay + oth_cur_liab - cur_liab",
            "lt_loan + bnd_pay + oth_ncl - ncl",
            "sh_cap + cap_rsv + ret_ern + min_int - tot_eqt",
        ],
        "eq_inc": [
            "opr_rev - opr_cost - tax_sur - sell_exp - adm_exp - rd_exp - fin_exp + inv_inc - imp_loss - opr_prf",
            "opr_prf + non_opr - tot_prf",
            "tot_prf - inc_tax - net_prf",
        ],
        "eq_cf": ["opr_cf + inv_cf + fin_cf - net_cf", "inv_in - capex - inv_cf"],
    },
    "macro": {
        "mc_gdp": ["cons_prv + cons_gov + inv_fix + inv_stk + exp_gs - imp_gs - gdp_nom"],
        "mc_trade": ["exp_val - imp_val - trd_bal"],
        "mc_labor": ["empl + unempl - lab_frc"],
        "mc_fiscal": ["rev_tax + rev_oth - rev_tot", "rev_tot - exp_tot - bdg_bal"],
    },
}


@pytest.mark.parametrize("name", SOURCES)
def test_parts_add_up_to_their_totals(name: str, sqlite_readers: dict[str, Reader]) -> None:
    for table, differences in SUMS[name].items():
        for difference in differences:
            (worst,) = sqlite_readers[name].run(f"SELECT MAX(ABS({difference})) FROM {table}").rows[0]
            assert worst < 0.006, (table, difference)


def test_prices_and_curves_are_plausible(sqlite_readers: dict[str, Reader]) -> None:
    wrong = "SELECT COUNT(*) FROM eq_quote WHERE low > opn OR low > cls OR hgh < opn OR hgh < cls OR low <= 0"
    assert sqlite_readers["equities"].run(wrong).rows == ((0,),)
    chain = (
        "SELECT COUNT(*) FROM mf_scale AS a WHERE NOT EXISTS "
        "(SELECT 1 FROM mf_scale AS b WHERE b.fnd_code = a.fnd_code AND b.end_shr = a.beg_shr) "
        "AND a.rpt_dt > (SELECT MIN(rpt_dt) FROM mf_scale)"
    )
    assert sqlite_readers["funds"].run(chain).rows == ((0,),)
    assert sqlite_readers["macro"].run("SELECT COUNT(*) FROM mc_policy WHERE rate_new < 0").rows == ((0,),)


def test_what_is_read_back_is_what_was_defined(addresses: dict[str, str]) -> None:
    for name, address in addresses.items():
        found, wanted = read_database(address, samples=2), database(name)
        assert {table.name for table in found.tables} == {table.name for table in wanted.tables}
        for table in wanted.tables:
            read = found.table(table.name)
            assert read.comment == table.comment
            for own, column in zip(read.columns, table.columns, strict=True):
                assert (own.name, own.type, own.key) == (column.name, column.type, column.key)
                assert own.comment == column.comment
                assert own.references == column.references
                assert 1 <= len(own.samples) <= 2 or own.name == "end_dt"


def test_every_kind_of_database_holds_the_same_values(
    readers: dict[str, Reader], sqlite_readers: dict[str, Reader]
) -> None:
    for name in SOURCES:
        for table in database(name).tables:
            keys = ", ".join(column.name for column in table.columns if column.key)
            sql = f"SELECT * FROM {table.name} ORDER BY {keys}"
            wanted, found = sqlite_readers[name].run(sql), readers[name].run(sql)
            dates = {i for i, column in enumerate(table.columns) if column.type == "date"}
            text = [tuple(str(v) if i in dates and v else v for i, v in enumerate(row)) for row in found.rows]
            assert text == list(wanted.rows), table.name


def test_larger_sizes_hold_more() -> None:
    for chosen in SOURCES.values():
        sizes = list(chosen.sizes.values())
        products = [size.members * size.days for size in sizes]
        assert products == sorted(products)
    assert SOURCES["funds"].sizes["large"].members * SOURCES["funds"].sizes["large"].days > 3_000_000


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "here.sqlite"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="expected a new file"):
        generate("funds", path, size="tiny")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "bonds"}, "database: expected one of funds, equities, macro, found 'bonds'"),
        ({"size": "huge"}, "size: expected one of tiny, small, medium, large, found 'huge'"),
        ({"target": "x.txt"}, r"expected a file ending in .*, found 'x.txt'"),
        ({"target": "mysql://host/x"}, "expected one of sqlite, duckdb, postgresql, found mysql"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, str], message: str) -> None:
    given = {"name": "funds", "target": "x.sqlite", "size": "tiny"} | settings
    with pytest.raises(ConfigError, match=message):
        generate(given["name"], given["target"], size=given["size"])


def test_names_never_run_out() -> None:
    from deltatune.apps.sql.finance.draw import Draw

    names = Draw(0, "x").names(("A", "B"), ("C", "D"), 11)
    assert len(set(names)) == 11
    assert np.issubdtype(Draw(0, "x").whole(0, 1, 3).dtype, np.int64)
