#!/usr/bin/env python3
"""A gateway for tests that closes connections on which nothing is said for some seconds.

usage: idle_proxy.py LISTENING_SOCKET SERVER_SOCKET SECONDS
"""

import select
import socket
import sys
import threading


def forward(client, server, seconds):
    """Forwards in both directions until one side ends, or both are silent."""
    peer = {client: server, server: client}
    with client, server:
        while True:
            ready, _, _ = select.select(list(peer), [], [], seconds)
            if not ready:
                return
            for side in ready:
                try:
                    data = side.recv(1 << 18)
                    peer[side].sendall(data)
                except OSError:
                    return
                if not data:
                    return


def main():
    path, target, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(target)
            threading.Thread(target=forward, args=(client, server, seconds), daemon=True).start()


main()
