"""Backups through the client to /dev/null, or into the server's blackhole."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from clients import Client, Failed, Session, run
from rounds import Case, take_turns

PG_BASEBACKUP = "pg_basebackup -Ft -D -"
PG_BASEBACKUP_BLACKHOLE = "pg_basebackup -t blackhole"
BLACKHOLE = "1 worker, target blackhole"
METHODS = {"gzip": 3, "lz4": 3, "zstd": sys.maxsize}  # with the maximum number of runs
DROP_CACHES = "/proc/sys/vm/drop_caches"


def workers(count):
    """Name of a case."""
    return f"{count} worker{'s' if count > 1 else ''}"


def compressed(count, level):
    """Name of a case with compression."""
    return f"{workers(count)}, {level}"


def pg_basebackup_compressed(level):
    """Name of the case that it is compared with."""
    return f"pg_basebackup --compress=server-{level}"


# ---- ways to take a backup ---------------------------------------------------------------------


def pg_basebackup(cluster, *options):
    """Returns the size of its output."""
    program = cluster.bin / "pg_basebackup"
    return run([program, *cluster.address, "-X", "none", "-c", "fast", *options])


def streams(cluster, count, compression=None, manifest="CRC32C"):
    """start_backup, `count` workers at once, send_stop_backup. Returns the size of the workers'
    archives."""
    compressed_too = f", compression => '{compression}'" if compression else ""
    with Session(cluster) as leader:
        (backup_id,) = leader.ask(
            f"SELECT backup_id FROM start_backup(fast => true, manifest_checksums => '{manifest}');"
        )
        statement = f"COPY (SELECT send_backup_files({backup_id}{compressed_too})) TO STDOUT"
        # Start all clients before waiting for the first.
        clients = [Client([*cluster.psql(), "-c", statement]) for _ in range(count)]
        written = [client.finish() for client in clients]
        leader.copy(f"SELECT send_stop_backup(wait => false{compressed_too})")
    return None if None in written else sum(written)


def blackhole(cluster):
    """The same on the server alone. Nothing has been sent, so the backup is aborted."""
    with Session(cluster) as leader:
        (backup_id,) = leader.ask("SELECT backup_id FROM start_backup(fast => true);")
        statement = f"SELECT send_backup_files({backup_id}, target => 'blackhole')"
        run([*cluster.psql(), "-c", statement])
        leader.ask("SELECT abort_backup();")


def base_backup(cluster):
    """A whole backup in one statement."""
    return run(
        [*cluster.psql(), "-c", "COPY (SELECT base_backup(fast => true, wait => false)) TO STDOUT"]
    )


def tar(cluster):
    """tar does not read the files if its archive is /dev/null, so it writes to a pipe."""
    with contextlib.ExitStack() as stack:
        sink = Client(["cat"], stdin=subprocess.PIPE)
        stack.callback(sink.process.stdin.close)
        run(
            ["tar", "-c", "-f", "-", "--exclude=./pg_wal", "-C", cluster.data, "."],
            stdout=sink.process.stdin,
        )
    return sink.finish()


def check_size(cases, expected):
    """Refuses runs that sent too little. Archives are larger than their files."""

    def check(run):
        if run.written is not None and run.written < expected:
            raise Failed(f"only {run.written} of {expected} bytes are in the archives")

    for case in cases:
        case.check = check


# ---- parts -------------------------------------------------------------------------------------


def measure_nowhere(cluster, settings, notes):
    """Time to read, check and send a cluster."""
    cases = [
        Case(PG_BASEBACKUP, lambda: pg_basebackup(cluster, "-Ft", "-D", "-")),
        Case(workers(1), lambda: streams(cluster, 1)),
        Case(workers(2), lambda: streams(cluster, 2)),
        Case(workers(4), lambda: streams(cluster, 4)),
        Case("base_backup()", lambda: base_backup(cluster)),
        Case("tar c through a pipe", lambda: tar(cluster)),
    ]
    check_size(cases, settings["bytes"])
    cases += [
        Case(PG_BASEBACKUP_BLACKHOLE, lambda: pg_basebackup(cluster, "-t", "blackhole")),
        Case(BLACKHOLE, lambda: blackhole(cluster)),
    ]
    return take_turns(cluster, cases, settings["repeats"], notes, warm_up=True)


def measure_manifest(cluster, settings, notes):
    """Cost of the manifest's checksums."""
    cases = [
        Case(f"manifest {name}", lambda name=name: streams(cluster, 1, manifest=name))
        for name in ("NONE", "CRC32C", "SHA256")
    ]
    check_size(cases, settings["bytes"])
    return take_turns(cluster, cases, settings["repeats"], notes)


def measure_compression(cluster, settings, notes):
    """Compression on the server. pg_basebackup runs with --no-manifest, because it cannot put the
    manifest into a server-compressed archive on standard output."""
    cases = []
    for method, repeats in METHODS.items():
        level = f"{method}:1"
        cases += [
            Case(
                pg_basebackup_compressed(level),
                lambda level=level: pg_basebackup(
                    cluster, "-Ft", "-D", "-", "--no-manifest", f"--compress=server-{level}"
                ),
                repeats=repeats,
            ),
            *(
                Case(
                    compressed(count, level),
                    lambda count=count, level=level: streams(cluster, count, compression=level),
                    repeats=repeats,
                )
                for count in (1, 2)
            ),
        ]
    return take_turns(cluster, cases, settings["repeats"], notes)


def measure_cold(cluster, settings, notes):
    """Backups with an empty page cache, if the machine allows emptying it."""

    def empty():
        os.sync()
        drop_caches()

    try:
        drop_caches()
    except (OSError, Failed) as failure:
        notes.append(f"cold page cache: not measured. The cache cannot be emptied here: {failure}")
        return []
    cases = [
        Case(PG_BASEBACKUP, lambda: pg_basebackup(cluster, "-Ft", "-D", "-"), prepare=empty),
        Case(workers(1), lambda: streams(cluster, 1), prepare=empty),
        Case(workers(2), lambda: streams(cluster, 2), prepare=empty),
    ]
    check_size(cases, settings["bytes"])
    taken = take_turns(cluster, cases, min(settings["repeats"], 3), notes)
    cluster.read_everything()
    return taken


def drop_caches():
    """Empties the page cache. Needs root, or sudo without a password."""
    if os.geteuid() == 0:
        Path(DROP_CACHES).write_text("3\n")
    else:
        try:
            run(["sudo", "-n", "sh", "-c", f"echo 3 >{DROP_CACHES}"])
        except FileNotFoundError:
            raise Failed("this is not root, and there is no sudo") from None
