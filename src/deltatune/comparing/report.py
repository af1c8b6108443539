"""The report: one HTML file that needs nothing else, no network, no font and no library."""

from __future__ import annotations

import html
import json
from pathlib import Path

from deltatune.comparing.results import Comparison
from deltatune.comparing.table import is_close, remarks

__all__ = ["report"]

_PAGE = Path(__file__).parent / "page"


def report(found: Comparison) -> str:
    """The report as HTML: the setting, the table, the Pareto plot and the loss curves; all figures are in it."""
    data = found.to_dict()
    for plain, row in zip(data["rows"], found.rows, strict=True):
        plain["close"] = is_close(row)
    data["remarks"] = remarks(found)
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # so that no string in it ends the script
    parts = {
        "TITLE": html.escape(f"{found.about['base']}: {len(found.rows)} methods compared"),
        "STYLE": (_PAGE / "style.css").read_text(encoding="utf-8"),
        "SCRIPT": (_PAGE / "script.js").read_text(encoding="utf-8"),
        "DATA": text,
    }
    page = (_PAGE / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        page = page.replace(f"@@{name}@@", part)
    return page
