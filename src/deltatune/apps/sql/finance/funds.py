"""The rows of the funds database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.apps.sql.finance.draw import LAST_DAY, Batch, Draw, Floats, Size, business_days, quarter_ends
from deltatune.apps.sql.finance.words import (
    CITIES,
    COMPANY_HEADS,
    COMPANY_TAILS,
    DEGREES,
    FAMILY,
    GIVEN,
    INDUSTRIES,
    STEMS,
)

__all__ = ["rows"]

TYPES = ("equity", "mixed", "bond", "index", "money")
# By type: yearly drift and volatility, the usual share of stocks and bonds, the management fee.
HABITS = {
    "equity": (0.07, 0.22, 88, 3, 1.5),
    "mixed": (0.06, 0.14, 62, 25, 1.2),
    "bond": (0.035, 0.03, 4, 88, 0.6),
    "index": (0.06, 0.2, 94, 1, 0.5),
    "money": (0.02, 0.001, 0, 55, 0.3),
}
CLASSES = {"equity": "equity", "index": "equity", "mixed": "mixed", "bond": "bond", "money": "cash"}
TOPICS = ("Select", "Leaders", "Horizon", "Opportunity", "Core", "Prime", "Future", "Stable")
STYLES = ("Growth", "Value", "Balanced", "Income")
INDICES = (
    ("Broad Market 300", "equity"),
    ("Small Companies 500", "equity"),
    ("Technology 50", "equity"),
    ("Aggregate Bond", "bond"),
    ("Treasury 1-3 Years", "bond"),
    ("Balanced 60/40", "mixed"),
    ("Overnight Cash", "cash"),
)


def rows(size: Size, seed: int) -> Iterator[Batch]:
    """All tables in the order of their foreign keys; a fund's series come in one piece."""
    companies = max(4, size.members // 12)
    stocks = min(max(20, size.members // 2), len(COMPANY_HEADS) * len(COMPANY_TAILS))
    managers = max(10, size.members // 2)
    yield from _small_tables(companies, stocks, managers, seed)
    draw = Draw(seed, "funds:info")
    kinds = draw.pick(TYPES, size.members, (30, 28, 20, 14, 8))
    owners = draw.whole(1, companies, size.members)
    info = _info(size.members, kinds, owners, draw)
    yield "mf_info", info
    yield "mf_mgr_hist", _history(size.members, managers, Draw(seed, "funds:history"))
    performance: list[dict[str, Any]] = []
    for i, kind in enumerate(kinds):
        code, own = _fund(i), Draw(seed, f"funds:{i}")
        navs = _navs(code, kind, size.days, own)
        yield "mf_nav", navs
        yield from _quarters(code, kind, size.quarters, float(info["mgt_fee"][i]), stocks, own)
        if kind != "money" and own.uniform(0, 1, 1)[0] < 0.6:
            yield "mf_div", _dividends(code, own)
        performance.append(_performance(code, kind, np.asarray(navs["acc_nav"]), own))
    yield "mf_perf", _ranked(performance, kinds)


def _fund(i: int) -> str:
    return f"{i + 1:06d}"


def _small_tables(companies: int, stocks: int, managers: int, seed: int) -> Iterator[Batch]:
    draw = Draw(seed, "funds:companies")
    names = draw.names(STEMS, ("Asset Management", "Capital", "Funds", "Investment Partners"), companies)
    yield (
        "mf_company",
        {
            "co_code": [f"C{i + 1:03d}" for i in range(companies)],
            "co_name": [f"{name} Limited" for name in names],
            "co_abbr": names,
            "city": draw.pick(CITIES, companies),
            "est_dt": draw.days("1996-01-01", "2016-12-31", companies),
            "reg_cap": draw.large(240, 0.6, companies),
            "emp_cnt": draw.whole(60, 900, companies),
            "is_bank_sub": draw.whole(0, 1, companies),
        },
    )
    yield (
        "mf_bmk_idx",
        {
            "idx_code": [f"IDX{i + 1:02d}" for i in range(len(INDICES))],
            "idx_name": [name for name, _ in INDICES],
            "idx_cls": [kind for _, kind in INDICES],
            "base_dt": draw.days("1995-01-01", "2010-12-31", len(INDICES)),
            "base_pt": np.full(len(INDICES), 1000.0),
        },
    )
    names = draw.names(COMPANY_HEADS, COMPANY_TAILS, stocks)
    yield (
        "mf_security",
        {
            "stk_code": [f"S{i + 1:05d}" for i in range(stocks)],
            "stk_abbr": names,
            "ind_name": [INDUSTRIES[name.split()[1]][0] for name in names],
            "exch": draw.pick(("NORTH", "SOUTH", "HARBOR"), stocks, (5, 4, 1)),
        },
    )
    yield (
        "mf_manager",
        {
            "mgr_id": np.arange(1, managers + 1),
            "mgr_name": draw.names(GIVEN, FAMILY, managers),
            "gender": draw.pick(("F", "M"), managers, (2, 3)),
            "edu": draw.pick(DEGREES, managers, (1, 6, 3)),
            "co_code": [f"C{i:03d}" for i in draw.whole(1, companies, managers)],
            "start_dt": draw.days("2002-01-01", "2020-12-31", managers),
        },
    )


def _info(count: int, kinds: list[str], owners: NDArray[np.int64], draw: Draw) -> dict[str, Any]:
    names = draw.names(STEMS, [f"{style} {topic}" for style in STYLES for topic in TOPICS], count)
    opened = draw.days("2008-01-01", "2021-12-31", count)
    known = {
        kind: [f"IDX{i + 1:02d}" for i, (_, cls) in enumerate(INDICES) if cls == kind] for kind in CLASSES.values()
    }
    offset = draw.whole(0, 5, count)
    return {
        "fnd_code": [_fund(i) for i in range(count)],
        "fnd_name": [f"{name} {kind.title()} Fund" for name, kind in zip(names, kinds, strict=True)],
        "fnd_abbr": names,
        "co_code": [f"C{i:03d}" for i in owners],
        "fnd_type": kinds,
        "inv_style": [name.split()[1].lower() for name in names],
        "idx_code": [
            known[CLASSES[kind]][i % len(known[CLASSES[kind]])] for kind, i in zip(kinds, offset, strict=True)
        ],
        "est_dt": opened,
        "lst_dt": opened + draw.whole(20, 90, count),
        "rais_shr": draw.large(400, 0.7, count),
        "par_val": np.ones(count),
        "mgt_fee": np.round([HABITS[kind][4] for kind in kinds] * draw.uniform(0.8, 1.2, count), 2),
        "cst_fee": draw.uniform(0.05, 0.25, count, 2),
        "sub_fee": draw.uniform(0, 1.5, count, 2),
        "rdm_fee": draw.uniform(0, 0.75, count, 2),
        "min_sub": [float(x) for x in draw.pick(("10", "100", "1000"), count, (5, 3, 2))],
        "risk_lvl": [{"money": 1, "bond": 2, "mixed": 3, "index": 4, "equity": 4}[kind] for kind in kinds]
        + draw.whole(0, 1, count),
        "curr": draw.pick(("LCU", "USD"), count, (9, 1)),
        "cust_bank": [f"{name} Bank" for name in draw.pick(COMPANY_HEADS[:8], count)],
        "opr_mode": draw.pick(("open", "closed"), count, (9, 1)),
        "is_etf": [int(kind == "index" and chance < 3) for kind, chance in zip(kinds, offset, strict=True)],
        "is_qdii": draw.whole(0, 9, count) // 9,
        "stk_lim": [float(min(95, HABITS[kind][2] + 10)) for kind in kinds],
        "bnd_lim": [float(min(95, HABITS[kind][3] + 10)) for kind in kinds],
        "stat": draw.pick(("active", "suspended", "liquidated"), count, (17, 2, 1)),
    }


def _history(count: int, managers: int, draw: Draw) -> dict[str, Any]:
    """One or two managers a fund, one after the other; the last one is still in charge."""
    found: dict[str, list[Any]] = {"fnd_code": [], "mgr_id": [], "beg_dt": [], "end_dt": [], "ret_tnr": []}
    for i in range(count):
        people = draw.some(managers, 1 + int(draw.whole(0, 1, 1)[0])) + 1
        starts = np.sort(draw.days("2018-01-01", "2022-06-30", len(people)) + np.arange(len(people)) * 300)
        ends = [*(starts[1:] - 1), np.datetime64("NaT")]
        found["fnd_code"] += [_fund(i)] * len(people)
        found["mgr_id"] += people.tolist()
        found["beg_dt"] += list(starts)
        found["end_dt"] += ends
        found["ret_tnr"] += draw.normal(8, 20, len(people)).round(2).tolist()
    return found


def _navs(code: str, kind: str, days: int, draw: Draw) -> dict[str, Any]:
    drift, spread = HABITS[kind][:2]
    own = drift + float(draw.normal(0, 0.05, 1)[0]) * (spread > 0.01)
    total = np.round(draw.path(draw.uniform(0.9, 2.2, 1)[0], own / 250, spread / 250**0.5, days), 4)
    paid = np.round(draw.uniform(0, 0.3, 1)[0] * (kind != "money"), 4)
    before = np.concatenate([total[:1], total[:-1]])
    return {
        "fnd_code": [code] * days,
        "nav_dt": business_days(days),
        "unit_nav": np.round(total - paid, 4),
        "acc_nav": total,
        "chg_pct": np.round(100 * (total / before - 1), 4),
    }


def _quarters(code: str, kind: str, count: int, fee: float, stocks: int, draw: Draw) -> Iterator[Batch]:
    ends, codes = quarter_ends(count), [code] * count
    begin, subscribed, redeemed, end = np.empty(count), np.empty(count), np.empty(count), np.empty(count)
    shares = float(draw.large(500, 0.9, 1)[0])
    flows = draw.uniform(0.01, 0.2, 2 * count)
    for i in range(count):
        begin[i] = shares
        subscribed[i] = round(shares * flows[2 * i], 2)
        redeemed[i] = round(shares * flows[2 * i + 1], 2)
        shares = end[i] = round(begin[i] + subscribed[i] - redeemed[i], 2)
    worth = np.round(draw.path(1.4, 0.01, HABITS[kind][1] / 2, count), 4)
    net = np.round(end * worth, 2)
    institutions = draw.uniform(2, 90, count, 2)
    yield (
        "mf_scale",
        {
            "fnd_code": codes,
            "rpt_dt": ends,
            "beg_shr": begin,
            "sub_shr": subscribed,
            "rdm_shr": redeemed,
            "end_shr": end,
            "net_ast": net,
            "hld_cnt": draw.whole(800, 90_000, count),
            "inst_pct": institutions,
            "indv_pct": np.round(100 - institutions, 2),
        },
    )
    stock_share, bond_share = HABITS[kind][2:4]
    stock, bond, cash, other = draw.parts(
        np.full(count, 100.0), (stock_share, bond_share, 100 - stock_share - bond_share, 1), noise=0.1
    )
    yield (
        "mf_alloc",
        {"fnd_code": codes, "rpt_dt": ends, "stk_pct": stock, "bnd_pct": bond, "csh_pct": cash, "oth_pct": other},
    )
    yield "mf_fin", {"fnd_code": codes, "rpt_dt": ends, **_statement(kind, net, fee, draw)}
    if stock_share > 50:
        for end_day, assets, share in zip(ends, net, stock, strict=True):
            yield "mf_holding", _holdings(code, end_day, float(assets), float(share), stocks, draw)


def _statement(kind: str, net: Floats, fee: float, draw: Draw) -> dict[str, Floats]:
    """Income less costs is the profit, and the parts of both add up; in thousands, where `net` is in millions."""
    count, spread = len(net), HABITS[kind][1]
    weight = HABITS[kind][2] / 100
    parts = {
        "int_inc": net * (1.1 - weight) * 5 * np.exp(draw.normal(0, 0.2, count)),
        "div_inc": net * weight * 4 * np.exp(draw.normal(0, 0.3, count)),
        "stk_gain": net * weight * draw.normal(6, 60, count),
        "bnd_gain": net * (1 - weight) * draw.normal(2, 5, count),
        "fv_chg": net * spread * draw.normal(20, 200, count),
        "oth_inc": net * 0.1 * np.exp(draw.normal(0, 0.5, count)),
    }
    costs = {
        "mgt_exp": net * fee * 2.5,
        "cst_exp": net * 0.4 * np.exp(draw.normal(0, 0.1, count)),
        "trd_exp": net * weight * np.exp(draw.normal(0, 0.4, count)),
        "int_exp": net * 0.2 * np.exp(draw.normal(0, 0.6, count)),
        "oth_exp": net * 0.05 * np.exp(draw.normal(0, 0.3, count)),
    }
    parts, costs = ({name: np.round(x, 2) for name, x in group.items()} for group in (parts, costs))
    income, spent = np.round(sum(parts.values()), 2), np.round(sum(costs.values()), 2)
    return {**parts, "tot_inc": income, **costs, "tot_exp": spent, "net_prf": np.round(income - spent, 2)}


def _holdings(code: str, day: np.datetime64, assets: float, share: float, stocks: int, draw: Draw) -> dict[str, Any]:
    """The ten largest positions, by value; together they are at most the fund's stocks."""
    weights = np.sort(draw.uniform(1, 9, 10, 2))[::-1] * min(1, share / 90)
    values = np.round(assets * weights / 100, 2)
    return {
        "fnd_code": [code] * 10,
        "rpt_dt": [day] * 10,
        "rnk": np.arange(1, 11),
        "stk_code": [f"S{i + 1:05d}" for i in draw.some(stocks, 10)],
        "shr_num": np.round(values / draw.uniform(4, 90, 10), 4),
        "mkt_val": values,
        "nav_pct": np.round(weights, 2),
    }


def _dividends(code: str, draw: Draw) -> dict[str, Any]:
    count = int(draw.whole(1, 4, 1)[0])
    first = int(draw.whole(2021, 2024, 1)[0]) - count + 1
    days = np.array([draw.days(f"{first + i}-02-01", f"{first + i}-11-30", 1)[0] for i in range(count)])
    return {
        "fnd_code": [code] * count,
        "ex_dt": days,
        "reg_dt": days - 1,
        "pay_dt": days + 3,
        "div_10": draw.uniform(0.1, 2.5, count, 2),
        "div_tot": draw.large(12, 0.8, count),
    }


def _performance(code: str, kind: str, navs: Floats, draw: Draw) -> dict[str, Any]:
    """What the daily series tells where it is long enough, and drawn where it is not."""
    drift, spread = HABITS[kind][:2]
    year = float(draw.normal(100 * drift, 100 * spread, 1)[0])
    values = draw.normal(0, 1, 12)

    def over(days: int, years: float) -> float:
        if len(navs) > days:
            return round(100 * float(navs[-1] / navs[-1 - days] - 1), 2)
        return round(year * years + float(values[0]) * spread * 10, 2)

    def noisy(i: int, mean: float, scale: float) -> float:
        return round(mean + scale * float(values[i]), 4)

    risk = max(0.05, 100 * spread * (1 + 0.1 * float(values[1])))
    one = over(250, 1)
    return {
        "fnd_code": code,
        "stat_dt": LAST_DAY,
        "ret_1w": over(5, 0.02),
        "ret_1m": over(21, 0.08),
        "ret_3m": over(63, 0.25),
        "ret_6m": over(125, 0.5),
        "ret_1y": one,
        "ret_3y": over(750, 3),
        "ret_est": noisy(2, 300 * drift, 100 * spread),
        "vol_1y": round(risk, 2),
        "mdd_1y": round(-risk * (0.8 + 0.2 * abs(float(values[3]))), 2),
        "shrp_1y": round((one - 1.5) / risk, 4),
        "sort_1y": round((one - 1.5) / (0.7 * risk), 4),
        "alpha_1y": noisy(4, 0.5, 3),
        "beta_1y": noisy(5, HABITS[kind][2] / 100, 0.05),
        "ir_1y": noisy(6, 0.1, 0.5),
        "te_1y": abs(noisy(7, 4, 2)),
        "win_1y": round(min(100.0, max(0.0, 55 + 12 * float(values[8]))), 2),
        "up_cap": noisy(9, 95, 10),
        "dn_cap": noisy(10, 92, 12),
        "star": int(min(5, max(1, round(3 + float(values[11]))))),
    }


def _ranked(found: list[dict[str, Any]], kinds: list[str]) -> dict[str, Any]:
    """The funds' figures column by column, with their ranks within the type."""
    for kind in set(kinds):
        group = [row for row, own in zip(found, kinds, strict=True) if own == kind]
        for rank, ret in (("rnk_1m", "ret_1m"), ("rnk_1y", "ret_1y")):
            for place, row in enumerate(sorted(group, key=lambda row: (-row[ret], row["fnd_code"])), start=1):
                row[rank] = place
        for row in group:
            row["typ_cnt"] = len(group)
    return {name: [row[name] for row in found] for name in found[0]}
