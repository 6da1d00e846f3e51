"""Backups into a directory on disk, without sync except in the cases that say so."""

import os
from pathlib import Path

import limit
from clients import Failed, run
from cluster import put_away
from rounds import Case, take_turns
from streams import workers

PG_BASEBACKUP = "pg_basebackup -Fp --no-sync"
PGBACKREST = "pgBackRest, 2 processes"
CP = "cp -r"
STANZA = "bench"


def driven(count):
    """Name of a case."""
    return f"{workers(count)}, tar"


def by_program(count):
    """The same with the program that comes with the extension."""
    return f"{workers(count)}, pg_parallel_backup"


def measure_directory(cluster, settings, notes):
    """Measures with the tablespace behind its link, mapped to a separate location."""
    target = Path(settings["target"])
    copy, tablespace = target / "data", target / "tablespace"

    def prepare():
        target.mkdir()
        # Dirty pages of the last case must not slow the next one down.
        os.sync()

    def driver(count, *options):
        environment = {**os.environ, "PATH": f"{cluster.bin}:{os.environ['PATH']}"}
        run(
            [settings["driver"], "-d", cluster.conninfo, "-D", copy, "-j", str(count), "-c", "fast",
             "-T", f"{cluster.tablespace}={tablespace}", "--no-wal", "--no-verify", *options],
            env=environment,
        )  # fmt: skip

    def program(count):
        run(
            [cluster.bin / "pg_parallel_backup", "-d", cluster.conninfo, "-X", "none", "-c", "fast",
             "-N", "-j", str(count), "-D", copy, "-T", f"{cluster.tablespace}={tablespace}"]
        )  # fmt: skip

    def pg_basebackup():
        run(
            [cluster.bin / "pg_basebackup", *cluster.address, "-Fp", "-X", "none", "-c", "fast",
             "--no-sync", "-D", copy, "-T", f"{cluster.tablespace}={tablespace}"]
        )  # fmt: skip

    def cp():
        # pg_wal is copied too; it is small.
        run(["cp", "-r", cluster.data, cluster.tablespace, target])

    cases = [
        Case(PG_BASEBACKUP, pg_basebackup),
        *(Case(driven(n), lambda n=n: driver(n, "--no-sync")) for n in (1, 2, 4)),
        *(Case(by_program(n), lambda n=n: program(n)) for n in (1, 2, 4)),
        Case(f"{driven(2)}, synced", lambda: driver(2)),
        Case(CP, cp),
    ]
    if settings["limit"]:
        cases += [
            Case(limit.limit(n, into="directory"),
                 lambda n=n: limit.send(cluster, settings, n, into=target))
            for n in (1, 2, 4)
        ]  # fmt: skip
    for case in cases:
        case.prepare = prepare
    if settings["pgbackrest"]:
        rival = PgBackRest(cluster, settings["pgbackrest"], target)
        cases.append(
            Case(PGBACKREST, rival.backup, prepare=lambda: (prepare(), rival.make_stanza()))
        )
        notes.append(
            "pgBackRest cannot be told not to wait for the disk: it syncs each file. "
            f"\"{driven(2)}, synced\" waits for the disk too, once, at its end."
        )
    else:
        notes.append(f"{PGBACKREST}: not measured. {settings['pgbackrest_note']}")
    for case in cases:
        case.check = lambda _run: check_size(target, settings["bytes"])
        case.clean = lambda: put_away(target, Path(settings["trash"]))
    cluster.show_tablespace()
    try:
        return take_turns(cluster, cases, settings["repeats"], notes)
    finally:
        cluster.hide_tablespace()


def check_size(target, expected):
    """Refuses runs that copied too little."""
    size = 0
    for folder, _, names in os.walk(target):
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
    if size < 0.95 * expected:
        raise Failed(f"only {size} of {expected} bytes are in the backup")


class PgBackRest:
    """Options for a repository below the target, so that pgBackRest writes nowhere else."""

    def __init__(self, cluster, program, target):
        self.target = target
        self.command = [
            program, f"--stanza={STANZA}", "--no-config", f"--pg1-path={cluster.data}",
            f"--pg1-socket-path={cluster.socket}", f"--pg1-port={cluster.port}",
            "--pg1-user=postgres", f"--repo1-path={target}/repository",
            f"--lock-path={target}/lock", "--log-level-console=off", "--log-level-stderr=warn",
            "--log-level-file=off", f"--log-path={target}/log",
        ]  # fmt: skip

    def make_stanza(self):
        """Prepares for the first backup."""
        run([*self.command, "stanza-create"])

    def backup(self):
        """Takes a full backup."""
        run(
            [*self.command, "--type=full", "--process-max=2", "--compress-type=none",
             "--no-archive-check", "--start-fast", "--repo1-retention-full=1", "backup"]
        )  # fmt: skip
