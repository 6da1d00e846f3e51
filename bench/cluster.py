"""The cluster that is backed up: where it is, what it consists of, what its processes used."""

import os
import pwd
import time
from pathlib import Path

from clients import Session

TICKS = os.sysconf("SC_CLK_TCK")


class Cluster:
    """Where the server is and which programs talk to it."""

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
        # Named as the directory of a database that is not there.
        self.in_base = self.data / "base" / "4999999"

    def psql(self, dbname="postgres"):
        """The command line of a psql that stops at the first error."""
        return [self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.address, "-d", dbname]

    def ask(self, statement):
        """The rows of a statement in a session of its own."""
        with Session(self) as session:
            return session.ask(statement)

    # ---- files ---------------------------------------------------------------------------------

    def hide_tablespace(self):
        """Makes the directory in the tablespace look like one of another database.

        pg_basebackup -D - writes one archive only, so that it refuses a cluster that has a
        tablespace, and it leaves out one that is a directory in pg_tblspc. Like this the bytes to
        be backed up are the same in all parts. The server has nothing to do there meanwhile.
        """
        self.ask("CHECKPOINT;")
        self.in_tablespace.rename(self.in_base)
        self.link.unlink()

    def show_tablespace(self):
        """Undoes that."""
        self.in_base.rename(self.in_tablespace)
        self.link.symlink_to(self.tablespace)

    def read_everything(self):
        """Brings the files into the page cache and returns their size, without WAL. The tablespace
        has to be hidden."""
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
        """The server's processes besides the postmaster."""
        return {
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and (stat := read_stat(entry.name))
            and stat.parent == self.postmaster
        }  # fmt: skip

    def cpu_seconds(self):
        """What all processes of the server have used since it started, those that ended too."""
        stats = (read_stat(pid) for pid in {self.postmaster, *self.processes()})
        return sum(stat.own + stat.ended for stat in stats if stat)

    def wait_for_others_to_end(self, processes):
        """Waits until there are no processes besides these: backends outlive their clients."""
        deadline = time.monotonic() + 10
        while self.processes() - processes and time.monotonic() < deadline:
            time.sleep(0.005)


class Stat:
    """The fields of /proc/PID/stat that matter here, times in seconds."""

    def __init__(self, text):
        # The name of the program comes first, in parentheses, and may hold anything.
        fields = text.rpartition(")")[2].split()
        self.parent = int(fields[1])
        user, system, children_user, children_system = map(int, fields[11:15])
        self.own = (user + system) / TICKS
        self.ended = (children_user + children_system) / TICKS


def read_stat(pid):
    """None for a process that has gone."""
    try:
        return Stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None



def put_away(path, trash):
    """Empties the files of a folder and moves it aside, instead of removing it: ext4 makes new
    files slowly for some minutes after many have been removed, so that a case would pay for the
    tidiness of the last. All is removed at the end, by bench/run.sh."""
    if path.exists():
        for folder, _, names in os.walk(path):
            for name in names:
                file = os.path.join(folder, name)
                if not os.path.islink(file):
                    os.truncate(file, 0)
        move_aside(path, trash)


def move_aside(path, trash):
    """The same for files that take no space."""
    if path.exists():
        trash.mkdir(exist_ok=True)
        path.rename(trash / f"{len(list(trash.iterdir()))}")
