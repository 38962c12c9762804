"""One state folder that several users or clusters look after with ``watcher once``, as their crons would.

The scorer is a stand-in that writes down when it begins and ends, so that two runs of one evaluation at a time are seen.
"""

import grp
import json
import os
import pwd
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from support.runs.scripts import write_stand_in_scorer, write_watcher_script
from support.runs.short_timeouts import SHORT_TIMEOUTS
from support.runs.two_stages import REPOSITORY_ROOT, TwoStagesRun
from support.slurm_cluster.cluster import SlurmCluster
from support.slurm_cluster.daemon import SLURM_CONFIG
from support.slurm_cluster.install import ensure_unix_user

GROUP = "labgroup"

_SCORER_LINES = """\
import json
def note_run(what):
    note(f"{what} {request.evaluation} {time.time()} {os.getuid()} {os.environ['SLURM_CLUSTER_NAME']}")
request.paths.folder.mkdir(parents=True, exist_ok=True)
(request.paths.progress_json).write_text(json.dumps({"run_id": request.run_id}))  # as the real one does each minute
note_run("begin")
time.sleep(random.uniform(0, float((root / "seconds").read_text())))
wait_while_held()
publish_scores(request)
note_run("end")
"""


class Caller(NamedTuple):
    """Whose ``watcher once`` it is."""

    user: str
    cluster: SlurmCluster


class Run(NamedTuple):
    """One line of the stand-in."""

    what: str
    evaluation: str
    at: float
    uid: int
    cluster: str


def find_python(user: str, path: Sequence[str]) -> str:
    """A Python that this user can run, with our packages. RuntimeError where there is none."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin") or ""):
        code = f"import sys; sys.path[:0] = {list(path)!r}; import msgspec, click, structlog, watcher.cli.app"
        who = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
        # A link may lead into a home that is closed to others.
        commands = ([*who, "test", "-x", os.path.realpath(python)], [*who, python, "-c", code])
        if python and all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands):
            return python
    raise RuntimeError(f"no python of {user} finds our packages")


def ensure_group(users: Sequence[str]) -> int:
    """The group of these users; they exist then."""
    try:
        number = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        subprocess.run(["groupadd", GROUP], check=True)
        number = grp.getgrnam(GROUP).gr_gid
    for user in users:
        ensure_unix_user(user)
        subprocess.run(["usermod", "--append", "--groups", GROUP, user], check=True)
    return number


class SharedStateRun(TwoStagesRun):
    """A run whose folders belong to a group, setgid; ``umask`` is everybody's."""

    def __init__(
        self, root: Path, *, users: Sequence[str], umask: int, steps: Sequence[int], seconds: float = 0.0, share_state: bool
    ) -> None:
        """``seconds``: how long a job runs at most."""
        self.umask = umask
        group = ensure_group(users)
        packages = [path for path in sys.path if path.endswith("-packages")]
        path = [str(REPOSITORY_ROOT), str(REPOSITORY_ROOT / "tests"), *packages]
        python = find_python(users[0], path)
        settings = SLURM_CONFIG | {"python": str(root / "scorer"), "share_state": share_state}
        super().__init__(root, steps={"base": list(steps)}, executor="slurm", settings=settings)
        self.python = python
        umask_line = f"os.umask({umask:#o})"
        self.once_script = write_watcher_script(root / "once.py", SHORT_TIMEOUTS, import_path=path, first_lines=umask_line)
        write_stand_in_scorer(root, _SCORER_LINES, python=python, path=path)
        (root / "seconds").write_text(str(seconds))
        (root / "runs").touch()
        (root / "runs").chmod(0o666)
        os.chown(root, -1, group)
        root.chmod(0o2775)

    def once(self, caller: Caller, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``watcher once`` as that user, with the commands of that cluster."""
        return self.command(caller, "once", *arguments)

    def command(self, caller: Caller, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``watcher ARGUMENTS`` likewise."""
        who = ["setpriv", "--reuid", caller.user, "--regid", GROUP, "--init-groups"]
        return subprocess.run(
            [*who, self.python, str(self.once_script), *arguments, "--config", str(self.config)],
            env=caller.cluster.environment() | {"SCRATCH": str(self.root), "HOME": pwd.getpwnam(caller.user).pw_dir},
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
        )

    @property
    def runs(self) -> list[Run]:
        """What the stand-ins wrote, in order."""
        lines = (self.root / "runs").read_text().splitlines()
        return [Run(what, key, float(at), int(uid), cluster) for what, key, at, uid, cluster in (line.split() for line in lines)]

    def find_doubles(self) -> list[str]:
        """Evaluations of which two runs were at work at once, or that were submitted twice without a failure."""
        live: set[str] = set()
        doubles = []
        for run in sorted(self.runs, key=lambda run: run.at):
            if run.what == "begin" and run.evaluation in live:
                doubles.append(run.evaluation)
            (live.add if run.what == "begin" else live.discard)(run.evaluation)
        begun = Counter(run.evaluation for run in self.runs if run.what == "begin")
        return doubles + [key for key, count in begun.items() if count > 1]

    def read_status(self) -> dict:
        """status.json; empty before the first tick."""
        path = self.state / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def read_detail(self, step: int) -> str:
        """What status says of a step."""
        rows = self.read_status().get("stages", {}).get("base", {}).get("evaluations", [])
        return next((f"{row['state']}: {row['reason']}; {row['detail']}" for row in rows if row["step"] == step), "")

    def alternate(
        self, callers: Sequence[Caller], *, seconds: float, draw: random.Random, pause: float = 1.0
    ) -> Counter[tuple[str, int, str]]:
        """Crons of all callers for so long, while checkpoints appear; (user, exit code, last line) -> how often."""
        answers: Counter[tuple[str, int, str]] = Counter()
        missing, begin = list(self.steps["base"]), time.monotonic()
        interval = 0.7 * seconds / max(1, len(missing))
        while time.monotonic() - begin < seconds:
            if missing and time.monotonic() - begin > interval * (len(self.steps["base"]) - len(missing)):
                self.write_checkpoint("base", missing.pop(0))
            caller = draw.choice(callers)
            ended = self.once(caller)
            error = ended.stderr.strip().splitlines()[-1] if ended.returncode else ""
            answers[caller.user, ended.returncode, error.replace(str(self.root), "ROOT")] += 1
            time.sleep(draw.uniform(0, pause))
        return answers
