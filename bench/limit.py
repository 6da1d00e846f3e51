"""The same bytes through the same system calls without any work on them: bench/limit beside workers."""

import re
import shutil
import tempfile
from pathlib import Path

from clients import Client, Session, run
from rounds import Case, take_turns

COUNTS = (1, 2, 4)
UNIX, TCP, TLS = "unix", "tcp", "tls"
IN_MEMORY = "tmpfs"


def limit(count, transport=UNIX, into=None):
    """Name of a case without work."""
    pairs = f"limit, {count} pair{'s' if count > 1 else ''}"
    return f"{pairs}, {transport}" + (f", into {into}" if into else "")


def worker_streams(count):
    """Name of a case."""
    return f"{count} worker{'s' if count > 1 else ''}, only their streams"


def dropped_streams(count):
    """Name of a case: the streams are read as those of the limit are."""
    return f"{worker_streams(count)}, read as the limit's"


def by_program(count):
    """Name of a case."""
    return f"{count} worker{'s' if count > 1 else ''}, pg_parallel_backup into {IN_MEMORY}"


def limit_of(part, name):
    """The limit that a case is compared with, by the names of its part and of itself. None where there
    is none: for other bytes."""
    if part not in ("limit", "nowhere", "manifest", "compression", "directory", "tcp", "tls", "cold"):
        return None
    if name.startswith("limit") or "blackhole" in name:
        return None
    count = int(found[1]) if (found := re.match(r"(\d+) worker", name)) else 1
    transport = part if part in (TCP, TLS) else UNIX
    into = "directory" if part == "directory" else IN_MEMORY if IN_MEMORY in name else None
    return limit(count, transport, into)


def send(cluster, settings, count, transport=UNIX, into=None):
    """Sends the files of the cluster through so many pairs."""
    options = ["--into", into] if into else []
    tablespaces = [cluster.tablespace] if cluster.link.is_symlink() else []
    run(
        [settings["limit"], "--transport", transport, "--pairs", str(count), "--without", "pg_wal",
         *options, cluster.data, *tablespaces]
    )  # fmt: skip


class Streams:
    """A backup whose start and end are not measured."""

    def __init__(self, cluster, count):
        self.cluster = cluster
        self.count = count
        self.leader = None
        self.backup_id = None

    def start(self):
        """Starts the backup."""
        self.leader = Session(self.cluster)
        (self.backup_id,) = self.leader.ask("SELECT backup_id FROM start_backup(fast => true);")

    def run(self):
        """Sends all files to psql, which writes them to /dev/null. Returns the size of the archives."""
        written = self.finish([*self.cluster.psql(), "-c", self.statement()])
        return None if None in written else sum(written)

    def drop(self, program):
        """Sends all files to readers that do not copy them once more."""
        server = f"{self.cluster.socket}/.s.PGSQL.{self.cluster.port}"
        self.finish([program, "--copy", self.statement(), server, "postgres", "postgres"])

    def statement(self):
        """What each worker runs."""
        return f"COPY (SELECT send_backup_files({self.backup_id})) TO STDOUT"

    def finish(self, command):
        """Starts a client for each worker and waits for all. Returns what each wrote."""
        clients = [Client(command) for _ in range(self.count)]
        return [client.finish() for client in clients]

    def end(self):
        """Aborts the backup: nobody has its archives."""
        if self.leader in Client.running:
            self.leader.ask("SELECT abort_backup();")
            self.leader.close()


def measure_limit(cluster, settings, notes):
    """All kinds of connections, and workers beside them."""
    folder = Path(tempfile.mkdtemp(prefix="pgpb-bench.", dir="/dev/shm"))
    copy = folder / "data"

    def clean():
        shutil.rmtree(copy, ignore_errors=True)

    def program(count):
        run(
            [cluster.bin / "pg_parallel_backup", "-d", cluster.conninfo, "-X", "none", "-c", "fast",
             "-N", "-j", str(count), "-D", copy]
        )  # fmt: skip

    cases = []
    for transport in (UNIX, TCP, TLS):
        for count in COUNTS:
            cases += [
                Case(limit(count, transport),
                     lambda n=count, by=transport: send(cluster, settings, n, by)),
                Case(limit(count, transport, IN_MEMORY),
                     lambda n=count, by=transport: send(cluster, settings, n, by, copy),
                     prepare=copy.mkdir, clean=clean),
            ]  # fmt: skip
            if transport == UNIX:
                streams = Streams(cluster, count)
                cases += [
                    Case(worker_streams(count), streams.run, prepare=streams.start,
                         clean=streams.end),
                    Case(dropped_streams(count), lambda of=streams: of.drop(settings["limit"]),
                         prepare=streams.start, clean=streams.end),
                    Case(by_program(count), lambda n=count: program(n), clean=clean),
                ]  # fmt: skip
    try:
        return take_turns(cluster, cases, settings["repeats"], notes, warm_up=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
