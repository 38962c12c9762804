"""How submissions and runs go wrong, and jobs that end as they are told."""

import random
from collections import deque

from watcher.simulate.jobs import ScoringJobs

SBATCH = (*3 * ("error", "hang", "limit", "refused"), "lost", "down", "silent", "garbage")
STATES = ("NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY", "FAILED", "COMPLETED", "vanish", "CANCELLED")
ENDINGS = (0, 0, 0, 0, 1, 66, 75, *8 * ("PREEMPTED", "preempted"), "requeue", *STATES)


class Work(ScoringJobs):
    """Runs end as the machine says."""

    def __init__(self, whole):
        super().__init__(random.Random(0), whole=whole, odds={}, seconds=(300.0, 3000.0))
        self.endings = deque()

    def _draw(self):
        return self.endings.popleft() if self.endings else 0
