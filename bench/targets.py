"""Performance targets, as ratios of medians of one run."""

import directories
import incremental
import limit
import many_files
import networks
import repository
import streams

# Target, measure, part, case, case to compare with, maximum.
TARGETS = (
    *(
        (what, measured, "limit", case, limit.limit_of("limit", case), round(1 / share, 2))
        for what, case, share in (
            ("1 worker to nowhere, its stream", limit.dropped_streams(1), 0.85),
            ("2 workers to nowhere, their streams", limit.dropped_streams(2), 0.90),
            ("2 workers into tmpfs, pg_parallel_backup", limit.by_program(2), 0.80),
        )
        for measured in ("wall", "cpu")
    ),
    ("1 worker to /dev/null, first goal", "wall", "nowhere", streams.workers(1),
     streams.PG_BASEBACKUP, 0.65),
    ("1 worker to /dev/null", "wall", "nowhere", streams.workers(1), streams.PG_BASEBACKUP, 0.42),
    ("2 workers to /dev/null, first goal", "wall", "nowhere", streams.workers(2),
     streams.PG_BASEBACKUP, 0.40),
    ("2 workers to /dev/null", "wall", "nowhere", streams.workers(2), streams.PG_BASEBACKUP, 0.24),
    ("2 workers to /dev/null", "cpu", "nowhere", streams.workers(2), streams.PG_BASEBACKUP, 0.42),
    ("1 worker into the blackhole", "wall", "nowhere", streams.BLACKHOLE,
     streams.PG_BASEBACKUP_BLACKHOLE, 0.80),
    ("2 workers to a directory", "wall", "directory", directories.driven(2),
     directories.PG_BASEBACKUP, 0.45),
    ("2 workers to a directory", "wall", "directory", directories.driven(2),
     directories.PGBACKREST, 0.35),
    ("2 workers to a directory, pg_parallel_backup", "wall", "directory", directories.by_program(2),
     directories.PG_BASEBACKUP, 0.40),
    ("2 workers to a directory, pg_parallel_backup", "wall", "directory", directories.by_program(2),
     directories.CP, 1.40),
    ("2 workers to a directory, pg_parallel_backup", "cpu", "directory", directories.by_program(2),
     directories.PG_BASEBACKUP, 0.60),
    ("2 workers, incremental", "wall", "incremental", incremental.taken(2),
     incremental.PG_BASEBACKUP, 0.50),
    ("combine -j 2 of three backups", "wall", "incremental", incremental.combined(2),
     incremental.PG_COMBINEBACKUP, 0.60),
    (repository.INTO_DURABLE_STORE, "wall", "repository", repository.INTO_DURABLE_STORE,
     repository.ONTO_DISK, 1.30),
    (f"{repository.INTO_STORE}, nothing waits for the disk", "wall", "repository",
     repository.INTO_STORE, repository.INTO_DIRECTORY, 1.30),
    *(
        (f"{repository.restored(repository.STORE)}{how}", "wall", "repository",
         repository.restored(repository.STORE, to), repository.restored(repository.DIRECTORY, to), 1.50)
        for how, to in ((repository.ON_DISK, repository.ON_DISK), (", nothing waits for the disk", ""))
    ),
    ("2 workers, tar into a local S3 server; a limit that nobody asked for", "wall", "repository",
     repository.INTO_STORE, repository.RCLONE, 1.10),
    ("2 workers over TLS into tmpfs, pg_parallel_backup", "wall", "tls", networks.into_memory(2),
     networks.INTO_MEMORY, 0.65),
    ("2 workers over TLS into tmpfs, pg_parallel_backup", "cpu", "tls", networks.into_memory(2),
     networks.INTO_MEMORY, 0.75),
    ("2 workers, zstd:1", "wall", "compression", streams.compressed(2, "zstd:1"),
     streams.pg_basebackup_compressed("zstd:1"), 0.55),
)  # fmt: skip
MILLION = ("start_backup on 1,000,000 files beyond the checkpoint", 1.5)
MEASURED = {"wall": "wall time", "cpu": "CPU time", "peak_mb": "memory of a client"}
PROGRAM_MB = 64  # the memory of the program
FILES_SECONDS = 2.0  # backup_filelist() and start_backup on 100,000 files


def compare(parts):
    """A row for each target, without a ratio if its cases have not been measured."""
    rows = []
    for what, measured, part, case, against, at_most in TARGETS:
        if part in parts:
            cases = {entry["name"]: entry for entry in parts[part] or []}
            rows.append(
                row(what, measured, against, at_most, median(cases, case, measured),
                    median(cases, against, measured))
            )  # fmt: skip
    if "directory" in parts:
        cases = {entry["name"]: entry for entry in parts["directory"] or []}
        name = directories.by_program(4)
        rows.append(
            row("4 workers to a directory, pg_parallel_backup", "peak_mb", f"{PROGRAM_MB} MB", 1.0,
                median(cases, name, "peak_mb"), PROGRAM_MB)
        )  # fmt: skip
    if "million" in parts:
        seconds = (parts["million"] or {}).get("seconds", {})
        what, at_most = MILLION
        ours, theirs = (
            seconds.get(name, {}).get("median") for name in (many_files.BEYOND, many_files.FIND)
        )
        rows.append(row(what, "wall", many_files.FIND, at_most, ours, theirs))
        ours, theirs = (
            seconds.get(name, {}).get("median") for name in (many_files.CHECK, many_files.BACKUP)
        )
        rows.append(row(many_files.CHECK, "wall", many_files.BACKUP, 2.0, ours, theirs))
    return rows


def median(cases, name, measured):
    """Returns None if the case was not measured."""
    return cases[name][measured]["median"] if name in cases else None


def row(what, measured, against, at_most, ours, theirs):
    """One comparison."""
    ratio = round(ours / theirs, 4) if ours is not None and theirs else None
    return {
        "what": what,
        "measured": MEASURED[measured],
        "against": against,
        "ratio": ratio,
        "at_most": at_most,
        "verdict": "not measured" if ratio is None else "met" if ratio <= at_most else "missed",
    }
