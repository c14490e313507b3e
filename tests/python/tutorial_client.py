"""Proves that it has the key, then sends line after line and prints the answers."""
import hmac
import sys
from socket import AF_INET, SOCK_STREAM, socket

SECRET = b"linhaifeng bang bang bang"


def authenticate(sock):
    challenge = sock.recv(32)
    digest = hmac.new(SECRET, challenge, "md5").digest()
    sock.sendall(digest)


def talk(address):
    with socket(AF_INET, SOCK_STREAM) as sock:
        sock.connect(address)
        authenticate(sock)
        while True:
            line = input(">>>").strip()
            if not line:
                continue
            if line == "quit":
                break
            sock.sendall(line.encode())
            answer = sock.recv(1024)
            print(answer.decode())


talk(("127.0.0.1", int(sys.argv[1])))
