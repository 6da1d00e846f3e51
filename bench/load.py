"""Effect of a backup on the load: pgbench writes while backups are taken.

All cases last equally long. During a case, backups are taken one after another, so that they
affect the load all the time. The last backup is cancelled when the load ends.
"""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path

from clients import Client, Failed, Session
from rounds import progress, spread
from streams import PG_BASEBACKUP, workers

NONE = "none"
CLIENTS = 4
MAX_RATE = 102_400  # kB/s
REPEATS = 3  # at most
POLL = 0.01


def limited(name):
    """Name of a case with a rate limit."""
    return f"{name}, max_rate {MAX_RATE}"


def with_wal(wal):
    """Name of a case of the program."""
    return f"pg_parallel_backup, 2 workers, -X {wal}"


def measure_load(cluster, settings, notes):
    """Runs all cases in turn. max_wal_size is raised so that WAL causes no checkpoint: the only
    checkpoints are the one before each case and those of the backups."""
    cases = {
        NONE: None,
        PG_BASEBACKUP: lambda: PgBasebackup(cluster),
        **{workers(n): lambda n=n: Streams(cluster, n) for n in (1, 2, 4)},
        limited(PG_BASEBACKUP): lambda: PgBasebackup(cluster, MAX_RATE),
        limited(workers(2)): lambda: Streams(cluster, 2, MAX_RATE),
        **{with_wal(wal): lambda wal=wal: Program(cluster, wal) for wal in ("none", "fetch", "stream")},
    }
    repeats = min(settings["repeats"], REPEATS)
    taken = {name: [] for name in cases}
    set_max_wal_size(cluster, "SET max_wal_size = '16GB'")
    try:
        for turn in range(1, repeats + 1):
            for name, begin in cases.items():
                try:
                    taken[name].append(measure_case(cluster, settings, begin))
                except Failed as failure:
                    notes.append(f"pgbench beside {name}: a run does not count. {failure}")
                    progress(f"  {notes[-1]}")
                finally:
                    Client.end_all()
            progress(f"  round {turn} of {repeats} done")
    finally:
        set_max_wal_size(cluster, "RESET max_wal_size")
    return {
        "clients": CLIENTS,
        "seconds": settings["load_seconds"],
        "cases": [
            {"name": name}
            | {key: spread([run[key] for run in runs]) for key in ("tps", "p99_ms", "mb_per_second")}
            for name, runs in taken.items()
            if runs
        ],
    }


def set_max_wal_size(cluster, change):
    """Changes max_wal_size of the running server."""
    cluster.ask(f"ALTER SYSTEM {change};\nSELECT pg_reload_conf();")


def measure_case(cluster, settings, begin):
    """Runs the load for its full time, together with backups."""
    seconds = settings["load_seconds"]
    cluster.ask(
        "VACUUM pgbench_branches, pgbench_tellers;\nTRUNCATE pgbench_history;\nCHECKPOINT;"
    )
    before = cluster.processes()
    with tempfile.TemporaryDirectory(dir=Path(settings["target"]).parent) as folder:
        pgbench = Client(
            [cluster.bin / "pgbench", *cluster.address, "-n", "-c", str(CLIENTS), "-T", str(seconds),
             "-l", f"--log-prefix={folder}/log", "postgres"]
        )  # fmt: skip
        began = time.monotonic()
        sent = 0
        while begin and pgbench.runs():
            sent += take_backup(begin, pgbench)
        lasted = time.monotonic() - began
        pgbench.finish()
        latencies = read_log(folder)
    cluster.wait_for_others_to_end(before)
    if len(latencies) < 100:
        raise Failed(f"pgbench made only {len(latencies)} transactions")
    return {
        "tps": len(latencies) / seconds,
        "p99_ms": statistics.quantiles(latencies, n=100)[-1] / 1000,
        "mb_per_second": sent / 1e6 / lasted,
    }


def read_log(folder):
    """Latency of each transaction in microseconds."""
    return [
        int(line.split()[2])
        for log in Path(folder).iterdir()
        for line in log.read_text().splitlines()
    ]


# ---- backups that can be given up --------------------------------------------------------------


def take_backup(begin, pgbench):
    """Takes one backup, or a part of it if pgbench ends first. Returns the bytes received."""
    with begin() as backup:
        while any(client.runs() for client in backup.clients):
            if not pgbench.runs():
                return sum(client.give_up() for client in backup.clients)
            time.sleep(POLL)
        sent = sum(client.finish() or 0 for client in backup.clients)
        backup.stop()
    return sent


class PgBasebackup(contextlib.ExitStack):
    """A backup with pg_basebackup."""

    def __init__(self, cluster, max_rate=None):
        super().__init__()
        limit = [f"--max-rate={max_rate}"] if max_rate else []
        self.clients = [
            Client(
                [cluster.bin / "pg_basebackup", *cluster.address, "-X", "none", "-c", "fast", "-Ft",
                 "-D", "-", *limit]
            )
        ]  # fmt: skip

    def stop(self):
        """Does nothing: pg_basebackup has stopped the backup itself."""


class Program(contextlib.ExitStack):
    """A backup with the program, to nowhere."""

    def __init__(self, cluster, wal):
        super().__init__()
        self.clients = [
            Client(
                [cluster.bin / "pg_parallel_backup", "-d", cluster.conninfo, "-c", "fast", "-j", "2",
                 "-X", wal, "--pipe", "cat >/dev/null # %f"]
            )
        ]  # fmt: skip

    def stop(self):
        """Does nothing: the program has stopped the backup itself."""


class Streams(contextlib.ExitStack):
    """A leader and its workers. Without stop() the backup ends with the leader's session."""

    def __init__(self, cluster, count, max_rate=None):
        super().__init__()
        self.leader = self.enter_context(Session(cluster))
        limit = f", max_rate => {max_rate}" if max_rate else ""
        (backup_id,) = self.leader.ask(
            f"SELECT backup_id FROM start_backup(fast => true{limit});"
        )
        statement = f"COPY (SELECT send_backup_files({backup_id})) TO STDOUT"
        self.clients = [Client([*cluster.psql(), "-c", statement]) for _ in range(count)]

    def stop(self):
        """Stops a backup whose files have been sent."""
        self.leader.copy("SELECT send_stop_backup(wait => false)")
