"""Whose job a run is, and whether somebody's queue can list it. Pure."""

import msgspec

from suites.common.formatting import strip_control_characters


class JobOwner(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who submitted a job, and where: a queue lists the jobs of its own owner only."""

    executor: str
    """``slurm`` or ``local``."""
    uid: int
    user: str
    cluster: str = ""
    """Slurm's ClusterName; empty where it could not be asked, and for a local process."""
    host: str = ""
    """The machine that submitted it."""
    machine: str = ""
    """Digest of that machine's id, since two clusters may have a host of one name; empty where unknown."""

    def __str__(self) -> str:
        """``ada (uid 1001) on cluster lab``, or ``ada (uid 1001) on host login01``."""
        place = f"host {self.host}"
        if self.executor == "slurm":
            place = f"cluster {self.cluster}" if self.cluster else f"the unnamed cluster of {self.host}"
        return strip_control_characters(f"{self.user} (uid {self.uid}) on {place}")

    def is_same_host(self, other: "JobOwner") -> bool:
        """Whether both are on one machine, as far as that is known."""
        return self.host == other.host and (not self.machine or not other.machine or self.machine == other.machine)

    def find_blind_spot(self, other: "JobOwner | None") -> str:
        """Why this owner's queue does not list the other's jobs.

        Empty where it does. An unknown owner is not another one: None gives an empty text.
        """
        if other is None:
            return ""
        if self.executor != other.executor:
            return f"this watcher uses executor {self.executor}, not {other.executor}"
        if self.uid != other.uid:
            return strip_control_characters(f"this watcher is run by {self.user} (uid {self.uid})")
        if self.executor != "slurm":
            return "" if self.is_same_host(other) else f"this watcher runs on {self.host}"
        if self.cluster == other.cluster:
            return ""
        if not self.cluster:
            return "scontrol does not tell this cluster's name now"
        # The name was not to be had at its submission; a login node belongs to one cluster.
        if not other.cluster:
            return "" if self.is_same_host(other) else f"this watcher runs on {self.host}, on cluster {self.cluster}"
        return f"this watcher asks cluster {self.cluster}"
