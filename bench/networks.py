"""Backups over TCP, with and without TLS, to nowhere and into a directory in memory."""

import shutil
import tempfile
from pathlib import Path

from clients import run
from directories import check_size
from rounds import Case, take_turns
from streams import PG_BASEBACKUP, workers

ADDRESS = "127.0.0.1"
INTO_MEMORY = "pg_basebackup -Fp --no-sync into tmpfs"


def to_nowhere(count):
    """Name of a case."""
    return f"{workers(count)}, pg_parallel_backup to cat"


def into_memory(count):
    """Name of a case."""
    return f"{workers(count)}, pg_parallel_backup into tmpfs"


def measure_tcp(cluster, settings, notes):
    """Without TLS."""
    return measure_network(cluster, settings, notes, "disable")


def measure_tls(cluster, settings, notes):
    """With TLS, in the newest version that both sides have."""
    return measure_network(cluster, settings, notes, "require")


def measure_network(cluster, settings, notes, mode):
    """The tablespace is hidden: it is part of the data directory here."""
    conninfo = f"host={ADDRESS} port={cluster.port} user=postgres dbname=postgres sslmode={mode}"
    options = ["-d", conninfo, "-c", "fast", "-X", "none"]
    folder = Path(tempfile.mkdtemp(prefix="pgpb-bench.", dir="/dev/shm"))
    copy = folder / "data"

    def pg_basebackup(*more):
        run([cluster.bin / "pg_basebackup", *options, *more])

    def program(count, *more):
        run([cluster.bin / "pg_parallel_backup", *options, "-N", "-j", str(count), *more])

    def check(_run):
        check_size(folder, settings["bytes"])

    def clean():
        shutil.rmtree(copy, ignore_errors=True)

    counts = (1, 2, 4)
    nowhere = ("--pipe", "cat >/dev/null # %f")
    cases = [
        Case(PG_BASEBACKUP, lambda: pg_basebackup("-Ft", "-D", "-")),
        *(Case(to_nowhere(n), lambda n=n: program(n, *nowhere)) for n in counts),
        Case(INTO_MEMORY, lambda: pg_basebackup("-Fp", "--no-sync", "-D", copy),
             check=check, clean=clean),
        *(Case(into_memory(n), lambda n=n: program(n, "-D", copy), check=check, clean=clean)
          for n in counts),
    ]  # fmt: skip
    try:
        return take_turns(cluster, cases, settings["repeats"], notes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
