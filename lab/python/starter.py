"""An event loop for `saltecho lab`, to begin with: it solves the first exercise.

usage: saltecho lab run -- python3 lab/python/starter.py

Stdout is the wire: print to stderr. docs/LAB.md has the protocol.
"""

import json
import sys


class WouldBlock(Exception):
    """Not yet; an event will tell when."""


def read():
    line = json.loads(sys.stdin.readline())
    if "stop" in line:
        sys.exit()
    return line


def write(message):
    print(json.dumps(message), flush=True)


def call(name, **arguments):
    """Asks the kernel for something, and returns its answer."""
    call.id += 1
    write({"id": call.id, "call": name, **arguments})
    answer = read()
    if answer.get("error") == "WouldBlock":
        raise WouldBlock
    if "error" in answer:
        raise OSError(answer["error"])
    return answer["ok"]


call.id = 0
init = read()["init"]
write({"id": 0, "ok": {}})
listener, recv_max = init["listener"], init["recv_max"]
tokens = 100  # The next token; the listener has its own.
streams = {}  # The stream of each token.

while True:
    for event in call("poll", timeout_ms=None)["events"]:
        token = event["token"]
        try:
            if token == listener:
                stream = call("accept", listener=listener)["stream"]
                call("register", stream=stream, token=tokens)
                streams[tokens] = stream
                tokens += 1
            elif token in streams:
                data = call("recv", stream=streams[token], max=recv_max)["data"]
                if data:
                    call("send", stream=streams[token], data=data)
                else:
                    call("close", stream=streams.pop(token))
        except WouldBlock:
            pass
