"""A server the way a tutorial would write it: one client at a time, recv(16) for the digest.

usage: server.py HASH CLIENTS; says its port on stderr, then one line for each client
"""

import hmac
import os
import socket
import sys

KEY = b"linhaifeng bang bang bang"

hash_name, clients = sys.argv[1], int(sys.argv[2])
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
    server.bind(("127.0.0.1", 0))
    server.listen(5)
    print("port", server.getsockname()[1], file=sys.stderr)
    for _ in range(clients):
        conn, _ = server.accept()
        with conn:
            challenge = os.urandom(32)
            conn.sendall(challenge)
            digest = hmac.new(KEY, challenge, hash_name).digest()
            if not hmac.compare_digest(digest, conn.recv(len(digest))):
                print("rejected", file=sys.stderr)
                continue
            print("authenticated", file=sys.stderr)
            while True:
                data = conn.recv(1024)
                if not data:
                    break
                conn.sendall(data.upper())
