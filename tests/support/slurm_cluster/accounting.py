"""The database behind slurmdbd, and the accounts and QOS that the tests submit under."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from support.slurm_cluster.conf import ClusterLayout, write_secret

ACCOUNT = "lab"
QOS_FEW = "few"
"""A QOS that takes two jobs of a user at a time, of half an hour at most."""


def mariadb_command(folder: Path, layout: ClusterLayout) -> list[str]:
    """How the server starts; the first time, its data folder is made. CalledProcessError where that fails."""
    data = folder / "sql"
    if not data.is_dir():
        with (folder / "log/mariadb-install.log").open("wb") as log:
            subprocess.run(
                [
                    "mariadb-install-db",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={data}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--skip-name-resolve",
                ],
                stdout=log,
                stderr=log,
                check=True,
            )
    init = folder / "etc/init.sql"
    grants = (
        "CREATE DATABASE IF NOT EXISTS slurm_acct;\n"
        f"CREATE OR REPLACE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{layout.sql_password}';\n"
        "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';\n"
    )
    write_secret(init, grants.encode())
    return [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={data}",
        "--bind-address=127.0.0.1",
        f"--port={layout.sql_port}",
        f"--socket={folder}/run/sql.sock",
        f"--pid-file={folder}/run/sql.pid",
        f"--init-file={init}",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-lock-wait-timeout=900",  # slurmdbd asks for this and the next
        "--max-allowed-packet=16M",
        "--innodb-flush-log-at-trx-commit=0",  # nothing here must outlive a power cut
        "--innodb-flush-method=nosync",
        "--innodb-use-native-aio=0",
    ]


def fill_accounts(folder: Path, layout: ClusterLayout, tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The cluster, two QOS, one account and its users; done once. CalledProcessError with sacctmgr's words.

    One sacctmgr with its commands on stdin: a process each would cost up to 0.6 s each.
    """
    done = folder / "etc/accounts.done"  # not under state/, which tests of a lost StateSaveLocation empty
    if done.exists():
        return
    users = ",".join(dict.fromkeys(["root", *layout.users]))
    commands = [
        f"add cluster {layout.name}",
        f"add qos {QOS_FEW} set MaxWall=00:30:00 MaxSubmitJobsPerUser=2",
        f"add account {ACCOUNT} Description={ACCOUNT} Organization={ACCOUNT}",
        f"add user {users} Account={ACCOUNT} QOS=normal,{QOS_FEW} DefaultQOS=normal",
        f"modify user root set DefaultAccount={ACCOUNT}",
        "exit",
    ]
    ran = tool("sacctmgr", "-i", "-Q", text="\n".join(commands) + "\n")
    (folder / "log/sacctmgr.log").write_text(ran.stdout + ran.stderr)
    ran.check_returncode()
    done.touch()
