"""What every test run has in common: no network, the same hypothesis examples in CI, and skips that say why."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import suites

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported: two workers share two cores

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # `make test &` in a script ignores Ctrl-C, and children inherit that

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if CI else "here")


def pytest_configure():
    """With EXPECT_INSTALLED the tests are of an installed wheel: finding the repository instead would prove nothing."""
    if os.environ.get("EXPECT_INSTALLED") and Path(suites.__file__).is_relative_to(ROOT / "suites"):
        raise pytest.UsageError(f"{suites.__file__} is the repository's, not an installed one")


def pytest_report_header():
    return f"CI: {'yes' if CI else 'no'}; suites, watcher and scoring from {Path(suites.__file__).parent.parent}"


def pytest_runtest_setup():
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Every reason for a skip once, with how many tests it keeps from running, also under -q."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run: {count} x {reason.removeprefix('Skipped: ')}")
