"""One browser and one finished run for all tests of the page; skipped where there is no browser."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import browser
from support.samples.report import ReportSample

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """In CI a missing browser is a failure of the tests that need it, not a skip."""
    reason = browser.find_missing_requirement()
    if reason is None or os.environ.get("CI"):
        return
    for item in items:
        if item.path.is_relative_to(HERE) and "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def chromium():
    made = browser.ChromiumBrowser()
    yield made
    made.close()


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    return ReportSample(tmp_path_factory.mktemp("run")).write_sample()


@pytest.fixture(scope="session")
def render():
    """Make report.html of a finished run, as the daemon does."""

    def make(sample):
        page = sample.results / "report.html"
        command = [sys.executable, "-m", "watcher", "report", "--html", str(page), "--config", str(sample.config_file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
        return page

    return make


@pytest.fixture(scope="session")
def page(sample, render):
    return render(sample)
