"""What report.html costs to make, how large it is, and how soon it can be used: 200 evaluations of 30 figures."""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from support import browser
from support.samples.report import ReportSample

STAGE_STEPS = {"stage1": tuple(range(1000, 101_000, 1000)), "stage2": tuple(range(500, 50_000, 500))}
BRIDGES = {"stage2": ("stage1", 100_000)}
FIGURE_NAMES = tuple(f"slice_{number}" for number in range(16)), tuple(f"task_{number}" for number in range(14)), ()
PAGE_TIMES_SCRIPT = "const all = performance.getEntriesByType('navigation')[0]; return [all.domInteractive, all.loadEventEnd];"
REPEATS = 7
PEAK_MEMORY_PROGRAM = """
import sys
from pathlib import Path
from watcher.cli.app import main
main(sys.argv[1:], standalone_mode=False)
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


def measure_report(folder: Path) -> dict:
    """Medians of REPEATS, each a process or a page load of its own."""
    sample = ReportSample(folder / "run", steps=STAGE_STEPS, of=lambda _stage: FIGURE_NAMES, bridges=BRIDGES).write_sample()
    page = sample.results / "report.html"
    command = [sys.executable, "-c", PEAK_MEMORY_PROGRAM, "report", "--html", str(page), "--config", str(sample.config_file)]
    walls, cpus = [], []
    for _ in range(REPEATS):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    found = {
        "evaluations": sum(len(sample.list_evaluations(stage)) for stage in STAGE_STEPS),
        "figures": sum(map(len, FIGURE_NAMES)),
        "bytes": page.stat().st_size,
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "rss_mib": int(said.split()[-1]) / 1024,
    }
    if browser.find_missing_requirement() is None:
        chromium = browser.ChromiumBrowser()
        try:
            loads = [chromium.open_file(page).run(PAGE_TIMES_SCRIPT) for _ in range(REPEATS)]
            found["chromium"] = chromium.driver.capabilities["browserVersion"]
        finally:
            chromium.close()
        found["interactive_ms"], found["loaded_ms"] = (statistics.median(each) for each in zip(*loads, strict=True))
    return found
