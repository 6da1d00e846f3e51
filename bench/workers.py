"""Time and memory of a single worker."""

import re
import threading
import time
from pathlib import Path

from clients import Session
from cluster import read_stat
from rounds import progress, spread

# Each stage does one thing more than the one before: name, addition, options.
STAGES = (
    ("read", "open and read the files, make the archive's headers", "false", "NONE", "blackhole"),
    ("page check", "verify the checksum of each page", "true", "NONE", "blackhole"),
    ("checksum", "CRC-32C of each file for the manifest", "true", "CRC32C", "blackhole"),
    ("send", "hand over to the client, and wait for it", "true", "CRC32C", "client"),
)


def one_stream(cluster, verify, manifest, target):
    """Wall time of one worker's statement, and CPU time of its backend meanwhile."""
    with Session(cluster) as leader, Session(cluster) as worker:
        (backup_id,) = leader.ask(
            "SELECT backup_id FROM start_backup(fast => true, "
            f"verify_checksums => {verify}, manifest_checksums => '{manifest}');"
        )
        (pid,) = worker.ask("SELECT pg_backend_pid();")
        before = read_stat(pid).own
        began = time.monotonic()
        if target == "client":
            worker.copy(f"SELECT send_backup_files({backup_id})")
        else:
            worker.ask(f"SELECT send_backup_files({backup_id}, target => '{target}');")
        wall = time.monotonic() - began
        cpu = read_stat(pid).own - before
        leader.ask("SELECT abort_backup();")
    return wall, cpu


def measure_stages(cluster, settings, _notes):
    """Runs with one more stage each time. A stage's time is the difference to the previous run."""
    repeats = settings["repeats"]
    taken = [[] for _ in STAGES]
    for turn in range(repeats + 1):
        for (*_, verify, manifest, target), runs in zip(STAGES, taken):
            run = one_stream(cluster, verify, manifest, target)
            if turn > 0:
                runs.append(run)
        progress(f"  round {turn} of {repeats} done" if turn > 0 else "  warmed up")
    result = []
    for (name, adds, *options), runs in zip(STAGES, taken):
        wall, cpu = spread([run[0] for run in runs]), spread([run[1] for run in runs])
        last = result[-1] if result else None
        result.append(
            {
                "name": name,
                "adds": adds,
                "options": options,
                "wall": wall,
                "cpu": cpu,
                "stage_wall": round(wall["median"] - (last["wall"]["median"] if last else 0), 3),
                "stage_cpu": round(cpu["median"] - (last["cpu"]["median"] if last else 0), 3),
            }
        )
    return result


# ---- memory ------------------------------------------------------------------------------------


def memory(pid, name):
    """A field of /proc/PID/status, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1])


def measure_memory(cluster, _settings, _notes):
    """Growth of a worker compared with its idle session: its private memory while it streams, and
    its highest resident size, which includes the shared pages that it has touched."""
    with Session(cluster) as leader, Session(cluster) as worker:
        (backup_id,) = leader.ask("SELECT backup_id FROM start_backup(fast => true);")
        (pid,) = worker.ask("SELECT pg_backend_pid();")
        idle_anonymous, idle_high = memory(pid, "RssAnon"), memory(pid, "VmHWM")
        done = threading.Event()
        samples = [idle_anonymous]

        def sample():
            while not done.wait(0.005):
                samples.append(memory(pid, "RssAnon"))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            worker.copy(f"SELECT send_backup_files({backup_id})")
        finally:
            done.set()
            sampler.join()
        high = memory(pid, "VmHWM")
        leader.ask("SELECT abort_backup();")
    return {
        "anonymous_growth_kb": max(samples) - idle_anonymous,
        "resident_growth_kb": high - idle_high,
        "target_kb": 16 * 1024,
    }
