"""A server by multiprocessing.connection: multiprocessing_server.py KEY CONNECTIONS.

Prints its port, then for each of so many connections whether it authenticated. Answers each message
in upper case, one client at a time.
"""
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener


def say(text):
    print(text, file=sys.stderr, flush=True)


with Listener(("127.0.0.1", 0), backlog=64, authkey=sys.argv[1].encode()) as listener:
    say("port %d" % listener.address[1])
    for _ in range(int(sys.argv[2])):
        try:
            connection = listener.accept()
        except (AuthenticationError, EOFError, OSError):
            say("rejected")
            continue
        say("authenticated")
        try:
            while True:
                connection.send_bytes(connection.recv_bytes().upper())
        except (EOFError, OSError):
            connection.close()
