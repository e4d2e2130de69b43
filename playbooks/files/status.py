# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this host says of itself: status.py '{"name": …, "visit": [address…], "tls": …, "health": …, "certificate": …}'.

Runs on the host, changes nothing, prints a JSON object. Judging is left to the controller.
"""

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time

PATIENCE = 5
UNITS = "haproxy keepalived nginx app mysql prometheus prometheus-alertmanager vmagent"


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, or to an address under the site's name. What the certificate is worth is judged later."""

    def __init__(self, target, name="localhost", tls=False):
        super().__init__(target, 443 if tls else 80, timeout=PATIENCE)
        self.target, self.name, self.tls, self.certificate = target, name, tls, ""

    def connect(self):
        if self.target.startswith("/"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(self.target)
            return
        super().connect()
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock, server_hostname=self.name)
            self.certificate = ssl.DER_cert_to_PEM_cert(self.sock.getpeercert(True))

    def get(self, path):
        start = time.monotonic()
        found = {"status": 0, "error": "", "version": ""}
        try:
            self.request("GET", path, headers={"Host": self.name})
            answer = self.getresponse()
            body = answer.read(65536)
        except (OSError, http.client.HTTPException) as problem:
            found["error"] = str(problem) or type(problem).__name__
        else:
            found["status"], found["version"] = answer.status, answer.headers.get("X-App-Version") or version(body)
        finally:
            self.close()
        return dict(found, milliseconds=round((time.monotonic() - start) * 1000))


def version(body):
    try:
        return str(json.loads(body)["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def run(*command, given=None):
    """Standard output; empty where there is no such program."""
    try:
        done = subprocess.run(command, input=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=False)
        return done.stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def certificate(pem, name):
    """{ends, own, named}: when it ends in seconds since 1970, whether it signed itself, whether it is for this name."""
    shown = run("openssl", "x509", "-noout", "-enddate", "-subject", "-issuer", "-checkhost", name, given=pem.encode())
    found = dict(re.findall(r"^(notAfter|subject|issuer)= *(.*)$", shown, re.M))
    if "notAfter" not in found:
        return {}
    return {"ends": ssl.cert_time_to_seconds(found["notAfter"]), "own": found["subject"] == found["issuer"], "named": "does match" in shown}


def visit(address, name, tls):
    connection = Connection(address, name, tls)
    return dict(connection.get("/"), address=address, certificate=certificate(connection.certificate, name) if connection.certificate else {})


def haproxy():
    """`show stat` of HAProxy, its frontends, backends and servers; empty where it does not run."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect("/run/haproxy/admin.sock")
            connection.sendall(b"show stat\n")
            for part in iter(lambda: connection.recv(65536), b""):
                answer += part
    except OSError:
        return ""
    return answer.decode(errors="replace")


def alerts():
    """Those that fire and that nobody silenced; nothing where Alertmanager does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", 9093, timeout=PATIENCE)
    try:
        connection.request("GET", "/api/v2/alerts?silenced=false&inhibited=false")
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def read(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""


def units():
    """{haproxy: active, …} of those that are there, and the names of all that failed."""
    shown = run("systemctl", "show", "--property=Id,LoadState,ActiveState", *[name + ".service" for name in UNITS.split()])
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n")]
    failed = run("systemctl", "list-units", "--state=failed", "--plain", "--no-legend").split("\n")
    return (
        {block["Id"].rpartition(".")[0]: block["ActiveState"] for block in blocks if block.get("LoadState") not in (None, "not-found")},
        [line.split()[0] for line in failed if line.strip()],
    )


def main(asked):
    running, failed = units()
    host_certificate = read(asked["certificate"])
    json.dump({
        "uptime": float(read("/proc/uptime").split()[0]),
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
        "addresses": re.findall(r"^\d+: \S+\s+inet6? ([0-9a-f.:]+)/", run("ip", "-oneline", "address"), re.M),
        "units": running,
        "failed": failed,
        "haproxy": haproxy() if "haproxy" in running else "",
        "release": os.path.basename(os.path.realpath("/srv/app/current")) if os.path.exists("/srv/app/current/.release") else "",
        "app": Connection("/run/app/app.sock", asked["name"]).get(asked["health"]) if "app" in running else {},
        "visits": [visit(address, asked["name"], asked["tls"]) for address in asked["visit"]],
        "certificate": certificate(host_certificate, asked["name"]) if host_certificate else {},
        "alerts": alerts() if "prometheus-alertmanager" in running else None,
    }, sys.stdout)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
