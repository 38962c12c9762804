"""A real browser for the page, Debian's chromium, where this is root on Debian; and npm's packages for its tests.

python tests/support/browser.py install      what `make test` does first; says why where it cannot be had
python tests/support/browser.py uplot        takes the page's chart library anew from npm, in the version below
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("chromium", "chromium-driver", "npm")
PROGRAMS = ("chromium", "chromedriver", "npm")
NPM_VERSIONS = {"uplot": "1.6.32", "axe-core": "4.14.1"}
CACHE = Path(sys.prefix) / "share" / "npm"
VENDOR = ROOT / "watcher" / "report" / "page" / "vendor" / "uplot"
PAGE_LOAD_SECONDS = 120.0
VENDORED = {"uPlot.iife.min.js": "dist/uPlot.iife.min.js", "uPlot.min.css": "dist/uPlot.min.css", "LICENSE": "LICENSE"}
CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


def find_missing_requirement():
    """Why there can be no browser here; None where there can."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {' '.join(absent)} (make browser)" if absent else None


def find_npm_package(name):
    """The folder of an npm package that was fetched; None where it was not."""
    folder = CACHE / f"{name}@{NPM_VERSIONS[name]}" / "package"
    return folder if (folder / "package.json").is_file() else None


def fetch_npm_package(name):
    """Fetch an npm package, without running anything of it."""
    target = CACHE / f"{name}@{NPM_VERSIONS[name]}"
    if find_npm_package(name) is None:
        with tempfile.TemporaryDirectory() as aside:
            command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{NPM_VERSIONS[name]}"]
            subprocess.run(command, cwd=aside, check=True, stdout=subprocess.DEVNULL, timeout=300)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            with tarfile.open(next(Path(aside).glob("*.tgz"))) as archive:
                archive.extractall(target, filter="data")
    return target / "package"


def install_browser():
    """Install what is missing with apt-get, and fetch npm's packages; the reason where that is not possible."""
    if any(shutil.which(name) is None for name in PROGRAMS) and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        wanted = [package for package, program in zip(PACKAGES, PROGRAMS, strict=True) if shutil.which(program) is None]
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted]
        if subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode:
            subprocess.run(["apt-get", "update", "-q"], env=environment, stdout=sys.stderr, check=False)
            subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    for name in NPM_VERSIONS:
        try:
            fetch_npm_package(name)
        except (OSError, subprocess.SubprocessError, StopIteration) as error:
            return f"npm cannot fetch {name}: {error}"
    return find_missing_requirement()


def refresh_vendored_scripts():
    """Put the chart library of ``NPM_VERSIONS`` where the page takes it from."""
    package = fetch_npm_package("uplot")
    for name, path in VENDORED.items():
        shutil.copyfile(package / path, VENDOR / name)
    (VENDOR / "VERSION").write_text(json.loads((package / "package.json").read_text())["version"] + "\n")


BROWSER_SCHEMES = ("chrome:", "chrome-untrusted:", "chrome-extension:", "devtools:")
"""How addresses of the browser's own pages begin."""


def _get_requested_address(event):
    """The address that an event of the network tells of, where a shown page asks for one."""
    fields = event["params"]
    if event["method"] == "Network.requestWillBeSent":
        return None if fields["documentURL"].startswith(BROWSER_SCHEMES) else fields["request"]["url"]
    return fields["url"] if event["method"] in {"Network.webSocketCreated", "Network.webTransportCreated"} else None


def list_outside_requests(addresses, page):
    """Those of ``addresses`` that are neither the page itself nor written out in it."""
    return [address for address in addresses if address != Path(page).resolve().as_uri() and not address.startswith("data:")]


class ChromiumBrowser:
    """A headless chromium with a profile of its own, that notes what is asked of the network and what its console says."""

    def __init__(self):
        from selenium import webdriver  # noqa: PLC0415
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

        self.profile = tempfile.mkdtemp(prefix="chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={self.profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def open_file(self, path, *, width=1280, height=900, dark=False):
        """Open a file as somebody with that window and that taste would."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.take_console_and_requests()
        address = Path(path).resolve().as_uri()
        self.driver.get(address)
        # On a busy machine get() can return while the page before this one is still shown.
        deadline = time.monotonic() + PAGE_LOAD_SECONDS
        while self.run("return [document.URL.split('#')[0], document.readyState]") != [address, "complete"]:
            assert time.monotonic() < deadline, f"{address} does not load"
            time.sleep(0.05)
        return self

    def run(self, script, *arguments):
        """What a function body gives in the page."""
        return self.driver.execute_script(script, *arguments)

    def take_console_and_requests(self):
        """(messages on the console, addresses that were asked for) since the last call.

        The browser's own pages (its new tab, which may still be loading) are left out, whatever they ask for: what counts is
        which document asks. What the shown page asks for counts whatever its address is.
        """
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message for message in console if not message.startswith(BROWSER_SCHEMES)], list(
            filter(None, map(_get_requested_address, events))
        )

    def save_screenshot(self, path):
        """Save what the window shows."""
        Path(path).write_bytes(self.driver.get_screenshot_as_png())

    def close(self):
        """End it, and forget its profile."""
        with contextlib.suppress(OSError):
            self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["uplot"]:
        refresh_vendored_scripts()
    else:
        reason = install_browser()
        if reason:
            print(reason, file=sys.stderr)
            sys.exit(1)
