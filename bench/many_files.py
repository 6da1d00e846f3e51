"""Listing, backup, verification and restore of clusters with very many files.

The files are sparse hard links, a hundred to each inode, so that creating and removing them is fast.
"""

import multiprocessing
import os
import statistics
import time
from pathlib import Path

from clients import Client, Failed, Session, run
from cluster import move_aside
from rounds import progress, spread

LINKS = 100
FOLDERS = 10  # for a million files; 100,000 are in one folder
FIND = "find -printf '%s\\n'"
BEYOND = "start_backup beyond the checkpoint"
BACKUP = "pg_parallel_backup, 2 workers to /dev/null"
CHECK = "pg_parallel_backup check, 2 workers"
PEER = "pg_basebackup -Fp --no-sync"
PEER_VERIFY = "pg_verifybackup of the directory"
PLAIN = "pg_parallel_backup, 2 workers into a directory"
VERIFY = "pg_parallel_backup verify of the directory, 2 threads"
TAR = "pg_parallel_backup, 2 workers as tar"
VERIFY_TAR = "pg_parallel_backup verify of the archives, 2 threads"
RESTORE = "pg_parallel_backup restore of the archives, 2 threads"


def measure_files(cluster, settings, _notes):
    """100,000 files in one directory."""
    return with_files(cluster, settings, [100_000], settings["repeats"], find=False)


def measure_million(cluster, settings, _notes):
    """1,000,000 files in several directories, compared with find, which also stats each file."""
    counts = [1_000_000 // FOLDERS] * FOLDERS
    return with_files(cluster, settings, counts, min(settings["repeats"], 3), find=True)


# ---- planting ----------------------------------------------------------------------------------


def with_files(cluster, settings, counts, repeats, find):
    """Creates a folder of files for each count, measures, and removes the files again."""
    # Names of nonexistent databases: the server does not use them, but a backup contains them.
    folders = [cluster.data / "base" / str(4_000_000 + number) for number in range(len(counts))]
    try:
        plant(folders, counts, cluster.owner)
        progress("  files planted")
        measured = measure(cluster, sum(counts), repeats, find)
        whole = measure_whole(cluster, settings)
        measured["seconds"] |= {name: spread([one["seconds"]]) for name, one in whole.items()}
        measured["peak_mb"] = {name: one["peak_mb"] for name, one in whole.items()}
        return measured
    finally:
        for folder in folders:
            move_aside(folder, Path(settings["trash"]))


def plant(folders, counts, owner):
    """Creates files of one page with names of relations, in several processes."""
    processes = [
        multiprocessing.Process(target=plant_folder, args=(folder, count, owner))
        for folder, count in zip(folders, counts)
    ]
    waiting, running = processes[::-1], []
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)):
            running.append(waiting.pop())
            running[-1].start()
        oldest = running.pop(0)
        oldest.join()
        if oldest.exitcode != 0:
            for process in running:
                process.terminate()
            raise Failed("they could not be made")


def plant_folder(folder, count, owner):
    """Runs in a separate process as the server's account, so that the files have its owner."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(owner.pw_gid)
        os.setuid(owner.pw_uid)
    folder.mkdir(mode=0o700)
    os.chdir(folder)
    for number in range(count):
        name = str(1_000_000 + number)
        if number % LINKS == 0:
            first = name
            with open(first, "xb") as file:
                file.truncate(8192)
        else:
            os.link(first, name)


# ---- measuring ---------------------------------------------------------------------------------


def measure(cluster, files, repeats, find):
    """Measures the listing alone, the start of a backup, core's start, which lists nothing, a whole
    backup, and a check, which requests files in thousands of statements. The first round loads the
    inodes into the cache."""
    taken = {"backup_filelist()": [], "start_backup(fast => true)": [], "pg_backup_start": []}
    taken |= {BACKUP: [], CHECK: []}
    if find:
        taken[FIND] = []
    with Session(cluster) as session:
        for turn in range(repeats + 1):
            times = {}
            session.ask("CHECKPOINT;")
            times["backup_filelist()"] = seconds(
                session.ask, "SELECT count(*) FROM backup_filelist();"
            )
            if find:
                times[FIND] = seconds(run, ["find", cluster.data, "-printf", "%s\\n"])
            session.ask("CHECKPOINT;")
            times["pg_backup_start"] = seconds(
                session.ask, "SELECT pg_backup_start('bench', true);"
            )
            session.ask("SELECT lsn FROM pg_backup_stop(false);")
            session.ask("CHECKPOINT;")
            times["start_backup(fast => true)"] = seconds(
                session.ask, "SELECT backup_id FROM start_backup('bench', true);"
            )
            session.ask("SELECT abort_backup();")
            program = [cluster.bin / "pg_parallel_backup"]
            options = ["-d", cluster.conninfo, "-c", "fast", "-j", "2"]
            to_nowhere = ["--pipe", "cat >/dev/null # %f"]
            times[BACKUP] = seconds(run, [*program, *options, "-X", "none", *to_nowhere])
            times[CHECK] = seconds(run, [*program, "check", *options])
            if turn > 0:
                for name, value in times.items():
                    taken[name].append(value)
            progress(f"  round {turn} of {repeats} done" if turn > 0 else "  warmed up")
    core = statistics.median(taken["pg_backup_start"])
    taken[BEYOND] = [value - core for value in taken["start_backup(fast => true)"]]
    return {"files": files, "seconds": {name: spread(values) for name, values in taken.items()}}


def measure_whole(cluster, settings):
    """Backups that are kept, their verification, and a restore: once, because each writes all files.
    Returns seconds and the peak memory of the client for each. Nothing is removed between them, because
    ext4 creates files slowly after that."""
    target, trash = Path(settings["target"]), Path(settings["trash"])
    directory, peer, tar, restored = (target / name for name in ("plain", "peer", "tar", "restored"))
    options = ["-d", cluster.conninfo, "-c", "fast", "-X", "none"]
    program = cluster.bin / "pg_parallel_backup"
    cases = {
        PEER: [cluster.bin / "pg_basebackup", *options, "--no-sync", "-D", peer],
        PEER_VERIFY: [cluster.bin / "pg_verifybackup", "-n", peer],
        PLAIN: [program, *options, "-N", "-j", "2", "-D", directory],
        VERIFY: [program, "verify", "-n", "-j", "2", directory],
        TAR: [program, *options, "-N", "-j", "2", "-Ft", "-D", tar],
        VERIFY_TAR: [program, "verify", "-n", "-j", "2", tar],
        RESTORE: [program, "restore", "-N", "-j", "2", tar, "-D", restored],
    }
    taken = {}
    target.mkdir()
    try:
        for name, command in cases.items():
            Client.peak_kb = 0
            taken[name] = {"seconds": seconds(run, command), "peak_mb": Client.peak_kb / 1024}
            progress(f"  {name}: {taken[name]['seconds']:.0f} s")
    finally:
        move_aside(target, trash)
    return taken


def seconds(action, *arguments):
    """Duration of an action in seconds."""
    began = time.monotonic()
    action(*arguments)
    return time.monotonic() - began
