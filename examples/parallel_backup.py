#!/usr/bin/env python3
"""Takes a base backup with several workers, using psycopg 3 and GNU tar.

One connection, the leader, starts and stops the backup and stays open in between. Each worker is a
thread with its own connection. It requests files until none is left and passes the stream to a tar
that unpacks it. All unpack into one directory, which then is a data directory. This program creates
the links of tablespaces before anything is unpacked below them, so that a tablespace can be
relocated.

After any error, and after Ctrl-C, the program stops the workers, ends the backup on the server (it
ends with the leader's session) and removes what it has created.
"""

import argparse
import contextlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
from psycopg import sql

# A server must not write outside the backup: tar refuses absolute names and "..", and a new link gets
# a target that does not exist. The links of the tablespaces already exist and are not replaced.
NOWHERE = "/nonexistent"
UNTAR = [
    "tar", "-x", "-f", "-", "--blocking-factor=512", "--same-permissions", "--no-same-owner", "--numeric-owner",
    "--skip-old-files", f"--transform=s,.*,{NOWHERE},sRH",
]  # fmt: skip


# Seconds without a word after which a connection counts as dropped: firewalls and gateways drop silent
# ones without telling either side.
SILENCE = 120
# What TCP does to notice that, as parameters of libpq; the server's settings have the same names.
KEEPALIVES = {
    "keepalives_idle": SILENCE // 2,
    "keepalives_interval": SILENCE // 12,
    "keepalives_count": 6,
    "tcp_user_timeout": SILENCE * 1000,
}


class BackupFailed(Exception):
    """An error that ends the backup, with a message for the user."""


# ---- arguments ---------------------------------------------------------------------------------


def tablespace_mapping(text):
    """OLD=NEW by the rules of pg_basebackup: both absolute; \\= is a = in a path."""
    sides = [side.replace("\\=", "=") for side in re.split(r"(?<!\\)=", text)]
    if len(sides) != 2 or not all(sides):
        raise argparse.ArgumentTypeError(f'invalid tablespace mapping "{text}", must be "OLD=NEW"')
    for name, side in zip(("old", "new"), sides):
        if not side.startswith("/"):
            raise argparse.ArgumentTypeError(
                f"{name} directory is not an absolute path in tablespace mapping: {side}"
            )
    old, new = (side.rstrip("/") for side in sides)
    return old, new


def directory(text):
    """Makes a path absolute. Refuses an empty path, which would mean the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("no target directory specified")
    return Path(text).absolute()


def positive(text):
    """An integer of at least one."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse_arguments():
    """Parses the command line, which is the same as that of parallel_backup.sh."""
    parser = argparse.ArgumentParser(
        description="Takes a parallel base backup of a PostgreSQL server.", allow_abbrev=False
    )
    add = parser.add_argument
    add("-D", "--directory", required=True, type=directory,
        help="target directory; must be empty or not exist")  # fmt: skip
    add("-d", "--dbname", default="", help="connection string, or name of a database")
    add("-j", "--jobs", type=positive, default=4, help="number of workers (default 4)")
    add("-T", "--tablespace-mapping", type=tablespace_mapping, action="append", default=[],
        metavar="OLD=NEW", help="relocate the tablespace at OLD to NEW")  # fmt: skip
    add("--wal", action=argparse.BooleanOptionalAction, default=True,
        help="include the WAL that the backup needs")  # fmt: skip
    add("-c", "--checkpoint", choices=("fast", "spread"), default="spread")
    add("-r", "--max-rate", type=positive, help="kB/s for all workers together, 32 to 1048576")
    add("-l", "--label", default="parallel_backup", help="label of the backup")
    add("--no-verify-checksums", action="store_true", help="do not verify checksums of pages")
    add("--no-verify", action="store_true", help="do not run pg_verifybackup on the result")
    add("--no-sync", action="store_true", help="do not wait for the files to reach the disk")
    add("--heartbeat", type=float, default=30, metavar="SECONDS",
        help="interval of statements in the leader's session (default 30, 0 for none)")  # fmt: skip
    add("-v", "--verbose", action="store_true", help="show the progress once a second")
    arguments = parser.parse_args()
    if arguments.dbname and "=" not in arguments.dbname and "://" not in arguments.dbname:
        arguments.dbname = psycopg.conninfo.make_conninfo(dbname=arguments.dbname)
    return arguments


# ---- directories -------------------------------------------------------------------------------


class Directories:
    """Directories of a backup, created or found empty. A failure restores that state."""

    def __init__(self):
        self.made = []
        self.emptied = []
        self.claimed = []

    def claim(self, path, mode):
        """Creates the directory, or uses an empty one."""
        if path.is_symlink() or path.exists():
            require_empty(path)
            self.emptied.append(path)
        else:
            missing = path
            while not missing.parent.exists():
                missing = missing.parent
            self.made.append(missing)
            path.mkdir(parents=True)
        path.chmod(mode)
        self.claimed.append(path)

    def restore(self):
        """Removes everything created. Links are removed, never followed."""
        for path in self.made:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.emptied:
            for entry in path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)

    def sync(self):
        """Waits until all files are on disk."""
        subprocess.run(["sync", "-f", *self.claimed], check=True)


def require_empty(path):
    """Refuses anything other than an empty directory."""
    if not path.is_dir():
        raise BackupFailed(f'"{path}" exists but is not a directory')
    if any(path.iterdir()):
        raise BackupFailed(f'directory "{path}" exists but is not empty')


# ---- streams -----------------------------------------------------------------------------------


class Stream:
    """One COPY into one tar. Its bytes are counted for the report."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.octets = 0
        self.started = time.monotonic()
        self.ended = self.started
        self.lock = threading.Lock()
        self.stopped = False
        self.tar = None
        self.connection = None

    def run(self, connection, statement):
        """Runs the COPY and unpacks it; an error on either side is an error of the stream."""
        connection.add_notice_handler(self.notice)
        with tempfile.TemporaryFile() as said:
            with self.lock:
                if self.stopped:
                    raise BackupFailed(f"{self.name}: stopped")
                self.connection = connection
                # In its own session tar gets no Ctrl-C: this program ends it in order.
                self.tar = subprocess.Popen(
                    [*UNTAR, "-C", self.directory],
                    stdin=subprocess.PIPE, stderr=said, start_new_session=True,
                )  # fmt: skip
            with self.tar:
                try:
                    self.pump(statement)
                except BaseException:
                    # A truncated archive must not look complete.
                    self.tar.kill()
                    raise
            if self.tar.returncode != 0:
                said.seek(0)
                text = said.read().decode(errors="replace").strip()
                raise BackupFailed(
                    f"{self.name}: tar ended with status {self.tar.returncode}: {text}"
                )
        connection.remove_notice_handler(self.notice)
        self.ended = time.monotonic()

    def pump(self, statement):
        """Copies from the server to tar. If tar has ended, its exit status decides."""
        with contextlib.suppress(BrokenPipeError), self.tar.stdin as sink:
            with self.connection.cursor().copy(statement) as copy:
                for block in copy:
                    sink.write(block)
                    self.octets += len(block)

    def notice(self, diagnostic):
        """Receives notices, such as warnings about pages."""
        print(f"{self.name}: {diagnostic.severity}: {diagnostic.message_primary}", file=sys.stderr)

    def stop(self):
        """Makes run() end, whatever it waits for. Called from another thread."""
        with self.lock:
            self.stopped = True
            if self.tar is not None:
                self.tar.kill()
            if self.connection is not None and not self.connection.closed:
                shut_down(self.connection)


def shut_down(connection):
    """Ends a connection that another thread waits for, which closing it would not wake. The server
    notices it as well."""
    with contextlib.suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def keepalives(conninfo):
    """Parameters by which libpq notices a dropped connection, unless the user has set his own. Only
    libpq reads service files, so what they set is not known."""
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    if "service" in given or "PGSERVICE" in os.environ:
        return {}
    return {name: value for name, value in KEEPALIVES.items() if name not in given}


def rate_line(name, octets, seconds):
    """Bytes, seconds and their quotient."""
    rate = octets / 1e6 / max(seconds, 1e-6)
    return f"  {name:<10} {octets / 1e6:9.1f} MB  {seconds:6.1f} s  {rate:8.1f} MB/s"


# ---- the backup --------------------------------------------------------------------------------


# Settings that could end a session or delay it.
SETTINGS = [
    "search_path=pg_catalog",
    "statement_timeout=0",
    "lock_timeout=0",
    "idle_session_timeout=0",
    "idle_in_transaction_session_timeout=0",
    "exit_on_error=off",
    "default_transaction_isolation=read\\ committed",
    "default_transaction_deferrable=off",
]


class Backup:
    """A backup from start to end, in the order of the methods."""

    def __init__(self, arguments, directories):
        self.arguments = arguments
        self.directories = directories
        self.directory = arguments.directory
        self.streams = []
        self.threads = []
        self.leader = self.connect("leader")

    def connect(self, role):
        """A session with the role's time limits and similar settings reset."""
        session = psycopg.connect(
            self.arguments.dbname, autocommit=True,
            application_name=f"parallel_backup.py {role}",
            options=" ".join(f"-c {setting}" for setting in SETTINGS),
            **keepalives(self.arguments.dbname),
        )  # fmt: skip
        # The server notices too that this side has gone.
        for name, value in KEEPALIVES.items():
            session.execute(
                "SELECT set_config(name, %s, false) FROM pg_settings"
                " WHERE name = %s AND source = 'default'",
                (str(value), name if name.startswith("tcp_") else f"tcp_{name}"),
            )
        # Exists from 17 on.
        session.execute(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"
        )
        return session

    def call(self, text, **names):
        """A statement, in which {name} stands for a function of the extension, a number or a boolean."""
        return sql.SQL(text).format(**{
            name: sql.Identifier(self.schema, value) if isinstance(value, str) else sql.Literal(value)
            for name, value in names.items()
        })  # fmt: skip

    def start(self):
        """Starts the backup; returns when the server has listed its files."""
        row = self.leader.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
            " WHERE e.extname = 'pg_parallel_backup'"
        ).fetchone()
        if row is None:
            raise BackupFailed(
                "this database has no extension pg_parallel_backup"
                " (CREATE EXTENSION pg_parallel_backup)"
            )
        (self.schema,) = row
        (mode,) = self.leader.execute("SELECT current_setting('data_directory_mode')").fetchone()
        if not re.fullmatch("[0-7]{3,4}", mode):
            raise BackupFailed(f'the server sent an invalid mode "{mode}"')
        self.mode = int(mode, 8)
        os.umask(0o777 & ~self.mode)
        print("starting the backup, waiting for its checkpoint", flush=True)
        row = self.leader.execute(
            self.call(
                "SELECT backup_id, file_count, total_bytes, start_lsn, timeline"
                " FROM {start}(%s, fast => %s, tablespace_map => false, max_rate => %s,"
                " verify_checksums => %s, retain_wal => %s)",
                start="start_backup",
            ),
            (
                self.arguments.label,
                self.arguments.checkpoint == "fast",
                self.arguments.max_rate,
                not self.arguments.no_verify_checksums,
                self.arguments.wal,
            ),
        ).fetchone()
        if row is None:
            raise BackupFailed("the server started no backup")
        (backup_id, file_count, total_bytes, self.start_lsn, self.timeline) = row
        self.id = number("backup ID", backup_id)
        self.file_count = number("number of files", file_count)
        self.total_bytes = number("size", total_bytes)

    def prepare_tablespaces(self):
        """Creates a new location for each tablespace, and the link to it in the backup."""
        mapping = dict(self.arguments.tablespace_mapping)
        unused = set(mapping)
        self.directories.claim(self.directory, self.mode)
        for oid, location in self.leader.execute(
            self.call(
                "SELECT spcoid, spclocation FROM {tablespaces}(%s) WHERE spcoid IS NOT NULL",
                tablespaces="backup_tablespaces",
            ),
            (self.id,),
        ).fetchall():
            # An in-place tablespace is part of the data directory.
            if not location.startswith("/"):
                continue
            oid = number("tablespace OID", oid)
            target = Path(mapping.get(location, location))
            unused.discard(location)
            self.directories.claim(target, self.mode)
            links = self.directory / "pg_tblspc"
            links.mkdir(exist_ok=True)
            (links / str(oid)).symlink_to(target)
        for old in unused:
            raise BackupFailed(f'there is no tablespace at "{old}", which -T maps')

    def make_directories(self):
        """Unpacks directories before the workers begin: two tars that create the same directory at the
        same time can fail."""
        directories = Stream("directories", self.directory)
        self.streams = [directories]
        statement = self.call(
            "COPY (SELECT {send}({id}, ARRAY(SELECT path FROM {list}({id}) WHERE type <> 'f')))"
            " TO STDOUT",
            send="send_backup_files", list="backup_filelist", id=self.id,
        )  # fmt: skip
        directories.run(self.leader, statement)

    def stream(self):
        """Runs the workers until the queue is empty; the first error ends them all."""
        count = self.arguments.jobs
        print(f"streaming {self.file_count} files, {self.total_bytes / 1e6:.1f} MB,"
              f" with {count} workers", flush=True)  # fmt: skip
        self.streams = [Stream(f"worker {n}", self.directory) for n in range(1, count + 1)]
        results = queue.SimpleQueue()
        self.threads = [
            threading.Thread(target=self.work, args=(stream, results)) for stream in self.streams
        ]
        for thread in self.threads:
            thread.start()
        running = count
        heartbeat = self.arguments.heartbeat
        if heartbeat:
            # Behind a gateway that keeps a connection open nothing else tells the server.
            limit = int(max(SILENCE, 3 * heartbeat) * 1000)
            self.leader.execute(f"SET idle_session_timeout = {limit}")
        last_word = time.monotonic()
        while running:
            if heartbeat and time.monotonic() - last_word >= heartbeat:
                self.send_heartbeat()
                last_word = time.monotonic()
            try:
                error = results.get(timeout=min(1, heartbeat or 1))
            except queue.Empty:
                if self.arguments.verbose:
                    self.show_progress()
                continue
            if error is not None:
                raise error
            running -= 1

    def send_heartbeat(self):
        """Says something in the leader's session, so that nothing on the way takes it for dead."""
        timer = threading.Timer(SILENCE, shut_down, [self.leader])
        timer.start()
        try:
            self.leader.execute("SELECT")
        except psycopg.OperationalError as error:
            raise BackupFailed(f"leader: {describe(error)}") from error
        finally:
            timer.cancel()

    def work(self, stream, results):
        """Body of a worker's thread. Reports None or an error."""
        try:
            statement = self.call(
                "COPY (SELECT {send}({id})) TO STDOUT", send="send_backup_files", id=self.id
            )
            with self.connect(stream.name) as connection:
                stream.run(connection, statement)
            results.put(None)
        except BackupFailed as error:
            results.put(error)
        except Exception as error:  # after any error the backup is incomplete
            results.put(BackupFailed(f"{stream.name}: {describe(error)}"))

    def show_progress(self):
        """Progress of this backup, from the server."""
        row = self.leader.execute(
            self.call(
                "SELECT phase, files_sent, files_total, bytes_sent / 1000000,"
                " bytes_total / 1000000, workers FROM {progress}() WHERE backup_id = %s",
                progress="backup_progress",
            ),
            (self.id,),
        ).fetchone()
        if row is not None:
            print("{}: {} of {} files, {} of {} MB, {} workers".format(*row), flush=True)

    def stop(self):
        """Ends the backup and unpacks the closing archive, whose last file is the manifest."""
        print("stopping the backup", flush=True)
        closing = Stream("closing", self.directory)
        self.streams.append(closing)
        statement = self.call(
            "COPY (SELECT {stop}(wal => {wal})) TO STDOUT",
            stop="send_stop_backup", wal=self.arguments.wal,
        )  # fmt: skip
        closing.run(self.leader, statement)
        for name in ("backup_label", "backup_manifest"):
            if not (self.directory / name).is_file():
                raise BackupFailed("the closing archive was not complete")
        self.leader.close()

    def check_links(self):
        """Checks that the backup contains only the links that this program has created."""
        for folder, folders, files in os.walk(self.directory):
            for name in folders + files:
                path = os.path.join(folder, name)
                if os.path.islink(path) and os.readlink(path) == NOWHERE:
                    raise BackupFailed(f'the server sent an unexpected link "{path}"')

    def end_everything(self):
        """Ends the workers after an error, then the leader, and with it the backup."""
        for stream in self.streams:
            stream.stop()
        for thread in self.threads:
            thread.join()
        self.leader.close()


def number(what, value):
    """Parses an integer from the server, which is not trusted."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BackupFailed(f'the server sent an invalid {what} "{value}"') from None


def describe(error):
    """Text of an error, with detail and hint if it comes from the server."""
    diagnostic = getattr(error, "diag", None)
    if diagnostic is None or diagnostic.message_primary is None:
        return str(error).strip() or type(error).__name__
    lines = [f"{diagnostic.severity}:  {diagnostic.message_primary}"]
    if diagnostic.message_detail:
        lines.append(f"DETAIL:  {diagnostic.message_detail}")
    if diagnostic.message_hint:
        lines.append(f"HINT:  {diagnostic.message_hint}")
    return "\n".join(lines)


# ---- the whole ---------------------------------------------------------------------------------


def verify_backup(directory, server_major, wal):
    """Runs pg_verifybackup if it is installed."""
    folders = [os.environ.get("PATH", ""), f"/usr/lib/postgresql/{server_major}/bin"]
    program = shutil.which("pg_verifybackup", path=os.pathsep.join(folders))
    if program is None:
        print("not verified: there is no pg_verifybackup here")
        return
    options = ["-q"] if wal else ["-q", "-n"]
    if subprocess.run([program, *options, directory], check=False).returncode != 0:
        raise BackupFailed("pg_verifybackup did not accept the backup")
    print("verified by pg_verifybackup", flush=True)


def take_backup(arguments, directories):
    """The backup from end to end."""
    if arguments.directory.exists():
        # Check before the server does anything; it is checked again when it is claimed.
        require_empty(arguments.directory)
    began = time.monotonic()
    backup = Backup(arguments, directories)
    try:
        backup.start()
        backup.prepare_tablespaces()
        backup.make_directories()
        backup.stream()
        server_major = backup.leader.info.server_version // 10000
        backup.stop()
    except BaseException:
        backup.end_everything()
        raise
    backup.check_links()
    if not arguments.no_sync:
        directories.sync()
    ended = time.monotonic()
    if not arguments.no_verify:
        verify_backup(arguments.directory, server_major, arguments.wal)
    print(f"backup from {backup.start_lsn} on timeline {backup.timeline} is complete"
          f' in "{arguments.directory}"')  # fmt: skip
    for stream in backup.streams[:-1]:
        print(rate_line(stream.name, stream.octets, stream.ended - stream.started))
    print(rate_line("in total", sum(s.octets for s in backup.streams), ended - began))


def stopped(_signal, _frame):
    """SIGTERM and SIGHUP end the backup as Ctrl-C does."""
    raise KeyboardInterrupt


def main():
    """Reports errors in one place and restores the directories after any error."""
    arguments = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stopped)
    directories = Directories()
    try:
        take_backup(arguments, directories)
        return 0
    except KeyboardInterrupt:
        message = "stopped by a signal"
    except Exception as error:  # after any error nothing of the backup remains
        message = str(error) if isinstance(error, BackupFailed) else f"leader: {describe(error)}"
    print(f"parallel_backup.py: error: {message}", file=sys.stderr)
    directories.restore()
    return 1


if __name__ == "__main__":
    sys.exit(main())
