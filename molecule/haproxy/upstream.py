"""What stands behind HAProxy in this scenario; the name says what: web1, lb1 (certbot), app, db1."""
import http.server
import importlib.machinery
import importlib.util
import json
import os
import socket
import socketserver
import ssl
import sys
import threading
import time

NAME = sys.argv[1]
LAB = "/etc/lab"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def address_string(self):
        return "-"

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            for _ in range(8):
                self.wfile.write(b".")
                self.wfile.flush()
                time.sleep(0.5)
        elif self.path.startswith("/.well-known/"):
            if NAME == "lb2":
                self.answer(200, "challenge")
            else:
                self.answer(404, "unknown")
        elif self.path.startswith("/app-down") and NAME == "web1":
            self.answer(502, "no app")
        else:
            self.answer(200, json.dumps({"name": NAME, "headers": {k.lower(): v for k, v in self.headers.items()}}))

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open(f"/run/lab/{NAME}.posts", "a", encoding="ascii") as posts:
            posts.write(".")
        self.answer(502 if self.path == "/app-down" else 200, NAME)


def database(last):
    """What MySQL says: /run/lab/db1.role is primary, replica, lagging, orphaned, stopped or none."""
    with open(f"/run/lab/{NAME}.role", encoding="ascii") as file:
        role = file.read().strip()
    replica, running = role in ("replica", "lagging", "orphaned", "stopped"), role in ("replica", "lagging")
    state = {"role": "replica" if replica else role, "read_only": role != "primary", "running": running, "orphaned": role == "orphaned",
             "lag": 60 if role == "lagging" else 0, "reason": ""}
    return last if state == last else state


def role_check(address):
    """The real one, over what it would ask MySQL."""
    loader = importlib.machinery.SourceFileLoader("mysql_role_check", "/usr/local/bin/mysql-role-check")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mysql_role_check", loader))
    loader.exec_module(module)
    module.Handler.mysql = module.Watch(database)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{LAB}/{NAME}.pem")
    module.serve([socket.create_server(address)], context)


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(NAME.encode() + b"\n")
        while data := self.request.recv(100):
            self.request.sendall(data)


class UnixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        if os.path.exists(self.server_address):
            os.unlink(self.server_address)
        socketserver.TCPServer.server_bind(self)
        os.chmod(self.server_address, 0o666)
        self.server_name, self.server_port = "app", 0


def tls(server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{LAB}/{NAME}.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations("/etc/webstack/pki/ca.crt")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


http.server.ThreadingHTTPServer.daemon_threads = True
socketserver.ThreadingTCPServer.allow_reuse_address = True
kind, number = NAME.rstrip("0123456789"), NAME[-1]
if kind == "web":
    tls(http.server.ThreadingHTTPServer((f"127.0.0.1{number}", 9443), Handler)).serve_forever()
elif kind == "lb":
    http.server.ThreadingHTTPServer((f"127.0.0.3{number}", 8888), Handler).serve_forever()
elif kind == "app":
    UnixServer("/run/app/app.sock", Handler).serve_forever()
elif kind == "db":
    threading.Thread(target=role_check, args=((f"127.0.0.2{number}", 8008),), daemon=True).start()
    socketserver.ThreadingTCPServer((f"127.0.0.2{number}", 3306), Echo).serve_forever()
