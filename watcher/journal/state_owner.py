"""owner.json: the one user whose watchers look after a state folder.

Slurm lists a user's own jobs, and files of one user may not be writable for another. So one user at a time looks after
a state folder, unless the config says ``share_state``.
"""

import contextlib
import os
import pwd

import msgspec

from suites.common.atomic_files import create_once
from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import strip_control_characters
from suites.contract.encoding import encode_json
from suites.contract.paths import StatePaths
from watcher.core.processes import identify_process_owner


class StateOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose state folder it is: the first user's."""

    schema: int = 1
    uid: int
    user: str
    host: str = ""


def claim_state_folder(paths: StatePaths, *, shared: bool) -> None:
    """Note whose an unowned state folder is; refuse another user's.

    ``shared``: several users take turns. Raises UserError, or OSError where the folder cannot be used.
    """
    me = identify_process_owner("")
    if read_state_owner(paths) is None:
        create_once(paths.owner_json, encode_json(StateOwner(uid=me.uid, user=me.user, host=me.host)).decode())
    refuse_other_user(paths, shared=shared)  # another user may have been first


def refuse_other_user(paths: StatePaths, *, shared: bool) -> None:
    """Raise UserError for the state folder of another user, unless it is ``shared``. OSError."""
    me, owner = identify_process_owner(""), read_state_owner(paths)
    if shared or owner is None or owner.uid == me.uid:
        return
    whose = strip_control_characters(f"{owner.user} (uid {owner.uid})")
    raise UserError(
        f"this state folder is looked after by {whose}, one user at a time; you are {me.user} (uid {me.uid})",
        location=paths.state,
        hint=f"let {owner.user} run the watcher, set state: to a folder of yours, or share_state: true in the config",
        code=ExitCode.CANNOT_WRITE,
    )


def make_unusable_error(paths: StatePaths, error: OSError, *, shared: bool) -> UserError:
    """The error of a state folder that this user cannot use; it names another owner."""
    hint = "make it writable, or set state: in the config"
    whose = ""
    if isinstance(error, PermissionError):
        with contextlib.suppress(OSError, KeyError):
            uid = paths.state.stat().st_uid
            whose = "" if uid == os.geteuid() else f"; the folder is {pwd.getpwuid(uid).pw_name}'s (uid {uid})"
        if shared:
            hint = "share_state needs umask 002 for every user, and a setgid folder (README: Two users, two clusters)"
    message = f"the state folder is unusable: {error}{whose}"
    return UserError(message, location=paths.state, hint=hint, code=ExitCode.CANNOT_WRITE)


def read_state_owner(paths: StatePaths) -> StateOwner | None:
    """None where there is no owner.json, or nothing in it that names one. OSError."""
    try:
        return read_struct(paths.owner_json, StateOwner)
    except (FileNotFoundError, DamagedDocument):
        return None
