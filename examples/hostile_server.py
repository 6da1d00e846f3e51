#!/usr/bin/env python3
"""A hostile server for the tests of the drivers.

It implements the part of PostgreSQL's protocol that psql and psycopg need, and answers the drivers'
queries. One of the answers or archives attacks files outside the backup.

usage: hostile_server.py SOCKET ATTACK OUTSIDE    OUTSIDE: the directory to attack
"""

import io
import socket
import struct
import sys
import tarfile
import threading
from pathlib import Path

SOCKET, ATTACK, OUTSIDE = sys.argv[1:]
OUTSIDE = Path(OUTSIDE)
# Text that a shell would execute if it evaluated an answer.
COMMAND = "$(touch executed)"


def file(name):
    return (name, tarfile.REGTYPE, "")


def link(name, target, kind=tarfile.SYMTYPE):
    return (name, kind, str(target))


# Members of an archive, by attack and requesting statement.
ARCHIVES = {
    ("absolute_name", "worker"): [file(f"{OUTSIDE}/written")],
    ("name_with_parent", "worker"): [file("../outside/written")],
    ("name_with_parent_inside", "worker"): [file("base/../../outside/written")],
    ("link_out", "worker"): [link("escape", OUTSIDE)],
    ("name_below_link", "worker"): [link("escape", OUTSIDE), file("escape/written")],
    ("name_below_relative_link", "worker"): [link("e", "../outside"), file("e/written")],
    ("name_below_link_of_before", "directories"): [link("escape", OUTSIDE)],
    ("name_below_link_of_before", "worker"): [file("escape/written")],
    ("name_below_link_at_the_end", "closing"): [link("escape", OUTSIDE), file("escape/written")],
    ("hard_link_out", "worker"): [
        link("escape", OUTSIDE / "secret", tarfile.LNKTYPE), file("escape"),
    ],
    ("hard_link_to_parent", "worker"): [
        link("escape", "../outside/secret", tarfile.LNKTYPE), file("escape"),
    ],
    ("tablespace_led_elsewhere", "worker"): [
        link("pg_tblspc/16400", OUTSIDE), file("pg_tblspc/16400/written"),
    ],
    ("tablespace_that_was_not_listed", "worker"): [
        link("pg_tblspc/16401", OUTSIDE), file("pg_tblspc/16401/written"),
    ],
}  # fmt: skip

# Answers, by a part of the query. Answers that an attack changes come first.
TABLESPACES = [("16400", "/no/such/place")] if ATTACK.startswith("tablespace_") else []
LIES = {
    "number_of_the_backup": ("start_backup", [("1); DROP", "1", "1", "0/1", "1")]),
    "no_backup": ("start_backup", []),
    "oid_of_a_tablespace": ("backup_tablespaces", [("../../outside/written", "/no/such/place")]),
    "place_of_a_tablespace": ("backup_tablespaces", [("16400", f"/no/such/{COMMAND}")]),
    "schema": ("pg_extension", [(f"s\\! touch {OUTSIDE}/executed; #",)]),
    "mode": ("data_directory_mode", [(f"700 + BASH_VERSINFO[{COMMAND}]",)]),
    "version": ("data_directory_mode", [(f"../..{OUTSIDE}", "0700")]),
}
ANSWERS = [
    LIES.get(ATTACK, ("no lie", [])),
    ("pg_extension", [("public",)]),
    ("server_version_num", [("15", "0700")]),
    ("data_directory_mode", [("0700",)]),
    ("start_backup", [("4711", "1", "1", "0/1", "1")]),
    ("backup_tablespaces", TABLESPACES),
]
NUMBER, TEXT = 20, 25


def archive(purpose):
    """Stream that a COPY requests."""
    members = ARCHIVES.get((ATTACK, purpose), [])
    if purpose == "closing":
        members = [*members, file("backup_label"), file("backup_manifest")]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo()
            member.name, member.type, member.linkname, member.mode = name, kind, target, 0o600
            content = b"written by the server\n" if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def message(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


def answer(query):
    """Messages that follow a query, up to its CommandComplete."""
    if "COPY" in query:
        purpose = "closing" if "send_stop_backup" in query else "worker"
        purpose = "directories" if "ARRAY" in query else purpose
        yield message(b"H", struct.pack("!bhh", 0, 1, 0))
        yield message(b"d", archive(purpose))
        yield message(b"c")
        yield message(b"C", b"COPY 0\0")
        return
    rows = next((rows for part, rows in ANSWERS if part in query), None)
    if rows is None:
        yield message(b"C", b"SET\0")
        return
    # psql queries version and mode together, psycopg knows the version.
    if ATTACK == "mode" and "server_version_num" in query:
        rows = [("15", *row) for row in rows]
    columns = rows[0] if rows else ("",)
    description = struct.pack("!H", len(columns))
    for column in columns:
        kind = NUMBER if column.isdigit() and not column.startswith("0") else TEXT
        description += b"column\0" + struct.pack("!IhIhih", 0, 0, kind, -1, -1, 0)
    yield message(b"T", description)
    for row in rows:
        data = b"".join(struct.pack("!I", len(text)) + text.encode() for text in row)
        yield message(b"D", struct.pack("!H", len(row)) + data)
    yield message(b"C", f"SELECT {len(rows)}\0".encode())


def serve(connection):
    """Runs a session, from its start-up packet on."""
    stream = connection.makefile("rwb")

    def send(*messages):
        stream.write(b"".join(messages))
        stream.flush()

    def read_packet():
        (length,) = struct.unpack("!I", stream.read(4))
        return stream.read(length - 4)

    settings = {
        "server_version": "15.0", "client_encoding": "UTF8", "server_encoding": "UTF8",
        "standard_conforming_strings": "on", "DateStyle": "ISO, MDY",
    }  # fmt: skip
    while struct.unpack("!I", read_packet()[:4]) != (196608,):
        # No TLS, no GSSAPI.
        stream.write(b"N")
        stream.flush()
    ready = message(b"Z", b"I")
    send(
        message(b"R", struct.pack("!I", 0)),
        *(message(b"S", f"{name}\0{value}\0".encode()) for name, value in settings.items()),
        message(b"K", struct.pack("!II", 1, 1)),
        ready,
    )
    query = ""
    while kind := stream.read(1):
        body = read_packet()
        if kind == b"Q":
            send(*answer(body.rstrip(b"\0").decode()), ready)
        elif kind == b"P":
            query = body.split(b"\0")[1].decode()
            send(message(b"1"))
        elif kind == b"B":
            send(message(b"2"))
        elif kind == b"E":
            send(*answer(query))
        elif kind == b"S":
            send(ready)
        elif kind == b"X":
            return


def main():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{SOCKET}.early")
        listener.listen()
        # The socket gets its final name when the server listens.
        Path(f"{SOCKET}.early").rename(SOCKET)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


main()
