#!/usr/bin/env python3
"""Measures base backups of a running cluster and writes the results. bench/run.sh calls it and
describes the choices.

It needs only the standard library. Each method is measured from start to end, including the
checkpoint and the stop: the time that its user waits.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import balance
import directories
import incremental
import limit
import load
import machine
import many_files
import networks
import plot
import report
import repository
import streams
import targets
import workers
from clients import Client, Failed
from cluster import Cluster
from rounds import progress

PARTS = {
    "limit": limit.measure_limit,
    "nowhere": streams.measure_nowhere,
    "manifest": streams.measure_manifest,
    "stages": workers.measure_stages,
    "memory": workers.measure_memory,
    "compression": streams.measure_compression,
    "directory": directories.measure_directory,
    "incremental": incremental.measure_incremental,
    "repository": repository.measure_repository,
    "tcp": networks.measure_tcp,
    "tls": networks.measure_tls,
    "cold": streams.measure_cold,
    "files": many_files.measure_files,
    "million": many_files.measure_million,
    "balance": balance.measure_balance,
    "load": load.measure_load,
}


def parse_arguments():
    """Arguments from bench/run.sh."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bin", "socket", "data", "tablespace", "owner", "target", "trash", "driver",
                 "pgbackrest", "pgbackrest-note", "s3-server", "s3-server-note", "rclone",
                 "rclone-note", "limit", "limit-note", "commit", "results", "size", "load"):  # fmt: skip
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--load-seconds", type=int, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, required=True)
    return parser.parse_args()


def measure(arguments):
    """Measures all requested parts."""
    cluster = Cluster(arguments)
    about = machine.describe(cluster, arguments)
    library = machine.library(cluster)
    cluster.hide_tablespace()
    about |= {
        "bytes": cluster.read_everything(),
        "size": arguments.size,
        "repeats": arguments.repeats,
        "parts": arguments.parts,
    }
    settings = {
        "repeats": arguments.repeats,
        "bytes": about["bytes"],
        "target": arguments.target,
        "trash": arguments.trash,
        "driver": arguments.driver,
        "pgbackrest": arguments.pgbackrest,
        "pgbackrest_note": arguments.pgbackrest_note,
        "s3_server": arguments.s3_server,
        "s3_server_note": arguments.s3_server_note,
        "rclone": arguments.rclone,
        "rclone_note": arguments.rclone_note,
        "limit": arguments.limit,
        "load_seconds": arguments.load_seconds,
    }
    result = {"about": about, "parts": {}, "targets": [], "notes": []}
    for part, action in PARTS.items():
        if part == "limit" and part in arguments.parts and not arguments.limit:
            result["notes"].append(f"The limit: not measured. {arguments.limit_note}")
        elif part in arguments.parts:
            progress(f"Measuring: {report.HEADINGS[part]}")
            began = time.monotonic()
            try:
                result["parts"][part] = action(cluster, settings, result["notes"])
            except Failed as failure:
                Client.end_all()
                result["parts"][part] = None
                result["notes"].append(f"{report.HEADINGS[part]}: not measured. {failure}")
                progress(f"  {result['notes'][-1]}")
            progress(f"  took {time.monotonic() - began:.0f} seconds")
    # Raw numbers of parts that failed are null.
    if machine.library(cluster) != library:
        result["notes"].append("The installed extension was replaced during this run.")
    result["targets"] = targets.compare(result["parts"])
    return result


def keep(result, folder):
    """Writes Markdown, raw numbers and the plot, each also under the name "latest"."""
    folder.mkdir(parents=True, exist_ok=True)
    name = result["about"]["date"].replace("-", "").replace(":", "").replace(" ", "-")
    files = {"md": report.report(result), "json": json.dumps(result, indent=2) + "\n"}
    if any(result["parts"].get(part) for part in report.ALL_CASES):
        files["svg"] = plot.plot(result)
    for suffix in ("md", "json", "svg"):
        latest = folder / f"latest.{suffix}"
        if suffix in files:
            (folder / f"{name}.{suffix}").write_text(files[suffix])
            shutil.copyfile(folder / f"{name}.{suffix}", latest)
        else:
            latest.unlink(missing_ok=True)
    print(files["md"])
    print(f"kept in {folder}/{name}: {', '.join(files)}")


def main():
    """Measures, prints the tables and saves them."""

    def stop(number, _frame):
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    arguments = parse_arguments()
    try:
        result = measure(arguments)
    finally:
        Client.end_all()
    keep(result, Path(arguments.results))


if __name__ == "__main__":
    main()
