"""Results as Markdown."""

import balance
import limit
import load
import repository
import targets

ALL_CASES = (
    "limit", "nowhere", "manifest", "compression", "directory", "incremental", "repository", "tcp",
    "tls", "cold",
)  # fmt: skip
SEVERAL_PEERS = ("compression", "incremental", "repository", "tcp", "tls")
NETWORKS = ("tcp", "tls")
HEADINGS = {
    "limit": "The same bytes without any work on them",
    "nowhere": "To nowhere",
    "manifest": "Checksums of the manifest, one worker to /dev/null",
    "stages": "Where one stream spends its time",
    "memory": "Memory",
    "compression": "Compressed on the server, to /dev/null",
    "directory": "To a directory on disk",
    "incremental": "Incremental backups, about 1 % of the pages changed",
    "repository": "To an S3 server on this machine, and from it",
    "tcp": "Over TCP, loopback",
    "tls": "Over TLS, loopback",
    "cold": "Cold page cache, to /dev/null",
    "files": "100,000 files",
    "million": "1,000,000 files",
    "balance": "Idle workers, with half of the cluster in one table",
    "load": "Beside a write-heavy pgbench",
}


def report(result):
    """The whole report: the targets first, then all parts in the order of measurement."""
    about, parts = result["about"], result["parts"]
    sections = [f"# Benchmark of {about['date']}", introduction(about)]
    if result["targets"]:
        sections += ["## Targets", targets_table(result["targets"])]
    for part, measured in parts.items():
        body = section(part, measured, about, parts.get("limit") or [])
        if body:
            sections += [f"## {HEADINGS[part]}", body]
    if result["notes"]:
        sections += ["## Notes", "\n".join(f"- {note}" for note in result["notes"])]
    return "\n\n".join(sections) + "\n"


def introduction(about):
    """Machine, cluster and settings."""
    settings = ", ".join(f"{name} = {value}" for name, value in about["settings"].items())
    rest = f", pgBackRest: {about['pgbackrest']}" if about["pgbackrest"] else ""
    rest += f", {about['rclone']}" if about["rclone"] else ""
    return (
        f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB of memory,"
        f" {about['file_system']}, {about['system']}, Linux {about['kernel']}"
        f" ({about['architecture']}); load average {about['load_before']} when it began.\n\n"
        f"{about['server']} ({settings}), {about['extension']} of commit {about['commit']},"
        f" {about['tar']}{rest}.\n\n"
        f"A cluster of {about['bytes'] / 1e9:.2f} GB in the page cache, connections by Unix-domain"
        f" socket unless a part says otherwise, page checks and CRC32C on unless a case says"
        f" otherwise, no WAL in the backups, fast checkpoints. Up to {about['repeats']} runs of each case, in turn. Times are in"
        f" seconds: median (minimum to maximum). CPU time is that of all processes of the server"
        f" and of the clients. The ratio is to the first case of a table, by wall time."
    )


def section(part, measured, about, limits):
    """Table of one part; empty if it could not be measured."""
    if not measured:
        return ""
    if part in ALL_CASES:
        return cases_table(measured, about["bytes"], part, limits)
    if part == "stages":
        return stages_table(measured)
    if part == "memory":
        return memory_table(measured)
    if part == "load":
        return load_table(measured, about["bytes"])
    if part == "balance":
        return balance_table(measured)
    return files_table(part, measured)


def cases_table(cases, size, part, limits):
    """Whole backups. Compression is compared by method, with archive sizes, and networks, chains
    and repositories by their own peers.
    Clients that write to a directory or use TCP have a column for the peak memory of one of them; it
    cannot be lower than that of this interpreter. Where the same bytes were sent without any work on them,
    in the same table or in the part "limit", the share of that rate and of that CPU time is shown."""
    by_method = part == "compression"
    by_client = part in ("directory", "incremental", "repository") or part in NETWORKS
    heading = ["case", "wall", "CPU", "ratio", "CPU ratio", "MB/s"]
    limits = {case["name"]: case for case in [*limits, *cases]}
    has_limit = any(limit.limit_of(part, case["name"]) in limits for case in cases)
    rows = []
    base = cases[0]
    for case in cases:
        if part in SEVERAL_PEERS and is_peer(case["name"]):
            base = case
        wall, cpu = case["wall"], case["cpu"]
        rows.append(
            [case["name"], spread_text(wall), spread_text(cpu),
             ratio(wall["median"], base["wall"]["median"]),
             ratio(cpu["median"], base["cpu"]["median"]),
             f"{size / 1e6 / wall['median']:.0f}"]
        )  # fmt: skip
        if has_limit:
            bound = limits.get(limit.limit_of(part, case["name"]))
            rows[-1] += [
                ratio(bound[kind]["median"], case[kind]["median"]) if bound else ""
                for kind in ("wall", "cpu")
            ]
        if by_method:
            written = case["written"]
            rows[-1].append(f"{written / size:.0%}" if written else "")
        if by_client:
            rows[-1].append(f"{case['peak_mb']['maximum']:.0f}")
    if has_limit:
        heading += ["of the limit", "by CPU"]
    if by_method:
        heading.append("size")
    if by_client:
        heading.append("MB of a client")
    return table(heading, rows)


def is_peer(name):
    """Whether a case is what those after it are compared with."""
    return name.startswith(("pg_basebackup", "pg_combinebackup")) or name.endswith(
        repository.DIRECTORY
    )


def stages_table(stages):
    """Differences of medians, and the share of each stage."""
    whole = stages[-1]
    wall, cpu = whole["wall"]["median"], whole["cpu"]["median"]
    rows = [
        [stage["name"], stage["adds"], decimal(stage["stage_wall"]),
         f"{max(stage['stage_wall'], 0) / wall:.0%}", decimal(stage["stage_cpu"]),
         decimal(stage["stage_wall"] - stage["stage_cpu"])]
        for stage in stages
    ]  # fmt: skip
    rows.append(
        ["whole stream", "", decimal(wall), "100%", decimal(cpu), decimal(wall - cpu)]
    )
    heading = ["stage", "what it adds", "wall", "share", "CPU", "waiting"]
    return (
        table(heading, rows)
        + "\n\nEach stage is the difference between the medians of two kinds of runs, with and"
        " without it; the first is a run of its own. The CPU time is that of the worker's backend;"
        " waiting is wall time without CPU time, for the disk, the client, or a free processor."
    )


def memory_table(used):
    """Memory growth of a worker."""
    limit = used["target_kb"] // 1024
    return table(
        ["growth of a worker over an idle backend", "MB", "target"],
        [
            [name, f"{used[key] / 1024:.1f}", verdict(used[key] / 1024, limit)]
            for name, key in (
                ("its own memory (RssAnon)", "anonymous_growth_kb"),
                ("highest resident size (VmHWM)", "resident_growth_kb"),
            )
        ],
    )


def files_table(part, measured):
    """Many files: the listing, and backups with the memory of the client."""
    judged = ("backup_filelist()", "start_backup beyond the checkpoint")
    peaks = measured["peak_mb"]
    return table(
        [f"with {measured['files']:,} files", "seconds", "MB of the client", "target"],
        [
            [name, spread_text(value), f"{peaks[name]:.0f}" if name in peaks else "",
             verdict(value["median"], targets.FILES_SECONDS)
             if part == "files" and name in judged else ""]
            for name, value in measured["seconds"].items()
        ],
    )  # fmt: skip


def balance_table(measured):
    """Wall time, and the share in which not all workers were busy."""
    rows = [[case["name"], spread_text(case["wall"]), spread_text(case["idle"])] for case in measured]
    return (
        table(["backup", "wall", "share with an idle worker"], rows)
        + f"\n\n{balance.WORKERS} workers and a rate limit of {balance.RATE}B/s, into a directory. The table is as"
        " large as the rest of the cluster. The share is of the time from the first stream to the end of the last."
    )


def load_table(measured, size):
    """Remaining throughput of the load, and the cost of a whole backup at this speed."""
    cases = measured["cases"]
    alone = next((case for case in cases if case["name"] == load.NONE), None)
    rows = []
    for case in cases:
        tps, p99, rate = (case[key] for key in ("tps", "p99_ms", "mb_per_second"))
        row = [case["name"], f"{tps['median']:.0f} ({tps['minimum']:.0f} to {tps['maximum']:.0f})",
               ratio(tps["median"], alone and alone["tps"]["median"]), spread_text(p99),
               ratio(p99["median"], alone and alone["p99_ms"]["median"]), "", "", ""]  # fmt: skip
        if rate["median"] > 0:
            seconds = size / 1e6 / rate["median"]
            row[5:7] = [f"{rate['median']:.0f}", f"{seconds:.1f}"]
            if alone:
                row[7] = f"{(alone['tps']['median'] - tps['median']) * seconds:.0f}"
        rows.append(row)
    heading = ["backup", "transactions per second", "ratio", "p99 in ms", "ratio", "MB/s",
               "s per backup", "lost to one backup"]  # fmt: skip
    return (
        table(heading, rows)
        + f"\n\npgbench's own transactions, {measured['clients']} clients,"
        f" {measured['seconds']} seconds in each run, with fsync as above. Backups are taken one"
        " after the other during all of that time. The last columns are of a backup of the whole"
        " cluster at this pace: how long it takes, and how many transactions are not made"
        " meanwhile. Ratios are to no backup."
    )


def targets_table(rows):
    """Ratios with their targets."""
    return table(
        ["case", "against", "of", "ratio", "target"],
        [
            [row["what"], row["against"], row["measured"],
             "" if row["ratio"] is None else f"{row['ratio']:.2f}",
             f"{row['verdict']} (at most {row['at_most']:.2f})"]
            for row in rows
        ],
    )  # fmt: skip


# ---- pieces ------------------------------------------------------------------------------------


def spread_text(values):
    """Median, minimum and maximum."""
    return f"{values['median']:.2f} ({values['minimum']:.2f} to {values['maximum']:.2f})"


def decimal(value):
    """Two decimals, without a sign for zero: differences of short runs may be negative."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def ratio(value, base):
    """Ratio with two decimals; empty without a divisor."""
    return f"{value / base:.2f}" if base else ""


def verdict(value, target):
    """Whether a figure meets its target."""
    return f"{'met' if value <= target else 'missed'} (at most {target})"


def table(heading, rows):
    """A Markdown table with aligned columns."""
    widths = [max(len(str(row[i])) for row in [heading, *rows]) for i in range(len(heading))]
    lines = [heading, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell!s:<{width}}" for cell, width in zip(line, widths)) + " |"
        for line in lines
    )
