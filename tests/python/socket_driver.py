"""Plays socket programs on CPython's own sockets: one JSON program a line in, one JSON list of
outcomes a line out.  The vocabulary is that of tests/data/scenarios.json, without background steps.
"""

import hashlib
import json
import socket
import struct
import sys
import time

FLAGS = {"PEEK": socket.MSG_PEEK, "DONTWAIT": socket.MSG_DONTWAIT,
         "WAITALL": socket.MSG_WAITALL, "MORE": socket.MSG_MORE,
         "NOSIGNAL": socket.MSG_NOSIGNAL}
HOW = {"rd": socket.SHUT_RD, "wr": socket.SHUT_WR, "rdwr": socket.SHUT_RDWR}
KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
LONG = 64


class Address(tuple):
    """A host and a port, told from other tuples."""


class Made:
    """The object just made under a name."""

    def __init__(self, what, name):
        self.what, self.name = what, name


class Player:
    def __init__(self):
        self.sockets, self.files, self.ports = {}, {}, {}

    def note_port(self, name):
        try:
            port = self.sockets[name].getsockname()[1]
        except (OSError, IndexError):
            return
        if port:
            self.ports.setdefault(name, port)

    def address(self, spec):
        host, port = spec
        if isinstance(port, str):
            port = self.ports[port.split(":", 1)[1]]
        return host, port

    @staticmethod
    def data(spec):
        if "hex" in spec:
            return bytes.fromhex(spec["hex"])
        if "pattern" in spec:
            return bytes((i + spec["pattern"]) % 251 for i in range(spec["len"]))
        return spec["text"]

    @staticmethod
    def flags(step):
        return sum(FLAGS[name] for name in step.get("flags", ()))

    @staticmethod
    def secs(value):
        return float(value) if isinstance(value, str) else value

    def play(self, step):
        what = step["do"]
        if what.startswith("f_"):
            return getattr(self, what)(self.files[step["on"]], step)
        if hasattr(self, "do_" + what):
            return getattr(self, "do_" + what)(step)
        return getattr(self.sockets[step["on"]], what)()

    def do_socket(self, step):
        self.sockets[step["as"]] = socket.socket(socket.AF_INET, KIND[step["kind"]])

    def do_socketpair(self, step):
        self.sockets[step["a"]], self.sockets[step["b"]] = socket.socketpair()

    def do_tcp_pair(self, step):
        listener, a = socket.socket(), socket.socket()
        if "sndbuf" in step:
            a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, step["sndbuf"])
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        a.connect(listener.getsockname())
        b, _ = listener.accept()
        listener.close()
        self.sockets[step["a"]], self.sockets[step["b"]] = a, b
        self.note_port(step["a"])
        self.note_port(step["b"])

    def do_bind(self, step):
        try:
            self.sockets[step["on"]].bind(self.address(step["addr"]))
        finally:
            self.note_port(step["on"])

    def do_listen(self, step):
        s = self.sockets[step["on"]]
        try:
            s.listen(step["backlog"]) if "backlog" in step else s.listen()
        finally:
            self.note_port(step["on"])

    def do_accept(self, step):
        s, peer = self.sockets[step["on"]].accept()
        self.sockets[step["as"]] = s
        self.note_port(step["as"])
        return [Made("socket", step["as"]), Address(peer)]

    def do_connect(self, step):
        try:
            self.sockets[step["on"]].connect(self.address(step["addr"]))
        finally:
            self.note_port(step["on"])

    def do_connect_ex(self, step):
        try:
            return self.sockets[step["on"]].connect_ex(self.address(step["addr"]))
        finally:
            self.note_port(step["on"])

    def do_recv(self, step):
        return self.sockets[step["on"]].recv(step["n"], self.flags(step))

    def do_recvfrom(self, step):
        data, peer = self.sockets[step["on"]].recvfrom(step["n"], self.flags(step))
        return [data, Address(peer) if isinstance(peer, tuple) else None]

    def do_send(self, step):
        return self.sockets[step["on"]].send(self.data(step["data"]), self.flags(step))

    def do_sendall(self, step):
        return self.sockets[step["on"]].sendall(self.data(step["data"]), self.flags(step))

    def do_send_loop(self, step):
        rest, calls = self.data(step["data"]), 0
        while rest:
            rest = rest[self.sockets[step["on"]].send(rest):]
            calls += 1
        return calls

    def do_sendto(self, step):
        s, data, to = self.sockets[step["on"]], self.data(step["data"]), self.address(step["addr"])
        try:
            return s.sendto(data, self.flags(step), to) if "flags" in step else s.sendto(data, to)
        finally:
            self.note_port(step["on"])

    def do_getpeername(self, step):
        return Address(self.sockets[step["on"]].getpeername())

    def do_getsockname(self, step):
        self.note_port(step["on"])  # A send may have given an unbound socket its port.
        return Address(self.sockets[step["on"]].getsockname())

    def do_getsockopt(self, step):
        length = (step["buflen"],) if "buflen" in step else ()
        return self.sockets[step["on"]].getsockopt(step["level"], step["opt"], *length)

    def do_setsockopt(self, step):
        value = step["value"]
        value = ([value["int"]] if "int" in value else
                 [bytes.fromhex(value["hex"])] if "hex" in value else [None, value["none"]])
        return self.sockets[step["on"]].setsockopt(step["level"], step["opt"], *value)

    def do_shutdown(self, step):
        return self.sockets[step["on"]].shutdown(HOW[step["how"]])

    def do_setblocking(self, step):
        return self.sockets[step["on"]].setblocking(step["flag"])

    def do_settimeout(self, step):
        return self.sockets[step["on"]].settimeout(self.secs(step["secs"]))

    def do_setdefaulttimeout(self, step):
        return socket.setdefaulttimeout(self.secs(step["secs"]))

    def do_getdefaulttimeout(self, _step):
        return socket.getdefaulttimeout()

    def do_rst_close(self, step):
        s = self.sockets[step["on"]]
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()

    def do_settle(self, step):
        s, until = self.sockets[step["on"]], time.monotonic() + 5
        while time.monotonic() < until:
            if "peek" in step:
                try:
                    seen = s.recv(step["peek"], socket.MSG_PEEK | socket.MSG_DONTWAIT)
                except OSError:
                    continue
                if len(seen) == step["peek"]:
                    return
            elif s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == step["state"]:
                return

    def do_makefile(self, step):
        options = {k: step[k] for k in ("encoding", "errors", "newline") if k in step}
        f = self.sockets[step["on"]].makefile(step["mode"], step.get("buffering"), **options)
        self.files[step["as"]] = f
        return Made("file", step["as"])

    @staticmethod
    def size(step):
        return () if step.get("n") is None else (step["n"],)

    def f_read(self, f, step):
        return f.read(*self.size(step))

    def f_read1(self, f, step):
        return f.read1(*self.size(step))

    def f_readinto(self, f, step):
        buffer = bytearray(step["n"])
        count = f.readinto(buffer)
        return None if count is None else bytes(buffer[:count])

    def f_peek(self, f, _step):
        return f.peek(1)

    def f_readline(self, f, step):
        return f.readline(*self.size(step))

    def f_readlines(self, f, _step):
        return f.readlines()

    def f_write(self, f, step):
        return f.write(self.data(step["data"]))

    def f_flush(self, f, _step):
        return f.flush()

    def f_close(self, f, _step):
        return f.close()

    def f_closed(self, f, _step):
        return f.closed

    def f_readable(self, f, _step):
        return f.readable()

    def f_writable(self, f, _step):
        return f.writable()

    def f_seekable(self, f, _step):
        return f.seekable()

    def f_mode(self, f, _step):
        return f.mode

    def finish(self):
        socket.setdefaulttimeout(None)
        for f in self.files.values():
            try:
                getattr(getattr(f, "buffer", f), "raw", f).close()
            except (OSError, ValueError, AttributeError):
                pass
        for s in self.sockets.values():
            s._io_refs = 0
            s._real_close()

    def describe(self, value):
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return {"secs": value}
        if isinstance(value, (bytes, bytearray)):
            if len(value) <= LONG:
                return {"hex": bytes(value).hex()}
            return {"len": len(value), "sha256": hashlib.sha256(value).hexdigest()}
        if isinstance(value, str):
            return {"text": value}
        if isinstance(value, Made):
            return {value.what: value.name}
        if isinstance(value, Address):
            host, port = value
            names = sorted(n for n, p in self.ports.items() if p == port)
            # A port that is not the first of its socket: the kernel picked another.
            named = "port:" + names[0] if names else "another port"
            return {"addr": [host, named if port else 0]}
        return {"list": [self.describe(item) for item in value]}


def describe_error(error):
    described = {"kind": type(error).__name__, "errno": getattr(error, "errno", None)}
    if described["errno"] is None:
        described["msg"] = str(error)
    if isinstance(error, BlockingIOError) and hasattr(error, "characters_written"):
        described["written"] = error.characters_written
    return described


def main():
    for line in sys.stdin:
        player, outcomes = Player(), []
        for step in json.loads(line):
            try:
                outcomes.append((True, player.play(step)))
            except (OSError, ValueError, OverflowError, TypeError) as error:
                outcomes.append((False, describe_error(error)))
        described = [{"ok": player.describe(o)} if fine else {"err": o} for fine, o in outcomes]
        player.finish()
        print(json.dumps(described), flush=True)


main()
