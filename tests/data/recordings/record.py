"""Makes the recordings of this directory again: python3 record.py target/release/saltecho

The loop may change in ways that make other calls; then these recordings have to be made anew, after a look
at what `saltecho replay FILE --anyway` says of the old ones.
"""
import hmac
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import AuthenticationError, Client

KEY = b"linhaifeng bang bang bang"
HERE = os.path.dirname(os.path.abspath(__file__))


class Server:
    """A recorded server."""

    def __init__(self, name, *args):
        path = os.path.join(HERE, name)
        if os.path.exists(path):
            os.remove(path)
        self.ports = tempfile.mktemp()
        flags = ["serve", "-q", "--port-file", self.ports, "--record", path, *args]
        self.process = subprocess.Popen([sys.argv[1], *flags])
        while not os.path.exists(self.ports):
            time.sleep(0.01)
        with open(self.ports) as ports:
            self.address = ("127.0.0.1", int(ports.read()))
        os.remove(self.ports)

    def connect(self, header=b""):
        sock = socket.create_connection(self.address)
        sock.sendall(header)
        return sock

    def log_in(self, key=KEY, pieces=1, header=b""):
        sock = self.connect(header)
        challenge = b""
        while len(challenge) < 32:
            challenge += sock.recv(32 - len(challenge))
        digest = hmac.new(key, challenge, "md5").digest()
        cut = len(digest) // pieces
        while digest:
            sock.sendall(digest[:cut])
            digest = digest[cut:]
            time.sleep(0.05)
        return sock

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def ask(sock, message):
    sock.sendall(message)
    left = len(message)
    while left:
        left -= len(sock.recv(left))


def tutorial():
    server = Server("tutorial.rec", "-l", "127.0.0.1:0", "--auth-timeout", "1s", "--idle-timeout", "2s")
    first = server.log_in()
    ask(first, b"hello")
    pieces = server.log_in(pieces=3)
    ask(pieces, b"in pieces")
    pieces.close()
    for pieces in (1, 3):
        wrong = server.log_in(b"another key", pieces)
        assert wrong.recv(1) == b""
        wrong.close()
    silent = server.connect()
    assert len(silent.recv(64)) == 32 and silent.recv(1) == b"", "the time to authenticate is over"
    silent.close()
    ask(first, 100_000 * b"x")
    first.shutdown(socket.SHUT_WR)
    assert first.recv(1) == b""
    first.close()
    idle = server.log_in()
    ask(idle, b"bye")
    assert idle.recv(1) == b"", "it was idle for too long"
    idle.close()
    deaf = server.log_in()
    deaf.sendall(3_000_000 * b"y")
    end = threading.Thread(target=server.end)
    end.start()
    while deaf.recv(1 << 20):
        pass
    deaf.close()
    end.join()


def multiprocessing():
    flags = ["-l", "127.0.0.1:0", "--protocol", "multiprocessing", "--max-message", "1k"]
    server = Server("multiprocessing.rec", *flags)
    client = Client(server.address, authkey=KEY)
    for message in (b"hello", b""):
        client.send_bytes(message)
        assert client.recv_bytes() == message.upper()
    try:
        Client(server.address, authkey=b"another key")
        raise AssertionError("the key is wrong")
    except AuthenticationError:
        pass
    client.send_bytes(2000 * b"z")
    try:
        client.recv_bytes()
        raise AssertionError("the message is too long")
    except EOFError:
        pass
    client.close()
    server.end()


def proxied():
    server = Server("proxied.rec", "--listen-proxy", "127.0.0.1:0", "--proxy-trust", "127.0.0.1")
    line = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"
    binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1, 1, 2, 3, 4])
    whole = server.log_in(header=line)
    ask(whole, b"one")
    whole.close()
    cut = server.connect(line[:20])
    time.sleep(0.05)
    cut.sendall(line[20:])
    challenge = cut.recv(32)
    cut.sendall(hmac.new(KEY, challenge, "md5").digest())
    ask(cut, b"two")
    cut.close()
    for header in (b"GET / HTTP/1.1\r\n\r\n", b"PROXY UNKNOWN\r\n", line[:9]):
        other = server.connect(header)
        time.sleep(0.05)
        other.close()
    wrong = server.log_in(b"another key", header=binary)
    assert wrong.recv(1) == b""
    wrong.close()
    server.end()


tutorial()
multiprocessing()
proxied()
