"""An echo with back-pressure, which passes the exercises 1 to 5, 7 and 10 of `saltecho lab`.

usage: saltecho lab run drain -- python3 lab/python/echo.py
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
    call.id += 1
    write({"id": call.id, "call": name, **arguments})
    answer = read()
    if answer.get("error") == "WouldBlock":
        raise WouldBlock
    if "error" in answer:
        raise OSError(answer["error"])
    return answer["ok"]


def accept(connections):
    while True:
        stream = call("accept", listener=init["listener"])["stream"]
        call("register", stream=stream, token=accept.token)
        connections[accept.token] = {"stream": stream, "unsent": b"", "ended": False}
        accept.token += 1


def go_on(connections, token):
    connection = connections[token]
    stream = connection["stream"]
    try:
        while connection["unsent"] or not connection["ended"]:
            if connection["unsent"]:  # While an answer waits, nothing is received.
                sent = call("send", stream=stream, data=connection["unsent"].hex())["sent"]
                connection["unsent"] = connection["unsent"][sent:]
            else:
                connection["unsent"] = bytes.fromhex(call("recv", stream=stream, max=init["recv_max"])["data"])
                connection["ended"] = not connection["unsent"]
    except OSError:
        pass  # The client is gone.
    call("close", stream=connections.pop(token)["stream"])


call.id, accept.token = 0, 100
init = read()["init"]
write({"id": 0, "ok": {}})
connections = {}
while True:
    for event in call("poll", timeout_ms=None)["events"]:
        try:
            if event["token"] == init["listener"]:
                accept(connections)
            elif event["token"] in connections:  # Or it is about one that is gone.
                go_on(connections, event["token"])
        except WouldBlock:
            pass
