"""Backups to an S3 server on this machine, restore and verify from it, and the same with a directory."""

import os
import subprocess
from pathlib import Path

from clients import Failed, run
from cluster import put_away
from directories import check_size
from rounds import Case, take_turns
from streams import workers

JOBS = 2
DIRECTORY, STORE = "a directory", "a local S3 server"
INTO_DIRECTORY = f"{workers(JOBS)}, tar into {DIRECTORY}"
INTO_STORE = f"{workers(JOBS)}, tar into {STORE}"
ON_DISK = ", until it is on the disk"
ONTO_DISK = f"{INTO_DIRECTORY}{ON_DISK}"
INTO_DURABLE_STORE = f"{INTO_STORE}{ON_DISK}"
SIGNED = f"{INTO_STORE}, payload signed"
RCLONE = "rclone copy of the archives to the same server"
BUCKET, PREFIX, NAME = "bucket", "bench", "run"
ACCESS_KEY, SECRET_KEY, REGION = "bench", "bench-secret", "us-east-1"


def restored(place, to=""):
    """Name of a case."""
    return f"restore -j {JOBS} from {place}{to}"


def verified(place):
    """Name of a case."""
    return f"verify -j {JOBS} from {place}"


def measure_repository(cluster, settings, notes):
    """Everything is below the target, so that both sides use the same file system."""
    if not settings["s3_server"]:
        raise Failed(f"the S3 server: {settings['s3_server_note']}")
    target = Path(settings["target"])
    target.mkdir()
    try:
        program = settings["s3_server"]
        with (
            S3Server(program, target / "store", cluster) as store,
            S3Server(program, target / "durable", cluster, "sync") as durable,
        ):
            return measure_with(store, durable, cluster, settings, notes)
    finally:
        put_away(target, Path(settings["trash"]))


def measure_with(store, durable, cluster, settings, notes):
    """Backups first, then what reads them."""
    target, trash = Path(settings["target"]), Path(settings["trash"])
    archives, copy = target / "archives", target / "copy"
    program = cluster.bin / "pg_parallel_backup"
    stored = f"s3://{BUCKET}/{PREFIX}/{NAME}"

    def backup(*place, server=store):
        run([program, "-d", cluster.conninfo, "-X", "none", "-c", "fast", "-Ft",
             "-j", str(JOBS), "-D", *place], env=server.environment)  # fmt: skip

    def into_store(signs=False, server=store):
        backup(f"s3://{BUCKET}/{PREFIX}", "--name", NAME,
               "--store-option", f"unsigned_payload={str(not signs).lower()}",
               server=server)  # fmt: skip

    def rclone():
        run([settings["rclone"], "copy", archives, f":s3:{BUCKET}/{PREFIX}/{NAME}"],
            env=store.environment)  # fmt: skip

    def restore(place, *options):
        run([program, "restore", *options, "-j", str(JOBS), "-D", copy, place],
            env=store.environment)  # fmt: skip

    def verify(place):
        # There is no WAL in the backup that it could parse.
        run([program, "verify", "-n", "-j", str(JOBS), place], env=store.environment)

    def prepare(folder=None):
        if folder:
            read_into_cache(folder)
        # Dirty pages of the last case must not slow the next one down.
        os.sync()

    def check(folder):
        return lambda _run: check_size(folder, settings["bytes"])

    def clean():
        put_away(copy, trash)

    def empty_store():
        store.empty(trash)

    backup(archives)
    cases = [
        Case(INTO_DIRECTORY, lambda: backup(copy, "-N"), prepare, check(copy), clean),
        Case(INTO_STORE, into_store, prepare, check(store.folder), empty_store),
        Case(ONTO_DISK, lambda: backup(copy), prepare, check(copy), clean),
        Case(INTO_DURABLE_STORE, lambda: into_store(server=durable), prepare,
             check(durable.folder), lambda: durable.empty(trash)),
        Case(SIGNED, lambda: into_store(signs=True), prepare, check(store.folder), empty_store),
    ]  # fmt: skip
    if settings["rclone"]:
        cases.append(
            Case(RCLONE, rclone, lambda: prepare(archives), check(store.folder), empty_store)
        )
    else:
        notes.append(f"{RCLONE}: not measured. {settings['rclone_note']}")
    measured = take_turns(cluster, cases, settings["repeats"], notes)
    into_store()
    places = ((DIRECTORY, archives, archives), (STORE, stored, store.folder))
    cases = [
        *(Case(restored(name, to), lambda place=place, to=to: restore(place, *([] if to else ["-N"])),
               lambda folder=folder: prepare(folder), check(copy), clean)
          for to in ("", ON_DISK) for name, place, folder in places),
        *(Case(verified(name), lambda place=place: verify(place),
               lambda folder=folder: prepare(folder))
          for name, place, folder in places),
    ]  # fmt: skip
    measured += take_turns(cluster, cases, settings["repeats"], notes)
    notes.append(
        "Repository: the S3 server runs on this machine. CPU time includes that of the S3 server;"
        " the memory of a client does not include it. Restore and verify do not use PostgreSQL."
    )
    notes.append(
        "Repository: the S3 server is that of the tests. It writes each part to its place in the object"
        " and hashes nothing but a signed payload. It waits for the disk where the case says so: then its"
        " answer to the last request of an upload means that the object is on the disk, and the program"
        " synchronizes the directory that it is compared with, as it does by default. With https, the program"
        f" does not sign payloads. Here it is told so, except for \"{SIGNED}\": then it and the server"
        " each compute the SHA-256 of all bytes, on the same processors."
    )
    if settings["rclone"]:
        notes.append(
            f"\"{RCLONE}\" reads archives in the page cache and takes no backup: its time is that of"
            " the S3 server, mostly. Its settings are the default ones: four transfers at once,"
            " each of several parts at once, and the MD5 of each file before its upload."
        )
    return measured


def read_into_cache(folder):
    """Reads all files of a folder, so that no case waits for the disk to read its input."""
    block = bytearray(1 << 20)
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb", buffering=0) as file:
                while file.readinto(block):
                    pass


class S3Server:
    """The S3 server of the tests. It ends with its standard input, so also with this program.

    It is no Client: a failed run ends all clients."""

    def __init__(self, program, folder, cluster, *options):
        self.program = program
        self.options = options
        self.folder = folder
        self.cluster = cluster
        self.process = None
        self.environment = None

    def __enter__(self):
        self.make_bucket()
        self.process = subprocess.Popen(
            [self.program, self.folder, ACCESS_KEY, SECRET_KEY, *self.options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        port = self.process.stdout.readline().strip()
        if not port:
            self.end()
            raise Failed(f"the S3 server ended with status {self.process.returncode}")
        self.environment = client_environment(f"http://127.0.0.1:{port}")
        self.cluster.other_servers.add(self.process.pid)
        return self

    def __exit__(self, *_):
        self.cluster.other_servers.discard(self.process.pid)
        self.end()

    def end(self):
        """Ends it, and does not wait long for requests that it still answers."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def make_bucket(self):
        """A bucket is a folder."""
        (self.folder / BUCKET).mkdir(parents=True)

    def empty(self, trash):
        """Removes all objects; it opens its files by path, so it need not be started again."""
        put_away(self.folder, trash)
        self.make_bucket()


def client_environment(endpoint):
    """Variables for pg_parallel_backup and for rclone, without those that somebody has set for another
    store."""
    inherited = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("AWS_", "RCLONE_"))
    }  # fmt: skip
    return {
        **inherited,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_ALLOW_HTTP": "true",
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": endpoint,
        "RCLONE_S3_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_S3_SECRET_ACCESS_KEY": SECRET_KEY,
        "RCLONE_S3_REGION": REGION,
        "RCLONE_S3_NO_CHECK_BUCKET": "true",
    }
