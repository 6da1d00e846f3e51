"""Balance of the workers: for how long of a backup not all of them are busy.

Half of the cluster is one table, and a rate limit makes the backup long enough to be looked at.
"""

import threading
import time
from pathlib import Path

from clients import Session, run
from cluster import put_away
from rounds import progress, spread

WORKERS = 4
RATE = "200M"
CASES = (
    ("plain format, in which workers share files", ()),
    ("tar format", ("-Ft",)),
)
LOOK = 0.005  # seconds between two looks at the workers
ROWS_PER_MB = 1024  # of a table with 900 bytes of text in a row


def measure_balance(cluster, settings, _notes):
    """Wall time, and the share of it between the first and the last stream in which fewer than all workers
    have one."""
    rows = settings["bytes"] * ROWS_PER_MB >> 20
    cluster.ask(
        "CREATE TABLE half AS SELECT n, repeat('x', 900) AS filler"
        f" FROM generate_series(1, {rows}) AS n;"
    )
    cluster.ask("VACUUM half;")
    taken = {name: [] for name, _ in CASES}
    try:
        for turn in range(1, settings["repeats"] + 1):
            for name, options in CASES:
                cluster.ask("CHECKPOINT;")
                taken[name].append(one_backup(cluster, settings, options))
            progress(f"  round {turn} of {settings['repeats']} done")
    finally:
        cluster.ask("DROP TABLE half;")
    return [
        {
            "name": name,
            "wall": spread([wall for wall, _ in runs]),
            "idle": spread([idle for _, idle in runs]),
        }
        for name, runs in taken.items()
    ]


def one_backup(cluster, settings, options):
    """Wall time of the program, and the share of the time in which not all workers were busy."""
    target = Path(settings["target"])
    target.mkdir()
    over, seen = threading.Event(), []

    def look():
        with Session(cluster) as session:
            while not over.wait(LOOK):
                rows = session.ask("SELECT workers FROM backup_progress();")
                seen.append((time.monotonic(), int(rows[0]) if rows else 0))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        began = time.monotonic()
        run(
            [cluster.bin / "pg_parallel_backup", "-d", cluster.conninfo, "-X", "none", "-c", "fast",
             "-N", "-j", str(WORKERS), "-r", RATE, *options, "-D", target / "data"]
        )  # fmt: skip
        wall = time.monotonic() - began
    finally:
        over.set()
        looking.join()
        put_away(target, Path(settings["trash"]))
    return wall, idle_share(seen)


def idle_share(seen):
    """The share of the time from the first stream to the end of the last in which there were fewer than all."""
    busy = [at for at, workers in seen if workers > 0]
    first, last = busy[0], busy[-1]
    idle = sum(
        end - begin
        for (begin, workers), (end, _) in zip(seen, seen[1:])
        if first <= begin < last and workers < WORKERS
    )
    return idle / (last - first)
