"""The rows of the equities database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deltatune.apps.sql.finance.draw import LAST_DAY, Batch, Draw, Floats, Size, business_days, quarter_ends
from deltatune.apps.sql.finance.words import (
    CITIES,
    COMPANY_HEADS,
    COMPANY_TAILS,
    DEGREES,
    FAMILY,
    GIVEN,
    INDUSTRIES,
    PROVINCES,
    STEMS,
)

__all__ = ["rows"]

HOLDERS = ("state", "fund", "insurer", "person", "foreign")
RATINGS = ("buy", "add", "hold", "sell")
SPENDING = (0.006, 0.04, 0.03, 0.02)
CURRENT = ("csh", "trd_ast", "acct_rcv", "invty", "prepay", "oth_cur_ast")
FIXED = ("fix_ast", "cip", "intan_ast", "gdwl", "lt_inv", "oth_nca")
SOON = ("st_loan", "acct_pay", "adv_rcv", "tax_pay", "oth_cur_liab")
LATER = ("lt_loan", "bnd_pay", "oth_ncl")
EQUITY = ("sh_cap", "cap_rsv", "ret_ern", "min_int")
POSITIONS = ("chair", "chief executive", "chief financial officer", "director", "secretary")


def rows(size: Size, seed: int) -> Iterator[Batch]:
    """All tables in the order of their foreign keys; a company's series come in one piece."""
    yield (
        "eq_ind",
        {
            "ind_code": [f"I{i + 1:02d}" for i in range(len(INDUSTRIES))],
            "ind_name": [name for name, _ in INDUSTRIES.values()],
            "sec_name": [sector for _, sector in INDUSTRIES.values()],
        },
    )
    info = _info(size.members, Draw(seed, "equities:info"))
    yield "eq_info", info
    for i, code in enumerate(info["stk_code"]):
        own = Draw(seed, f"equities:{i}")
        total, free = float(info["tot_shr"][i]), float(info["flt_shr"][i])
        quotes = _quotes(code, size.days, free, own)
        yield "eq_quote", quotes
        if info["is_mgn"][i]:
            yield "eq_mgn", _margin(code, size.days, own)
        revenue = np.round(_revenue(size.quarters, own), 2)
        yield from _statements(code, size.quarters, revenue, total, own)
        yield "eq_val", _valuations(code, np.asarray(quotes["cls"]), total, free, float(revenue[-4:].sum()), own)
        yield from _owners(code, size.quarters, total, own)
        yield "eq_exec", _people(code, own)
        yield "eq_rating", _ratings(i, code, float(quotes["cls"][-1]), own)


def _revenue(count: int, draw: Draw) -> Floats:
    """Quarterly revenue with growth and a season, million."""
    start = float(draw.large(900, 1.1, 1)[0])
    return draw.path(start, 0.015, 0.06, count) * (1 + 0.08 * np.sin(np.arange(count) * np.pi / 2))


def _info(count: int, draw: Draw) -> dict[str, Any]:
    names = draw.names(COMPANY_HEADS, COMPANY_TAILS, count)
    codes = {tail: f"I{i + 1:02d}" for i, tail in enumerate(INDUSTRIES)}
    total = draw.large(800, 0.9, count)
    employees = np.round(draw.large(3000, 1, count)).astype(np.int64) + 50
    listed = draw.days("1995-01-01", "2021-12-31", count)
    return {
        "stk_code": [f"{600001 + i}" for i in range(count)],
        "stk_abbr": names,
        "comp_name": [f"{name} Corporation" for name in names],
        "ind_code": [codes[name.split()[1]] for name in names],
        "exch": draw.pick(("NORTH", "SOUTH", "HARBOR"), count, (5, 4, 1)),
        "board": draw.pick(("main", "growth", "small"), count, (6, 3, 1)),
        "lst_dt": listed,
        "est_dt": listed - draw.whole(1500, 9000, count),
        "prov": draw.pick(PROVINCES, count),
        "city": draw.pick(CITIES, count),
        "reg_cap": total,
        "iss_prc": draw.uniform(3, 60, count, 2),
        "iss_shr": np.round(total * draw.uniform(0.1, 0.4, count), 2),
        "tot_shr": total,
        "flt_shr": np.round(total * draw.uniform(0.3, 1, count), 2),
        "emp_cnt": employees,
        "rd_cnt": (employees * draw.uniform(0.01, 0.35, count)).astype(np.int64),
        "audit_co": draw.pick([f"{a} & {b}" for a, b in zip(FAMILY[::3], FAMILY[1::3], strict=False)], count),
        "chair": draw.names(GIVEN, FAMILY, count),
        "is_soe": draw.whole(0, 2, count) // 2,
        "is_mgn": draw.whole(0, 1, count),
        "is_st": draw.whole(0, 19, count) // 19,
        "curr": ["LCU"] * count,
        "fy_end": ["12"] * count,
    }


def _quotes(code: str, days: int, free: float, draw: Draw) -> dict[str, Any]:
    closes = np.round(draw.path(draw.uniform(4, 90, 1)[0], 0.0002, 0.021, days + 1), 2)
    before, close = closes[:-1], closes[1:]
    first = np.round(before * (1 + draw.normal(0, 0.006, days)), 2)
    high = np.round(np.maximum(first, close) * (1 + np.abs(draw.normal(0, 0.006, days))), 2)
    low = np.round(np.minimum(first, close) * (1 - np.abs(draw.normal(0, 0.006, days))), 2)
    turnover = draw.large(1.1, 0.5, days, 4)
    volume = (turnover / 100 * free * 1e6).astype(np.int64)
    return {
        "stk_code": [code] * days,
        "trd_dt": business_days(days),
        "pre_cls": before,
        "opn": first,
        "hgh": high,
        "low": low,
        "cls": close,
        "chg": np.round(close - before, 2),
        "chg_pct": np.round(100 * (close / before - 1), 4),
        "vol": volume,
        "amt": np.round(volume * (high + low) / 2000, 2),
        "trn_rt": turnover,
    }


def _margin(code: str, days: int, draw: Draw) -> dict[str, Any]:
    bought, repaid = draw.large(5200, 0.6, days), draw.large(5000, 0.6, days)
    start = float(bought.sum() + repaid.sum())
    return {
        "stk_code": [code] * days,
        "trd_dt": business_days(days),
        "fin_buy": bought,
        "fin_rpy": repaid,
        "fin_bal": np.round(start + np.cumsum(bought - repaid), 2),
        "sht_sell": draw.whole(0, 60_000, days),
        "sht_bal": draw.whole(20_000, 400_000, days),
    }


def _statements(code: str, count: int, revenue: Floats, shares: float, draw: Draw) -> Iterator[Batch]:
    """The three statements of each quarter; parts add up to their totals, and assets to liabilities and equity."""
    ends = quarter_ends(count)
    months = ends.astype("datetime64[M]").astype(int)
    key: dict[str, Any] = {"stk_code": [code] * count, "rpt_dt": ends}
    margin = float(draw.uniform(-0.12, 0.32, 1)[0])
    cost = np.round(revenue * (1 - margin) * draw.uniform(0.7, 0.85, count), 2)
    sur, sell, admin, research = (np.round(revenue * draw.uniform(low, 2 * low, count), 2) for low in SPENDING)
    interest = np.round(revenue * draw.normal(0.01, 0.008, count), 2)
    gains, losses = np.round(revenue * draw.normal(0.01, 0.02, count), 2), np.round(revenue * 0.006, 2)
    operating = np.round(revenue - cost - sur - sell - admin - research - interest + gains - losses, 2)
    other = np.round(revenue * draw.normal(0, 0.006, count), 2)
    before_tax = np.round(operating + other, 2)
    tax = np.round(np.maximum(before_tax, 0) * 0.25, 2)
    profit = np.round(before_tax - tax, 2)
    owners = np.round(profit * draw.uniform(0.9, 1, count), 2)
    yield (
        "eq_inc",
        {
            **key,
            "rpt_yr": 1970 + months // 12,
            "rpt_qtr": months % 12 // 3 + 1,
            "opr_rev": revenue,
            "opr_cost": cost,
            "tax_sur": sur,
            "sell_exp": sell,
            "adm_exp": admin,
            "rd_exp": research,
            "fin_exp": interest,
            "inv_inc": gains,
            "imp_loss": losses,
            "opr_prf": operating,
            "non_opr": other,
            "tot_prf": before_tax,
            "inc_tax": tax,
            "net_prf": profit,
            "net_prf_par": owners,
            "eps": np.round(owners / shares, 4),
        },
    )
    assets = np.round(draw.path(float(revenue[0]) * 6, 0.012, 0.02, count), 2)
    debts = np.round(assets * float(draw.uniform(0.2, 0.75, 1)[0]) * draw.uniform(0.95, 1.05, count), 2)
    yield "eq_bal", {**key, **_balance(assets, debts, draw)}
    yield "eq_cf", {**key, **_cash(revenue, cost, draw)}


def _balance(assets: Floats, debts: Floats, draw: Draw) -> dict[str, Floats]:
    current, fixed = draw.parts(assets, (4, 5))
    soon, later = draw.parts(debts, (3, 2))
    equity = np.round(assets - debts, 2)

    def split(names: tuple[str, ...], total: Floats, weights: tuple[float, ...]) -> dict[str, Floats]:
        return dict(zip(names, draw.parts(total, weights), strict=True))

    return {
        **split(CURRENT, current, (4, 1, 3, 3, 0.6, 0.8)),
        "cur_ast": current,
        **split(FIXED, fixed, (6, 1, 1.5, 0.8, 1.5, 1)),
        "nca": fixed,
        "tot_ast": assets,
        **split(SOON, soon, (3, 4, 1.5, 0.4, 1.2)),
        "cur_liab": soon,
        **split(LATER, later, (4, 2, 1)),
        "ncl": later,
        "tot_liab": debts,
        **split(EQUITY, equity, (3, 3, 5, 0.6)),
        "tot_eqt": equity,
    }


def _cash(revenue: Floats, cost: Floats, draw: Draw) -> dict[str, Floats]:
    count = len(revenue)

    def share(low: float, high: float) -> Floats:
        return np.round(revenue * draw.uniform(low, high, count), 2)

    sales, other, staff, taxes = share(0.95, 1.12), share(0.01, 0.04), share(0.08, 0.14), share(0.02, 0.06)
    goods = np.round(cost * draw.uniform(0.85, 1.3, count), 2)
    operating = np.round(sales + other - goods - staff - taxes, 2)
    received, spent = share(0.01, 0.08), share(0.04, 0.16)
    investing = np.round(received - spent, 2)
    loans, repaid, paid = share(0.02, 0.15), share(0.02, 0.14), share(0.005, 0.03)
    financing = np.round(loans - repaid - paid, 2)
    return {
        "sale_in": sales,
        "oth_opr_in": other,
        "goods_out": goods,
        "staff_out": staff,
        "tax_out": taxes,
        "opr_cf": operating,
        "inv_in": received,
        "capex": spent,
        "inv_cf": investing,
        "loan_in": loans,
        "rpy_out": repaid,
        "div_out": paid,
        "fin_cf": financing,
        "net_cf": np.round(operating + investing + financing, 2),
    }


def _valuations(code: str, closes: Floats, total: float, free: float, sales: float, draw: Draw) -> dict[str, Any]:
    """At the last trading day of each month that the prices cover."""
    days = business_days(len(closes))
    months = days.astype("datetime64[M]")
    last = np.flatnonzero(np.append(months[1:] != months[:-1], True))
    price, count = closes[last], len(last)
    worth = np.round(price * total, 2)
    earnings = sales * float(draw.normal(0.08, 0.06, 1)[0])
    return {
        "stk_code": [code] * count,
        "val_dt": days[last],
        "cls": price,
        "tot_mv": worth,
        "flt_mv": np.round(price * free, 2),
        "pe_ttm": np.round(worth / earnings, 2) if earnings > 0 else np.full(count, np.nan),
        "pb": np.round(worth / (sales * float(draw.uniform(0.6, 2.5, 1)[0])), 2),
        "ps_ttm": np.round(worth / sales, 2),
        "dvd_yld": draw.uniform(0, 6, count, 2),
    }


def _owners(code: str, quarters: int, total: float, draw: Draw) -> Iterator[Batch]:
    names = draw.names(STEMS, ("Holdings", "Group", "Pension", "Life", "Fund", "Ventures"), 7)
    kinds = draw.pick(HOLDERS, 7, (2, 4, 2, 3, 2))
    for day in quarter_ends(min(quarters, 4)):
        shares = np.sort(draw.uniform(0.5, 14, 7, 2))[::-1]
        shares[0] += float(draw.uniform(0, 30, 1, 2)[0])
        yield (
            "eq_holder",
            {
                "stk_code": [code] * 7,
                "rpt_dt": [day] * 7,
                "rnk": np.arange(1, 8),
                "hld_name": names,
                "hld_type": kinds,
                "hld_shr": np.round(total * shares / 100, 4),
                "hld_pct": np.round(shares, 2),
            },
        )
    count = int(draw.whole(0, 5, 1)[0])
    if count:
        days = np.array(
            [draw.days(f"{2025 - count + i}-03-01", f"{2025 - count + i}-05-31", 1)[0] for i in range(count)]
        )
        paid = ["paid"] * (count - 1)
        yield (
            "eq_div",
            {
                "stk_code": [code] * count,
                "ann_dt": days,
                "ex_dt": days + 40,
                "csh_10": draw.large(1.8, 0.8, count),
                "bns_10": [float(x) for x in draw.pick(("0", "2", "5"), count, (8, 1, 1))],
                "stat": [*paid, *draw.pick(("paid", "approved", "proposed"), 1)],
            },
        )


def _people(code: str, draw: Draw) -> dict[str, Any]:
    count = len(POSITIONS)
    ends = draw.days("2023-01-01", "2024-12-01", count)
    ends[draw.uniform(0, 1, count) < 0.75] = np.datetime64("NaT")
    return {
        "stk_code": [code] * count,
        "exec_id": np.arange(1, count + 1),
        "exec_name": draw.names(GIVEN, FAMILY, count),
        "pos": POSITIONS,
        "gender": draw.pick(("F", "M"), count, (3, 7)),
        "birth_yr": draw.whole(1952, 1988, count),
        "edu": draw.pick(DEGREES, count, (4, 5, 2)),
        "beg_dt": draw.days("2016-01-01", "2022-12-31", count),
        "end_dt": ends,
        "pay_k": draw.large(900, 0.6, count),
        "hld_shr": draw.whole(0, 900_000, count),
    }


def _ratings(place: int, code: str, price: float, draw: Draw) -> dict[str, Any]:
    count = int(draw.whole(2, 9, 1)[0])
    houses = [f"{stem} Research" for stem in STEMS[:8]]
    earnings = draw.uniform(0.05, 4, count, 2)
    return {
        "rtg_id": place * 10 + np.arange(1, count + 1),
        "stk_code": [code] * count,
        "org_name": draw.pick(houses, count),
        "rtg_dt": np.sort(draw.days("2024-01-01", str(LAST_DAY), count)),
        "rtg": draw.pick(RATINGS, count, (5, 3, 3, 1)),
        "pre_rtg": draw.pick(RATINGS, count, (5, 3, 3, 1)),
        "tgt_prc": np.round(price * draw.uniform(0.8, 1.5, count), 2),
        "eps_fy1": earnings,
        "eps_fy2": np.round(earnings * draw.uniform(0.9, 1.35, count), 2),
    }
