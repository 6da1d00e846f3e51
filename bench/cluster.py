"""The cluster that is backed up: its location, its files, the CPU time of its processes."""

import os
import pwd
import time
from pathlib import Path

from clients import Session

TICKS = os.sysconf("SC_CLK_TCK")


class Cluster:
    """Location of the server, and its client programs."""

    def __init__(self, arguments):
        self.bin = Path(arguments.bin)
        self.socket = arguments.socket
        self.port = str(arguments.port)
        self.data = Path(arguments.data)
        self.tablespace = Path(arguments.tablespace)
        self.owner = pwd.getpwnam(arguments.owner)
        self.address = ["-h", self.socket, "-p", self.port, "-U", "postgres"]
        self.conninfo = f"host={self.socket} port={self.port} user=postgres dbname=postgres"
        self.postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        (self.link,) = (self.data / "pg_tblspc").iterdir()
        (self.in_tablespace,) = self.tablespace.glob("PG_*/*")
        # PIDs of other servers, whose CPU time counts like that of this one.
        self.other_servers = set()
        # The name of a directory of a nonexistent database.
        self.in_base = self.data / "base" / "4999999"

    def psql(self, dbname="postgres"):
        """Command line of a psql that stops at the first error."""
        return [self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.address, "-d", dbname]

    def ask(self, statement):
        """Runs a statement in a new session. Returns its rows."""
        with Session(self) as session:
            return session.ask(statement)

    # ---- files ---------------------------------------------------------------------------------

    def hide_tablespace(self):
        """Moves the tablespace's directory into base/, like that of another database.

        pg_basebackup -D - writes only one archive. It refuses a cluster with a tablespace, and
        leaves out an in-place tablespace. After the move, all parts back up the same bytes. The
        server does not use these files meanwhile.
        """
        self.ask("CHECKPOINT;")
        self.in_tablespace.rename(self.in_base)
        self.link.unlink()

    def show_tablespace(self):
        """Reverts hide_tablespace()."""
        self.in_base.rename(self.in_tablespace)
        self.link.symlink_to(self.tablespace)

    def read_everything(self):
        """Reads all files except WAL into the page cache and returns their size. The tablespace
        must be hidden."""
        size = 0
        block = bytearray(1 << 20)
        for folder, below, names in os.walk(self.data):
            if folder == str(self.data):
                below.remove("pg_wal")
            for name in names:
                with open(os.path.join(folder, name), "rb", buffering=0) as file:
                    while count := file.readinto(block):
                        size += count
        return size

    # ---- processes -----------------------------------------------------------------------------

    def processes(self):
        """The server's processes except the postmaster."""
        return {
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and (stat := read_stat(entry.name))
            and stat.parent == self.postmaster
        }  # fmt: skip

    def cpu_seconds(self):
        """CPU time of all server processes since the start, including those that have ended."""
        counted = {self.postmaster, *self.processes(), *self.other_servers}
        stats = (read_stat(pid) for pid in counted)
        return sum(stat.own + stat.ended for stat in stats if stat)

    def wait_for_others_to_end(self, processes):
        """Waits until only these processes are left: backends outlive their clients."""
        deadline = time.monotonic() + 10
        while self.processes() - processes and time.monotonic() < deadline:
            time.sleep(0.005)


class Stat:
    """Fields of /proc/PID/stat, times in seconds."""

    def __init__(self, text):
        # The program's name comes first, in parentheses, and may contain any characters.
        fields = text.rpartition(")")[2].split()
        self.parent = int(fields[1])
        user, system, children_user, children_system = map(int, fields[11:15])
        self.own = (user + system) / TICKS
        self.ended = (children_user + children_system) / TICKS


def read_stat(pid):
    """Returns None if the process does not exist."""
    try:
        return Stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None



def put_away(path, trash):
    """Truncates the files of a folder and moves the folder aside instead of removing it: ext4
    creates files slowly for some minutes after many have been removed, so the removal would slow
    the next case down. bench/run.sh removes everything at the end."""
    if path.exists():
        for folder, _, names in os.walk(path):
            for name in names:
                file = os.path.join(folder, name)
                if not os.path.islink(file):
                    os.truncate(file, 0)
        move_aside(path, trash)


def move_aside(path, trash):
    """The same for files that use no space."""
    if path.exists():
        trash.mkdir(exist_ok=True)
        path.rename(trash / f"{len(list(trash.iterdir()))}")
