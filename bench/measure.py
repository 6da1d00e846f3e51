#!/usr/bin/env python3
"""Measures base backups of a running cluster and writes the tables; called by bench/run.sh.

The standard library is enough. Every way of taking a backup is measured from its start to its end,
the checkpoint and the stop included, as its user would wait for it.
"""

import argparse
import datetime
import json
import os
import platform
import pwd
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

MANY_FILES = 100_000


class Psql:
    """A psql that keeps its session: statements go in, rows come out."""

    MARK = "-- end of answer --"

    def __init__(self, cluster, dbname="postgres"):
        self.process = subprocess.Popen(
            cluster.psql(dbname), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def send(self, statement):
        """Hands over a statement without waiting."""
        print(statement, f"\\echo {self.MARK}", sep="\n", file=self.process.stdin, flush=True)

    def answer(self):
        """The rows of the statement that was sent."""
        rows = []
        for line in self.process.stdout:
            if line.rstrip("\n") == self.MARK:
                return rows
            rows.append(line.rstrip("\n"))
        sys.exit("measure.py: psql ended early")

    def ask(self, statement):
        """Sends a statement and waits for its rows."""
        self.send(statement)
        return self.answer()

    def copy(self, query):
        """COPY of a query to /dev/null, through the client."""
        self.send(f"\\o /dev/null\nCOPY ({query}) TO STDOUT;\n\\o")

    def close(self):
        """Ends the session."""
        self.process.stdin.close()
        self.process.wait()


class Cluster:
    """Where the server is and which programs talk to it."""

    def __init__(self, arguments):
        self.bin = Path(arguments.bin)
        self.address = ["-h", arguments.socket, "-p", str(arguments.port), "-U", "postgres"]

    def psql(self, dbname):
        """The command line of a psql that stops at the first error."""
        return [self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.address, "-d", dbname]


def seconds(action, *arguments):
    """How long it takes."""
    began = time.monotonic()
    action(*arguments)
    return time.monotonic() - began


# ---- whole backups -----------------------------------------------------------------------------


def pg_basebackup(cluster):
    """The yardstick."""
    subprocess.run(
        [cluster.bin / "pg_basebackup", *cluster.address, "-Ft", "-X", "none", "-c", "fast",
         "-D", "-"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def streams(cluster, count):
    """start_backup, as many workers as wanted at once, send_stop_backup."""
    leader = Psql(cluster)
    (backup_id,) = leader.ask("SELECT backup_id FROM start_backup(fast => true);")
    workers = [Psql(cluster) for _ in range(count)]
    for worker in workers:
        worker.copy(f"SELECT send_backup_files({backup_id})")
    for worker in workers:
        worker.answer()
        worker.close()
    leader.copy("SELECT send_stop_backup(wait => false)")
    leader.answer()
    leader.close()


def base_backup(cluster):
    """The whole in one statement."""
    session = Psql(cluster)
    session.copy("SELECT base_backup(fast => true, wait => false)")
    session.answer()
    session.close()


WAYS = {
    "pg_basebackup -Ft -X none -c fast -D -": (pg_basebackup, None),
    "1 stream": (lambda cluster: streams(cluster, 1), 0.65),
    "2 streams": (lambda cluster: streams(cluster, 2), 0.40),
    "base_backup()": (base_backup, None),
}


def measure_ways(cluster, repeats):
    """Each way in turn, as often as wanted; the first round warms up and does not count."""
    taken = {way: [] for way in WAYS}
    for turn in range(repeats + 1):
        for way, (action, _) in WAYS.items():
            duration = seconds(action, cluster)
            if turn > 0:
                taken[way].append(duration)
        print(f"  round {turn} of {repeats} done", file=sys.stderr, flush=True)
    base = statistics.median(next(iter(taken.values())))
    return [
        {
            "way": way,
            "seconds": [round(duration, 3) for duration in durations],
            "median": round(statistics.median(durations), 3),
            "ratio": round(statistics.median(durations) / base, 3),
            "target": WAYS[way][1],
        }
        for way, durations in taken.items()
    ]


# ---- memory ------------------------------------------------------------------------------------


def memory(pid, name):
    """A field of /proc/PID/status, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1])


def measure_memory(cluster):
    """How far a worker grows beyond the same session when it was idle: its own memory while it
    streams, and the highest resident size, which also counts shared pages it has touched."""
    leader = Psql(cluster)
    (backup_id,) = leader.ask("SELECT backup_id FROM start_backup(fast => true);")
    worker = Psql(cluster)
    (pid,) = worker.ask("SELECT pg_backend_pid();")
    idle_anonymous, idle_high = memory(pid, "RssAnon"), memory(pid, "VmHWM")
    done = threading.Event()
    samples = []

    def sample():
        while not done.wait(0.005):
            samples.append(memory(pid, "RssAnon"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    worker.copy(f"SELECT send_backup_files({backup_id})")
    worker.answer()
    done.set()
    sampler.join()
    high = memory(pid, "VmHWM")
    worker.close()
    leader.ask("SELECT abort_backup();")
    leader.close()
    return {
        "anonymous_growth_kb": max(samples, default=idle_anonymous) - idle_anonymous,
        "resident_growth_kb": high - idle_high,
        "target_kb": 16 * 1024,
    }


# ---- many files --------------------------------------------------------------------------------


def plant_files(directory, owner, count):
    """Relation files of one page's size, named as the server names them."""
    account = pwd.getpwnam(owner)
    for number in range(1_000_000, 1_000_000 + count):
        with open(directory / str(number), "wb") as file:
            file.truncate(8192)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), account.pw_uid, account.pw_gid)


def measure_many_files(cluster, repeats):
    """The listing alone, and the start of a backup beside core's, which lists nothing."""
    session = Psql(cluster, "many")
    taken = {"backup_filelist()": [], "start_backup(fast => true)": [], "pg_backup_start": []}
    for _ in range(repeats):
        session.ask("CHECKPOINT;")
        taken["backup_filelist()"].append(
            seconds(session.ask, "SELECT count(*) FROM backup_filelist();")
        )
        taken["pg_backup_start"].append(
            seconds(session.ask, "SELECT pg_backup_start('bench', true);")
        )
        session.ask("SELECT lsn FROM pg_backup_stop(false);")
        taken["start_backup(fast => true)"].append(
            seconds(session.ask, "SELECT backup_id FROM start_backup('bench', true);")
        )
        session.ask("SELECT abort_backup();")
    session.close()
    median = {name: round(statistics.median(values), 3) for name, values in taken.items()}
    median["start_backup beyond the checkpoint"] = round(
        median["start_backup(fast => true)"] - median["pg_backup_start"], 3
    )
    return {"files": MANY_FILES, "median_seconds": median, "target_seconds": 2.0}


# ---- report ------------------------------------------------------------------------------------


def verdict(value, target):
    """Whether a figure is within its target."""
    return "" if target is None else f"{'met' if value <= target else 'missed'} (at most {target})"


def table(heading, rows):
    """A Markdown table whose columns line up as plain text too."""
    widths = [max(len(str(row[i])) for row in [heading, *rows]) for i in range(len(heading))]
    lines = [heading, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell!s:<{width}}" for cell, width in zip(line, widths)) + " |"
        for line in lines
    )


def report(result):
    """The result as Markdown."""
    about = result["about"]
    used, many = result["memory"], result["many_files"]["median_seconds"]
    parts = [
        f"# Benchmark of {about['date']}",
        f"{about['server']}, {about['cores']} cores, {about['machine']}, commit {about['commit']}."
        f" A cluster of {about['bytes'] / 1e9:.1f} GB in the page cache, Unix-domain socket, to"
        f" /dev/null, page checks and CRC32C on. Medians of {about['repeats']} runs.",
        table(
            ["backup", "seconds", "ratio", "MB/s", "target"],
            [
                [way["way"], f"{way['median']:.2f}", f"{way['ratio']:.2f}",
                 f"{about['bytes'] / 1e6 / way['median']:.0f}",
                 verdict(way["ratio"], way["target"])]
                for way in result["ways"]
            ],
        ),
        table(
            ["growth of a worker over an idle backend", "MB", "target"],
            [
                ["its own memory (RssAnon)", f"{used['anonymous_growth_kb'] / 1024:.1f}",
                 verdict(used["anonymous_growth_kb"] / 1024, used["target_kb"] // 1024)],
                ["highest resident size (VmHWM)", f"{used['resident_growth_kb'] / 1024:.1f}",
                 verdict(used["resident_growth_kb"] / 1024, used["target_kb"] // 1024)],
            ],
        ),
        table(
            [f"with {result['many_files']['files']} relation files", "seconds", "target"],
            [
                [name, f"{value:.2f}",
                 verdict(value, result["many_files"]["target_seconds"])
                 if name in ("backup_filelist()", "start_backup beyond the checkpoint") else ""]
                for name, value in many.items()
            ],
        ),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def parse_arguments():
    """What bench/run.sh says."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bin", "socket", "data", "many", "owner", "commit", "results"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    return parser.parse_args()


def read_everything(data):
    """Brings the cluster into the page cache and returns its size without WAL."""
    size = 0
    block = bytearray(1 << 20)
    for path in Path(data).rglob("*"):
        if path.is_file() and "pg_wal" not in path.parts:
            size += path.stat().st_size
            with open(path, "rb", buffering=0) as file:
                while file.readinto(block):
                    pass
    return size


def main():
    """Measures, prints the tables and keeps them."""
    arguments = parse_arguments()
    cluster = Cluster(arguments)
    session = Psql(cluster)
    (server,) = session.ask("SELECT 'PostgreSQL ' || current_setting('server_version');")
    session.close()
    now = datetime.datetime.now()
    about = {
        "date": now.isoformat(sep=" ", timespec="minutes"),
        "server": server,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": arguments.commit,
        "bytes": read_everything(arguments.data),
        "repeats": arguments.repeats,
    }
    print("Measuring whole backups", file=sys.stderr, flush=True)
    result = {"about": about, "ways": measure_ways(cluster, arguments.repeats)}
    print("Measuring memory", file=sys.stderr, flush=True)
    result["memory"] = measure_memory(cluster)
    print(f"Measuring {MANY_FILES} files", file=sys.stderr, flush=True)
    plant_files(Path(arguments.many), arguments.owner, MANY_FILES)
    result["many_files"] = measure_many_files(cluster, arguments.repeats)

    text = report(result)
    print(text)
    results = Path(arguments.results)
    results.mkdir(parents=True, exist_ok=True)
    name = now.strftime("%Y%m%d-%H%M%S")
    (results / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (results / f"{name}.md").write_text(text)
    for suffix in ("json", "md"):
        shutil.copyfile(results / f"{name}.{suffix}", results / f"latest.{suffix}")
    print(f"kept in {results}/{name}.md and .json")


if __name__ == "__main__":
    main()
