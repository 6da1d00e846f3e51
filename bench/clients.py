"""The programs that a benchmark starts: what they say when they fail, and their end."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path


class Failed(Exception):
    """A program or a statement did not do what was asked; the text says what it said."""


class Client:
    """A program that runs beside us, with nothing on its standard input unless told."""

    running = []
    peak_kb = 0  # the highest resident size of one that has ended

    def __init__(self, command, **options):
        self.name = Path(str(command[0])).name
        self.said = tempfile.TemporaryFile(mode="w+")
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
        self.process = subprocess.Popen(command, stderr=self.said, **options)
        Client.running.append(self)

    def finish(self):
        """Waits for its end, and returns how many bytes it wrote, where the system tells."""
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        written = bytes_written(self.process.pid)
        _, status, usage = os.wait4(self.process.pid, 0)
        status = self.process.returncode = os.waitstatus_to_exitcode(status)
        Client.peak_kb = max(Client.peak_kb, usage.ru_maxrss)
        Client.running.remove(self)
        if status != 0:
            raise Failed(f"{self.name} ended with status {status}: {self.last_words()}")
        return written

    def runs(self):
        """Whether it has not ended yet. Leaves the rest to finish()."""
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.process.pid, flags) is None

    def give_up(self):
        """Ends it, and returns how many bytes it wrote until then."""
        self.process.terminate()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        written = bytes_written(self.process.pid)
        self.process.wait()
        Client.running.remove(self)
        return written or 0

    def last_words(self):
        """What it wrote to its standard error, in one line."""
        self.said.seek(0)
        return " ".join(self.said.read().split())[:500] or "it said nothing"

    @classmethod
    def end_all(cls):
        """Ends what still runs: gently first, because the driver removes what it wrote."""
        for client in cls.running:
            client.process.terminate()
        deadline = time.monotonic() + 20
        for client in cls.running:
            try:
                client.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                client.process.kill()
                client.process.wait()
        cls.running.clear()


def run(command, **options):
    """Runs a program to its end; see Client.finish()."""
    return Client(command, **options).finish()


def bytes_written(pid):
    """What a process, also one that has just ended, handed to write() in its life."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None
    return int(re.search(r"^wchar: (\d+)$", text, re.MULTILINE)[1])


class Session(Client):
    """A psql that keeps its session: statements go in, rows come out."""

    MARK = "-- end of answer --"

    def __init__(self, cluster, dbname="postgres"):
        super().__init__(
            cluster.psql(dbname), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def send(self, statement):
        """Hands over a statement without waiting."""
        try:
            print(statement, f"\\echo {self.MARK}", sep="\n", file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self.ended() from None

    def answer(self):
        """The rows of the statement that was sent."""
        rows = []
        for line in self.process.stdout:
            if line.rstrip("\n") == self.MARK:
                return rows
            rows.append(line.rstrip("\n"))
        raise self.ended()

    def ask(self, statement):
        """Sends a statement and waits for its rows."""
        self.send(statement)
        return self.answer()

    def copy(self, query):
        """COPY of a query to /dev/null, through the client."""
        self.ask(f"\\o /dev/null\nCOPY ({query}) TO STDOUT;\n\\o")

    def ended(self):
        """psql ends at the first error."""
        self.process.wait()
        Client.running.remove(self)
        return Failed(self.last_words())

    def close(self):
        """Ends the session, unless it is over already."""
        if self in Client.running:
            self.process.stdin.close()
            self.finish()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        # What ends us must not wait for a statement to end.
        if error:
            self.process.kill()
        else:
            self.close()
