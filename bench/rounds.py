"""Cases that take turns, and statistics of their times."""

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable

from clients import Client, Failed


@dataclasses.dataclass
class Case:
    """A method to take a backup. Only `run` is measured; `check` gets the Run and may refuse it."""

    name: str
    run: Callable
    prepare: Callable = lambda: None
    check: Callable = lambda run: None
    clean: Callable = lambda: None
    repeats: int = sys.maxsize  # at most


@dataclasses.dataclass
class Run:
    """Result of one run. `written` is the size of its archives if known, `peak_mb` the highest
    resident size of one of its clients."""

    wall: float
    cpu: float
    written: int | None
    peak_mb: float


def progress(text):
    """Reports progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def ended_clients():
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(cluster, action):
    """Wall time of an action, and CPU time of all server and client processes."""
    processes = cluster.processes()
    before = cluster.cpu_seconds() + ended_clients()
    Client.peak_kb = 0
    began = time.monotonic()
    written = action()
    wall = time.monotonic() - began
    cluster.wait_for_others_to_end(processes)
    cpu = cluster.cpu_seconds() + ended_clients() - before
    return Run(wall, cpu, written, Client.peak_kb / 1024)


def take_turns(cluster, cases, repeats, notes, warm_up=False):
    """Runs the cases in turn, `repeats` times. A warm-up round does not count. A failed run is
    noted and left out. A case whose first run fails is not run again."""
    taken = {case.name: [] for case in cases}
    begun, hopeless = set(), set()
    for turn in range(0 if warm_up else 1, repeats + 1):
        for case in cases:
            if case.name in hopeless or turn > case.repeats:
                continue
            try:
                case.prepare()
                cluster.ask("CHECKPOINT;")
                run = measure(cluster, case.run)
                case.check(run)
                begun.add(case.name)
                if turn > 0:
                    taken[case.name].append(run)
            except Failed as failure:
                Client.end_all()
                if case.name in begun:
                    notes.append(f"{case.name}: a run failed and does not count. {failure}")
                else:
                    hopeless.add(case.name)
                    notes.append(f"{case.name}: not measured. {failure}")
                progress(f"  {notes[-1]}")
            except BaseException:
                # Clients may still write, and have files to remove.
                Client.end_all()
                raise
            finally:
                case.clean()
        progress(f"  round {turn} of {repeats} done" if turn > 0 else "  warmed up")
    return [
        {
            "name": name,
            "wall": spread([run.wall for run in runs]),
            "cpu": spread([run.cpu for run in runs]),
            "peak_mb": spread([run.peak_mb for run in runs]),
            "written": runs[-1].written,
        }
        for name, runs in taken.items()
        if runs
    ]


def spread(values):
    """Median, minimum and maximum, with the values."""
    return {
        "median": round(statistics.median(values), 3),
        "minimum": round(min(values), 3),
        "maximum": round(max(values), 3),
        "runs": [round(value, 3) for value in values],
    }
