"""How submissions and runs go wrong, and jobs that end as they are told."""

import random
from collections import deque

from watcher.simulate.jobs import SimulatedScoringJobs

SBATCH_FAULTS = (*3 * ("error", "hang", "limit", "refused", "words"), "lost", "down", "silent", "garbage")
ENDING_STATES = ("NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY", "FAILED", "COMPLETED", "vanish", "CANCELLED")
RUN_ENDINGS = (0, 0, 0, 0, 1, 66, 75, *8 * ("PREEMPTED", "preempted"), "requeue", *ENDING_STATES)


class ScriptedScoringJobs(SimulatedScoringJobs):
    """Runs end as the machine says."""

    def __init__(self, is_complete):
        super().__init__(
            random.Random(0), is_complete=is_complete, ending_probabilities={}, duration_range_seconds=(300.0, 3000.0)
        )
        self.endings = deque()

    def _draw_ending(self):
        return self.endings.popleft() if self.endings else 0
