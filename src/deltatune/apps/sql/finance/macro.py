"""The rows of the macro database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.apps.sql.finance.draw import Batch, Draw, Size, business_days, month_ends, quarter_ends

__all__ = ["rows"]

HEADS = ("Al", "Bel", "Cor", "Dra", "El", "Fen", "Gal", "Hes", "Is", "Jor", "Kal", "Lor", "Mar", "Nor", "Os", "Pel")
TAILS = ("davia", "mark", "onia", "rica", "stan", "tania", "vador", "wick", "zania", "landia", "garde", "melia")
CONTINENTS = ("Aurelia", "Boreas", "Meridia", "Orienta")
PRICES = ("clth", "hous", "furn", "hlth", "tran", "comm", "recr", "educ", "rest", "misc", "engy", "good", "serv")
TENORS = {"3m": 0.25, "6m": 0.5, "1y": 1, "2y": 2, "3y": 3, "5y": 5, "7y": 7, "10y": 10, "20y": 20, "30y": 30}


def rows(size: Size, seed: int) -> Iterator[Batch]:
    """All tables in the order of their foreign keys; a region's series come in one piece."""
    draw = Draw(seed, "macro:regions")
    regions = _regions(size.members, draw)
    yield "mc_region", regions
    scale = draw.large(180, 1.3, size.members)
    for i, code in enumerate(regions["reg_code"]):
        own = Draw(seed, f"macro:{i}")
        output = _output(code, size.quarters, float(scale[i]), own)
        yield "mc_gdp", output
        months = month_ends(3 * size.quarters)
        yield from _monthly(code, months, float(scale[i]), own)
        yield "mc_policy", _policy(code, months, own)
        yield from _daily(code, regions["cur_code"][i], size.days, own)
        yield from _yearly(code, i, regions["reg_code"], output, own)


def _regions(count: int, draw: Draw) -> dict[str, Any]:
    names = [name.replace(" ", "") for name in draw.names(HEADS, TAILS, count)]
    return {
        "reg_code": [f"R{i + 1:03d}" for i in range(count)],
        "reg_name": names,
        "cont": draw.pick(CONTINENTS, count),
        "inc_grp": draw.pick(("high", "upper", "lower"), count, (4, 4, 2)),
        "cur_code": [f"{name[:2].upper()}{i + 1:02d}" for i, name in enumerate(names)],
        "cb_name": [f"Bank of {name}" for name in names],
        "capital": [
            f"{name[:3]}{end}" for name, end in zip(names, draw.pick(("burg", "ton", "polis"), count), strict=True)
        ],
        "area_km": draw.large(300, 1, count, 1),
        "eu_flag": draw.whole(0, 1, count),
    }


def _output(code: str, count: int, scale: float, draw: Draw) -> dict[str, Any]:
    """Gross domestic product by its uses; the parts add up."""
    ends = quarter_ends(count)
    months = ends.astype("datetime64[M]").astype(int)
    total = np.round(draw.path(scale / 4, 0.012, 0.012, count), 2)
    private, public, fixed, stocks, net = draw.parts(total, (56, 18, 23, 1, 2))
    imports = np.round(total * draw.uniform(0.2, 0.4, count), 2)
    return {
        "reg_code": [code] * count,
        "stat_dt": ends,
        "stat_yr": 1970 + months // 12,
        "stat_qtr": months % 12 // 3 + 1,
        "cons_prv": private,
        "cons_gov": public,
        "inv_fix": fixed,
        "inv_stk": stocks,
        "exp_gs": np.round(imports + net, 2),
        "imp_gs": imports,
        "gdp_nom": total,
        "gdp_yoy": draw.around(2.4, 0.2, 0.8, count),
        "gdp_dfl": np.round(draw.path(100, 0.006, 0.003, count), 2),
    }


def _monthly(code: str, months: NDArray[np.datetime64], scale: float, draw: Draw) -> Iterator[Batch]:
    count = len(months)
    key: dict[str, Any] = {"reg_code": [code] * count, "stat_dt": months}
    index = np.round(draw.path(100, 0.002, 0.003, count + 12), 4)
    month = np.round(100 * (index[12:] / index[11:-1] - 1), 2)
    year = np.round(100 * (index[12:] / index[:-12] - 1), 2)
    groups = {f"{name}_yoy": np.round(year + draw.around(0, 0.2, 0.5, count), 2) for name in PRICES}
    core, food, made = (np.round(year + draw.around(0, 0.2, spread, count), 2) for spread in (0.2, 1.0, 1.5))
    prices = {"cpi_idx": index[12:], "cpi_mom": month, "cpi_yoy": year, "core_yoy": core, "food_yoy": food}
    yield "mc_cpi", {**key, **prices, **groups, "ppi_yoy": made}

    exports, imports = (np.round(draw.path(scale / 40, 0.003, 0.04, count + 12), 3) for _ in range(2))
    growth = [np.round(100 * (value[12:] / value[:-12] - 1), 2) for value in (exports, imports)]
    yield (
        "mc_trade",
        {
            **key,
            "exp_val": exports[12:],
            "imp_val": imports[12:],
            "trd_bal": np.round(exports[12:] - imports[12:], 3),
            "exp_yoy": growth[0],
            "imp_yoy": growth[1],
        },
    )
    force = np.round(draw.path(scale * 90, 0.0008, 0.002, count), 1)
    idle = np.round(force * np.clip(draw.around(6, 0.05, 0.25, count), 1, 30) / 100, 1)
    yield (
        "mc_labor",
        {
            **key,
            "lab_frc": force,
            "empl": np.round(force - idle, 1),
            "unempl": idle,
            "unemp_rt": np.round(100 * idle / force, 2),
            "wage_yoy": draw.around(3, 0.1, 0.4, count),
            "job_vac": np.round(force * draw.uniform(0.01, 0.04, count), 1),
        },
    )
    broad = np.round(draw.path(scale * 0.8, 0.005, 0.006, count + 12), 2)
    yield (
        "mc_money",
        {
            **key,
            "m0": np.round(broad[12:] * draw.uniform(0.05, 0.07, count), 2),
            "m1": np.round(broad[12:] * draw.uniform(0.3, 0.35, count), 2),
            "m2": broad[12:],
            "m2_yoy": np.round(100 * (broad[12:] / broad[:-12] - 1), 2),
            "loan_bal": np.round(broad[12:] * draw.uniform(0.8, 1.1, count), 2),
            "dep_bal": np.round(broad[12:] * draw.uniform(0.85, 0.93, count), 2),
            "fx_rsv": np.round(draw.path(scale * 0.15, 0.002, 0.02, count), 2),
        },
    )
    survey = (
        "pmi_mfg",
        "pmi_srv",
        "new_ord",
        "out_put",
        "emp_idx",
        "dlv_tm",
        "inv_idx",
        "exp_ord",
        "prc_in",
        "prc_out",
    )
    answers = {name: np.round(draw.around(50.5, 0.15, 1.1, count), 1) for name in survey}
    yield "mc_pmi", {**key, **answers, "pmi_cmp": np.round((answers["pmi_mfg"] + answers["pmi_srv"]) / 2, 1)}


def _policy(code: str, months: NDArray[np.datetime64], draw: Draw) -> dict[str, Any]:
    """A decision every other month; each starts from the rate that the one before has left."""
    days = months[::2] - draw.whole(3, 20, len(months[::2]))
    steps = np.array([int(x) for x in draw.pick(("-50", "-25", "0", "25", "50"), len(days), (1, 2, 6, 2, 1))])
    rate, old, new = round(float(draw.whole(4, 20, 1)[0]) / 4, 2), [], []
    for i, step in enumerate(steps):
        if rate + step / 100 < 0:
            steps[i] = step = 0
        old.append(rate)
        rate = round(rate + step / 100, 2)
        new.append(rate)
    votes = draw.whole(5, 9, len(days))
    return {
        "reg_code": [code] * len(days),
        "dec_dt": days,
        "rate_old": old,
        "rate_new": new,
        "chg_bp": steps,
        "vote_for": votes,
        "vote_agn": 9 - votes,
    }


def _daily(code: str, currency: str, count: int, draw: Draw) -> Iterator[Batch]:
    days = business_days(count)
    middle = np.round(draw.path(float(draw.large(8, 1.5, 1)[0]) + 0.2, 0, 0.004, count + 1), 4)
    spread = np.round(middle[1:] * 0.0008, 4)
    yield (
        "mc_fx",
        {
            "cur_code": [currency] * count,
            "trd_dt": days,
            "mid_rt": middle[1:],
            "bid_rt": np.round(middle[1:] - spread, 4),
            "ask_rt": np.round(middle[1:] + spread, 4),
            "chg_pct": np.round(100 * (middle[1:] / middle[:-1] - 1), 4),
        },
    )
    short, slope = draw.around(float(draw.uniform(1, 5, 1)[0]), 0.02, 0.05, count), draw.around(0.9, 0.02, 0.05, count)
    curve: dict[str, Any] = {
        f"y_{name}": np.round(short + slope * (1 - np.exp(-years / 5)) + draw.normal(0, 0.01, count), 3)
        for name, years in TENORS.items()
    }
    yield "mc_yield", {"reg_code": [code] * count, "trd_dt": days, **curve}


def _yearly(code: str, place: int, codes: list[str], output: dict[str, Any], draw: Draw) -> Iterator[Batch]:
    """Budgets, and trade with a few partners, in the years that the quarters cover."""
    years = np.unique(output["stat_yr"])
    count = len(years)
    yearly = np.array([output["gdp_nom"][output["stat_yr"] == year].sum() for year in years])
    taxes, other = np.round(yearly * draw.uniform(0.2, 0.36, count), 2), np.round(yearly * 0.04, 2)
    social, defence, schools, interest, rest = (
        np.round(yearly * draw.uniform(low, 1.4 * low, count), 2) for low in (0.12, 0.015, 0.04, 0.015, 0.08)
    )
    income, spent = np.round(taxes + other, 2), np.round(social + defence + schools + interest + rest, 2)
    debt = np.round(yearly * draw.path(float(draw.uniform(0.3, 1.1, 1)[0]), 0.01, 0.03, count), 2)
    yield (
        "mc_fiscal",
        {
            "reg_code": [code] * count,
            "stat_yr": years,
            "rev_tax": taxes,
            "rev_oth": other,
            "rev_tot": income,
            "exp_soc": social,
            "exp_def": defence,
            "exp_edu": schools,
            "exp_int": interest,
            "exp_oth": rest,
            "exp_tot": spent,
            "bdg_bal": np.round(income - spent, 2),
            "debt_tot": debt,
            "debt_gdp": np.round(100 * debt / yearly, 2),
        },
    )
    partners = [i for i in draw.some(len(codes), min(6, len(codes))) if i != place]
    pairs = len(partners) * count
    yield (
        "mc_partner",
        {
            "reg_code": [code] * pairs,
            "ptn_code": [codes[i] for i in partners for _ in years],
            "stat_yr": np.tile(years, len(partners)),
            "exp_val": draw.large(float(yearly.mean()) * 0.03, 0.8, pairs, 3),
            "imp_val": draw.large(float(yearly.mean()) * 0.03, 0.8, pairs, 3),
        },
    )
