"""A client by multiprocessing.connection: multiprocessing_client.py PORT KEY [ANSWER].

Sends messages of many lengths and checks each answer: in upper case, or with ANSWER "same" the same,
which also holds for pickled objects. Prints "welcome", "rejected" or what went wrong.
"""
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

port, key, same = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3:] == ["same"]
try:
    connection = Client(("127.0.0.1", port), authkey=key)
except AuthenticationError:
    print("rejected")
    sys.exit()
# 24929 is "\0\0aa": a header that must not be changed.
for length in [0, 1, 5, 1000, 16384, 16385, 24929, 1 << 20, 3000000]:
    message = (b"gr\xc3\xbc\xc3\x9fe, world " * (length // 14 + 1))[:length]
    connection.send_bytes(message)
    answer = connection.recv_bytes()
    assert answer == (message if same else message.upper()), (length, len(answer))
if same:
    thing = {"a": [1, 2.5, None], "b": "x" * 70000}
    connection.send(thing)
    assert connection.recv() == thing
connection.close()
print("welcome")
