#!/usr/bin/python3
"""Stands in for an app: says what it was asked, and dies in the middle of a request when told to."""
import http.server
import json
import os
import socket
import socketserver
import ssl
import sys
import time

SOCKET = "/run/fake/app.sock"
PKI = "/etc/webstack/pki/"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "-"

    def log_message(self, *args):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with open("/run/fake/requests", "a") as log:
            log.write("%s %s\n" % (self.command, self.path))
        if self.path.startswith("/slow"):
            time.sleep(8)
        if self.path.startswith("/die"):
            self.close_connection = True
            return
        text = json.dumps({
            "app": socket.gethostname(), "method": self.command, "path": self.path, "body": len(body),
            "headers": {k.lower(): v for k, v in self.headers.items()}, "connection": str(self.client_address or id(self.connection)),
        }).encode()
        self.send_response(int(self.path.rsplit("/", 1)[1]) if self.path.startswith("/status/") else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Server", "fake")
        if self.path.startswith("/framed"):
            self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "fake", 0


class UnixServer(Server):
    address_family = socket.AF_UNIX


class TLSServer(Server):
    """Handshakes in the thread of the connection."""

    def finish_request(self, request, client_address):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(PKI + "host.crt", PKI + "host.key")
        context.load_verify_locations(PKI + "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self.RequestHandlerClass(context.wrap_socket(request, server_side=True), client_address, self)


if sys.argv[1] == "socket":
    if os.path.exists(SOCKET):
        os.unlink(SOCKET)
    UnixServer(SOCKET, Handler).serve_forever()
else:
    TLSServer(("", 8443), Handler).serve_forever()
