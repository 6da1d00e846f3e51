"""Programs that a benchmark starts, with their errors and their end."""

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path


class Failed(Exception):
    """Failure of a program or a statement; the text is its error output."""


class Client:
    """A child process. Its standard input is empty unless set otherwise."""

    running = []
    peak_kb = 0  # the highest resident size of all clients that have ended

    def __init__(self, command, **options):
        self.name = Path(str(command[0])).name
        self.said = tempfile.TemporaryFile(mode="w+")
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
        self.process = subprocess.Popen(command, stderr=self.said, **options)
        Client.running.append(self)

    def finish(self):
        """Waits for its end. Returns the number of bytes that it wrote, or None if unknown."""
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
        """Whether it is still running. Does not reap it; finish() does."""
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.process.pid, flags) is None

    def give_up(self):
        """Ends it. Returns the number of bytes that it wrote until then."""
        # Not by Popen, which would reap it where it has just ended.
        os.kill(self.process.pid, signal.SIGTERM)
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        written = bytes_written(self.process.pid)
        self.process.wait()
        Client.running.remove(self)
        return written or 0

    def last_words(self):
        """Its standard error, in one line."""
        self.said.seek(0)
        return " ".join(self.said.read().split())[:500] or "it said nothing"

    @classmethod
    def end_all(cls):
        """Ends all running clients, first with SIGTERM, because the driver removes its files."""
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
    """Bytes that a process, running or just ended, has passed to write()."""
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
        """Sends a statement without waiting."""
        try:
            print(statement, f"\\echo {self.MARK}", sep="\n", file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self.ended() from None

    def answer(self):
        """Rows of the statement that was sent."""
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
        """Runs COPY of a query to /dev/null, through the client."""
        self.ask(f"\\o /dev/null\nCOPY ({query}) TO STDOUT;\n\\o")

    def ended(self):
        """Error of a session that has ended: psql exits at the first error."""
        self.process.wait()
        Client.running.remove(self)
        return Failed(self.last_words())

    def close(self):
        """Ends the session, unless it has ended already."""
        if self in Client.running:
            self.process.stdin.close()
            self.finish()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        # After an error, do not wait for a running statement.
        if error:
            self.process.kill()
        else:
            self.close()
