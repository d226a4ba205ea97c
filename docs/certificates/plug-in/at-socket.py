#!/usr/bin/env python3
"""at-socket.py SOCKET PROGRAM [ARGUMENT...] answers at a Unix socket with what a plug-in that is a program says: so it runs as a user of its own."""

import http.server
import os
import socketserver
import subprocess
import sys


class Plugin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        question = self.rfile.read(min(int(self.headers["content-length"]), 1 << 20))
        try:
            run = subprocess.run(sys.argv[2:], input=question, stdout=subprocess.PIPE, timeout=25, check=True)
            status, answer = 200, run.stdout
        except subprocess.SubprocessError as e:
            print(e, file=sys.stderr)
            status, answer = 503, b""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self):
        return "sallyport"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if os.path.exists(sys.argv[1]):
    os.remove(sys.argv[1])
with Server(sys.argv[1], Plugin) as server:
    os.chmod(sys.argv[1], 0o666)  # who may come near it is a matter of its directory
    server.serve_forever()
