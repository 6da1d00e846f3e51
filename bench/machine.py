"""Description of the machine and the software."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

SETTINGS = ("data_checksums", "fsync", "max_wal_size", "shared_buffers", "wal_level")


def describe(cluster, arguments):
    """Machine, versions and settings, for the report."""
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    shown = cluster.ask(
        "SELECT name, current_setting(name) FROM pg_settings"
        f" WHERE name IN ({names}) ORDER BY name;"
    )
    (version,) = cluster.ask("SELECT current_setting('server_version');")
    (extension,) = cluster.ask(
        "SELECT extversion FROM pg_extension WHERE extname = 'pg_parallel_backup';"
    )
    return {
        "date": datetime.datetime.now().isoformat(sep=" ", timespec="seconds"),
        "processor": field("/proc/cpuinfo", "model name") or platform.processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int((field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1e6, 1),
        "kernel": platform.release(),
        "system": field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "file_system": said("findmnt", "-n", "-o", "FSTYPE", "-T", str(cluster.data)),
        "load_before": arguments.load,
        "server": f"PostgreSQL {version}",
        "extension": f"pg_parallel_backup {extension}",
        "commit": arguments.commit,
        "tar": said("tar", "--version"),
        "pgbackrest": said(arguments.pgbackrest, "version") if arguments.pgbackrest else "",
        "rclone": said(arguments.rclone, "version") if arguments.rclone else "",
        "settings": dict(line.split("|") for line in shown),
    }


def library(cluster):
    """Size and modification time of the installed library, to detect its replacement meanwhile."""
    (folder,) = cluster.ask("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR';")
    stat = os.stat(Path(folder, "pg_parallel_backup.so"))
    return stat.st_size, stat.st_mtime_ns


def field(path, name, separator=":"):
    """Value of the first line that begins with the name."""
    try:
        text = Path(path).read_text()
    except OSError:
        return ""
    found = re.search(rf"^{name}\s*{separator}\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def said(*command):
    """First line of a program's output."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
    return output.split("\n")[0].strip()
