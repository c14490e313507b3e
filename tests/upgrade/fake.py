#!/usr/bin/env python3
"""A program that is to take over, and does something else.

What it does is in the file `behavior` beside it. It knows the messages of an upgrade and no records.

As `fake.py --as-old OFFER RECORDS PROGRAM [ARGUMENT...]` it is the old process: it starts a program that
is to take over, offers it this, and prints the kind and the text of each answer. RECORDS is the kind of
the only chunk that it sends after that, or 0 for none.
"""

import array
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys
import time

HEADER = struct.Struct("<4sHHBBHIIIHHI")
HELLO, OFFER, PREPARED, PROGRAM, END, ACK, COMMIT, TAKEN, ERROR = range(128, 137)

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def checksum(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


class Channel:
    def __init__(self, end):
        self.socket = end
        self.sent = 0
        self.totals = b""
        self.payload = b""
        self.watch = None

    def send(self, kind, text="", payload=None, count=0, record_size=0):
        payload = text.encode() if payload is None else payload
        fields = [b"sEho", 1, 32, kind, 0, record_size, self.sent, count, len(payload), 0, 0]
        value = checksum(HEADER.pack(*fields, 0) + payload)
        self.socket.send(HEADER.pack(*fields, value) + payload)
        self.sent += 1

    def receive(self):
        """The kind of the next message; its sockets are closed, unless they are watched."""
        data, beside, _, _ = self.socket.recvmsg(1 << 17, socket.CMSG_SPACE(4 * 253))
        if not data:
            sys.exit(7)
        self.payload = data[32:]
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                for descriptor in array.array("i", content[: len(content) // 4 * 4]):
                    if self.watch:
                        self.watch.register(descriptor, select.EPOLLIN | select.EPOLLET)
                    os.close(descriptor)
        kind = HEADER.unpack(data[:32])[3]
        if kind == END:
            self.totals = data[32:]
        return kind

    def wait_for(self, wanted):
        while self.receive() != wanted:
            pass


def hang():
    while True:
        time.sleep(3600)


def be_old(offer, records, command):
    """Starts a program that is to take over, and prints what it answers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "SALTECHO_HANDOVER": str(os.getpid())}
    new = subprocess.Popen(command, stdin=theirs, env=environment)
    theirs.close()
    channel = Channel(ours)
    channel.wait_for(HELLO)
    channel.send(OFFER, offer)
    kind = channel.receive()
    print(kind, channel.payload.decode(), flush=True)
    if kind == PREPARED and records:
        channel.send(records, payload=bytes(64), count=1, record_size=64)
        print(channel.receive(), channel.payload.decode(), flush=True)
    ours.close()
    sys.exit(new.wait())


def main():
    if sys.argv[1] == "--as-old":
        return be_old(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    behavior = (pathlib.Path(__file__).parent / "behavior").read_text().split()
    channel = Channel(socket.socket(fileno=0))
    for step in behavior:
        match step:
            case "hello":
                channel.send(HELLO, f"formats=1\ncapabilities=0\nversion=fake\nnofile=1000000\n")
            case "hello-of-another-format":
                channel.send(HELLO, "formats=7 8\nversion=9.9.9\n")
            case "prepared":
                channel.wait_for(OFFER)
                channel.send(PREPARED)
            case "prepared-early":
                channel.send(PREPARED)
            case "first-record":
                while channel.receive() >= 128:
                    pass
            case "watch":
                channel.watch = select.epoll()
            case "end":
                channel.wait_for(END)
            case "ack":
                channel.send(ACK, payload=channel.totals)
            case "commit":
                channel.wait_for(COMMIT)
            case "taken":
                channel.send(TAKEN)
            case "error":
                channel.send(ERROR, "text=I would rather not\n")
            case "garbage":
                channel.socket.send(b"\xff" * 4000)
            case "flood":
                while True:
                    channel.send(HELLO, "formats=1\n" * 1000)
            case "close":
                channel.socket.close()
                hang()
            case "hang":
                hang()
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "abort":
                os.abort()
            case "allocate":
                memory = []
                while True:
                    memory.append(bytearray(os.urandom(1 << 20)))
            case code:
                # At once: what is left of an interpreter closes the channel long before the process ends.
                os._exit(int(code))


main()
