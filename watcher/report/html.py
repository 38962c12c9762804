"""The report as one HTML file that makes no request.

The data are JSON in a script element with "<", ">" and "&" escaped, and reach the page as text only. The page's policy allows
its two scripts and its styles by their digests, and nothing else.
"""

import base64
import hashlib
import json
import re
from pathlib import Path

from watcher.report.data import Report
from watcher.report.page_data import build_page_data

PAGE_FOLDER = Path(__file__).with_name("page")

UPLOT_FOLDER = PAGE_FOLDER / "vendor" / "uplot"

_POLICY_DENIALS = "img-src data:; base-uri 'none'; form-action 'none'"


def render_html(report: Report, results: Path) -> str:
    """The page; its links are relative to the folder ``results``."""
    data = json.dumps(build_page_data(report, results), allow_nan=False, separators=(",", ":"))
    # No character of the data can end the script element.
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    styles = _read_text(UPLOT_FOLDER / "uPlot.min.css") + _read_text(PAGE_FOLDER / "report.css")
    scripts = [_read_text(UPLOT_FOLDER / "uPlot.iife.min.js"), _read_text(PAGE_FOLDER / "report.js")]
    script_digests = " ".join(_compute_csp_digest(script) for script in scripts)
    # Digests instead of 'unsafe-inline': text from a model must never run as a script.
    policy = f"default-src 'none'; script-src {script_digests}; style-src {_compute_csp_digest(styles)}; {_POLICY_DENIALS}"
    substitutions = {
        "POLICY": policy,
        "STYLES": styles,
        "DATA": data,
        "LIBRARY": scripts[0],
        "PROGRAM": scripts[1],
    }
    # One pass over the template, so that a placeholder inside the data is not replaced.
    return re.sub(r"@@([A-Z]+)@@", lambda match: substitutions[match[1]], _read_text(PAGE_FOLDER / "report.html"))


def _compute_csp_digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
