"""The state machine of one watcher, where the watchers of two clusters take turns on one state folder."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from support.runs.state_machine import EVENT_COUNTS, STEP, DaemonStateMachine
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import CommandResult


class DaemonsOfTwoClustersMachine(DaemonStateMachine):
    """Either cluster's commands list, and know, the jobs that were submitted there."""

    cluster = "north"

    def __init__(self):
        self.cluster_of_job = {}
        super().__init__()

    def restart_executor(self):
        self.watched.executor = SlurmExecutor(
            per_minute=60, user="me", environment={}, clock=self.watched.clock, run=self.run_on_cluster
        )

    def run_on_cluster(self, command, environment, timeout):
        """What the cluster that this watcher's commands talk to answers."""
        result = self.slurm.run(command, environment, timeout)
        if command[:3] == ["scontrol", "show", "config"] and result.exit_code == 0:
            return CommandResult(0, f"ClusterName = {self.cluster}\n", "")
        if command[0] == "sbatch":
            name = next(option.partition("=")[2] for option in command if option.startswith("--job-name="))
            self.cluster_of_job[name] = self.cluster
        elsewhere = [name for name, cluster in self.cluster_of_job.items() if cluster != self.cluster]
        lines = [line for line in result.stdout.splitlines(keepends=True) if not any(name in line for name in elsewhere)]
        EVENT_COUNTS["a job that another cluster has"] += len(lines) < len(result.stdout.splitlines())
        return result._replace(stdout="".join(lines))

    @rule(cluster=st.sampled_from(["north", "south"]), killed=st.booleans(), step=STEP)
    def the_watcher_of_a_cluster_takes_over(self, cluster, killed, step):
        self.save_checkpoint(step)
        self.run_polls()
        self.change_cluster(cluster, killed=killed)
        self.run_polls(2)
        self.run_polls(2, seconds=900.0)

    def change_cluster(self, cluster, *, killed):
        EVENT_COUNTS["another cluster takes over"] += cluster != self.cluster
        if killed:
            self.watched.kill_daemon()
        else:
            self.watched.close_daemon()
        self.cluster = cluster
        self.restart_executor()

    @rule(step=STEP, kind=st.just("retry"))
    def a_person_asks(self, step, kind):
        """No cancel: a simulated job leaves no sign of life once its scancel was lost."""
        super().a_person_asks(step, kind)

    def teardown(self):
        """Each cluster's watcher ends what is its own."""
        self.faults.clear()
        self.scoring_jobs.endings.clear()
        self.slurm.queue_delay_seconds = self.slurm.accounting_delay_seconds = 0.0
        self.slurm.has_accounting = True
        for cluster in ("north", "south", "north", "south"):
            self.change_cluster(cluster, killed=False)
            for _ in range(15):
                self.watched.tick(seconds=600.0, jobs=False)
                self.one_live_submission()
        super().teardown()
