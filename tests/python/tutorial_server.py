"""The authenticated echo, as one blocking loop: one client after the other."""
import hmac
import os
import sys
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket

SECRET = b"linhaifeng bang bang bang"


def authenticate(conn):
    challenge = os.urandom(32)
    conn.sendall(challenge)
    digest = hmac.new(SECRET, challenge, "md5").digest()
    answer = conn.recv(len(digest))
    return hmac.compare_digest(answer, digest)


def handle(conn):
    if not authenticate(conn):
        print("refused")
        return
    print("accepted")
    while True:
        data = conn.recv(1024)
        if not data:
            break
        conn.sendall(data.upper())


def serve(address):
    with socket(AF_INET, SOCK_STREAM) as listener:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(5)
        host, port = listener.getsockname()
        print(f"listening on {host}:{port}")
        while True:
            conn, _ = listener.accept()
            with conn:
                handle(conn)


serve(("127.0.0.1", int(sys.argv[1])))
