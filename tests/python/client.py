"""A client the way a tutorial would write it: one recv for the challenge, one for each answer.

usage: client.py PORT HASH, lines on stdin, the answers' bytes on stdout
"""

import hmac
import socket
import sys

KEY = b"linhaifeng bang bang bang"

port, hash_name = int(sys.argv[1]), sys.argv[2]
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
    client.connect(("127.0.0.1", port))
    challenge = client.recv(32)
    client.sendall(hmac.new(KEY, challenge, hash_name).digest())
    for line in sys.stdin.buffer:
        client.sendall(line)
        sys.stdout.buffer.write(client.recv(1024))
    sys.stdout.buffer.flush()
