"""Incremental backups, and what puts them together, from PostgreSQL 17 on."""

import os
from pathlib import Path

from clients import Failed, run
from cluster import put_away
from rounds import Case, take_turns
from streams import workers

PG_BASEBACKUP = "pg_basebackup --incremental --no-sync"
PG_COMBINEBACKUP = "pg_combinebackup --no-sync"
# Rows on a page of the two large tables, about; every hundredth page changes.
CHANGES = (
    "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 6100 = {place};\n"
    "UPDATE events SET amount = amount + 1 WHERE id % 5500 = {place};\n"
    "CHECKPOINT;"
)


def taken(count):
    """Name of a case."""
    return f"{workers(count)}, pg_parallel_backup -i"


def combined(count):
    """Name of a case."""
    return f"pg_parallel_backup combine -j {count}"


def measure_incremental(cluster, settings, notes):
    """A full backup, one after changes of about 1 % of the pages, another after as much again, and all
    three put together."""
    if cluster.ask("SHOW server_version_num;") < ["170000"]:
        raise Failed("incremental backups need PostgreSQL 17")
    target, trash = Path(settings["target"]), Path(settings["trash"])
    full, first, second, copy = (target / name for name in ("full", "first", "second", "copy"))
    options = ["-d", cluster.conninfo, "-c", "fast", "-X", "none"]
    program = cluster.bin / "pg_parallel_backup"
    sizes = {}

    def after(earlier, directory, count=2):
        run([program, *options, "-N", "-j", str(count), "-i", earlier / "backup_manifest",
             "-D", directory])  # fmt: skip

    def basebackup():
        run([cluster.bin / "pg_basebackup", *options, "--no-sync",
             "--incremental", full / "backup_manifest", "-D", copy])  # fmt: skip

    def incremental_bytes(name):
        # The bytes of incremental files are all the same.
        sizes[name] = sum(
            os.path.getsize(os.path.join(folder, file))
            for folder, _, files in os.walk(copy) for file in files
            if file.startswith("INCREMENTAL.")
        )  # fmt: skip
        if sizes[name] != sizes.setdefault(PG_BASEBACKUP, sizes[name]):
            raise Failed(f"{sizes[name]} bytes of incremental files, not {sizes[PG_BASEBACKUP]}")

    def clean():
        put_away(copy, trash)

    target.mkdir()
    try:
        run([program, *options, "-N", "-j", "2", "-D", full])
        cluster.ask(CHANGES.format(place=1))
        cases = [
            Case(PG_BASEBACKUP, basebackup, clean=clean,
                 check=lambda _run: incremental_bytes(PG_BASEBACKUP)),
            *(Case(taken(n), lambda n=n: after(full, copy, n), clean=clean,
                   check=lambda _run, n=n: incremental_bytes(taken(n))) for n in (1, 2, 4)),
        ]  # fmt: skip
        measured = take_turns(cluster, cases, settings["repeats"], notes)
        after(full, first)
        cluster.ask(CHANGES.format(place=2))
        after(first, second)
        chain = [full, first, second]
        cases = [
            Case(PG_COMBINEBACKUP, lambda: run(
                [cluster.bin / "pg_combinebackup", "--no-sync", *chain, "-o", copy]), clean=clean),
            *(Case(combined(n), lambda n=n: run(
                [program, "combine", "-N", "-j", str(n), *chain, "-o", copy]), clean=clean)
              for n in (1, 2)),
        ]  # fmt: skip
        return measured + take_turns(cluster, cases, settings["repeats"], notes)
    finally:
        put_away(target, trash)
