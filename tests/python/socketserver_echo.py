"""An echo server by socketserver, as its documentation has it; says its port on stderr."""
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


with Server(("127.0.0.1", 0), Echo) as server:
    print("port", server.server_address[1], file=sys.stderr, flush=True)
    server.serve_forever()
