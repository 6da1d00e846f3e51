"""Backups that go through the client to /dev/null, or to nowhere on the server."""

import contextlib
import os
import subprocess
from pathlib import Path

from clients import Client, Failed, Session, run
from rounds import Case, take_turns

PG_BASEBACKUP = "pg_basebackup -Ft -D -"
PG_BASEBACKUP_BLACKHOLE = "pg_basebackup -t blackhole"
BLACKHOLE = "1 worker, target blackhole"
METHODS = {"gzip": 2, "lz4": 3, "zstd": 99}  # and how many runs are worth their time
DROP_CACHES = "/proc/sys/vm/drop_caches"


def workers(count):
    """The name of a case."""
    return f"{count} worker{'s' if count > 1 else ''}"


def compressed(count, level):
    """The same with compression."""
    return f"{workers(count)}, {level}"


def pg_basebackup_compressed(level):
    """What that is compared with."""
    return f"pg_basebackup --compress=server-{level}"


# ---- ways to take a backup ---------------------------------------------------------------------


def pg_basebackup(cluster, *options):
    """Returns the size of what it wrote."""
    program = cluster.bin / "pg_basebackup"
    return run([program, *cluster.address, "-X", "none", "-c", "fast", *options])


def streams(cluster, count, compression=None, manifest="CRC32C", target="client"):
    """start_backup, as many workers as wanted at once, send_stop_backup. Returns the size of the
    archives of the workers."""
    compressed = f", compression => '{compression}'" if compression else ""
    with Session(cluster) as leader:
        (backup_id,) = leader.ask(
            f"SELECT backup_id FROM start_backup(fast => true, manifest_checksums => '{manifest}');"
        )
        if target == "client":
            statement = f"COPY (SELECT send_backup_files({backup_id}{compressed})) TO STDOUT"
        else:
            statement = f"SELECT send_backup_files({backup_id}, target => '{target}')"
        # All have to have started before one of them is waited for.
        clients = [Client([*cluster.psql(), "-c", statement]) for _ in range(count)]
        written = [client.finish() for client in clients]
        leader.copy(f"SELECT send_stop_backup(wait => false{compressed})")
    return None if None in written else sum(written)


def base_backup(cluster):
    """The whole in one statement."""
    return run(
        [*cluster.psql(), "-c", "COPY (SELECT base_backup(fast => true, wait => false)) TO STDOUT"]
    )


def tar(cluster):
    """tar would not read files whose archive goes to /dev/null, so that there is a pipe."""
    with contextlib.ExitStack() as stack:
        sink = Client(["cat"], stdin=subprocess.PIPE)
        stack.callback(sink.process.stdin.close)
        run(
            ["tar", "-c", "-f", "-", "--exclude=./pg_wal", "-C", cluster.data, "."],
            stdout=sink.process.stdin,
        )
    return sink.finish()


# ---- parts -------------------------------------------------------------------------------------


def measure_nowhere(cluster, settings, notes):
    """How fast a cluster can be read, checked and handed over."""
    cases = [
        Case(PG_BASEBACKUP, lambda: pg_basebackup(cluster, "-Ft", "-D", "-")),
        Case(workers(1), lambda: streams(cluster, 1)),
        Case(workers(2), lambda: streams(cluster, 2)),
        Case(workers(4), lambda: streams(cluster, 4)),
        Case("base_backup()", lambda: base_backup(cluster)),
        Case("tar c through a pipe", lambda: tar(cluster)),
        Case(PG_BASEBACKUP_BLACKHOLE, lambda: pg_basebackup(cluster, "-t", "blackhole")),
        Case(BLACKHOLE, lambda: streams(cluster, 1, target="blackhole")),
    ]
    return take_turns(cluster, cases, settings["repeats"], notes, warm_up=True)


def measure_manifest(cluster, settings, notes):
    """What the checksums of the manifest cost."""
    cases = [
        Case(f"manifest {name}", lambda name=name: streams(cluster, 1, manifest=name))
        for name in ("NONE", "CRC32C", "SHA256")
    ]
    return take_turns(cluster, cases, settings["repeats"], notes)


def measure_compression(cluster, settings, notes):
    """Compression on the server. With --no-manifest, because pg_basebackup cannot put the
    manifest into an archive on standard output that the server has compressed."""
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
    """With an empty page cache, where the machine lets us empty it."""

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
    taken = take_turns(cluster, cases, min(settings["repeats"], 3), notes)
    cluster.read_everything()
    return taken


def drop_caches():
    """Needs root, or sudo that asks for no password."""
    if os.geteuid() == 0:
        Path(DROP_CACHES).write_text("3\n")
    else:
        try:
            run(["sudo", "-n", "sh", "-c", f"echo 3 >{DROP_CACHES}"])
        except FileNotFoundError:
            raise Failed("this is not root, and there is no sudo") from None
