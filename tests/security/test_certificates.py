"""A certificate of another CA, like the true one in everything but the signature, is refused by whoever is shown it: servers by clients, clients by servers."""

import json
import subprocess
import threading
from dataclasses import dataclass

import lab
import pytest
from attacker import CREDENTIALS, docker, in_network_of

PKI = "/etc/webstack/pki"

# Standard input: a certificate. Standard output: the same one, signed by a CA of the same name.
FORGE = """
import sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
true, key, ca_key = x509.load_pem_x509_certificate(sys.stdin.buffer.read()), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
builder = x509.CertificateBuilder(true.issuer, true.subject, key.public_key(), true.serial_number, true.not_valid_before_utc, true.not_valid_after_utc)
for extension in true.extensions:
    if extension.oid not in (x509.OID_SUBJECT_KEY_IDENTIFIER, x509.OID_AUTHORITY_KEY_IDENTIFIER):
        builder = builder.add_extension(extension.value, extension.critical)
print(builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
      key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(), sep="")
"""

# MySQL begins in clear: the server greets, the client asks for TLS.
COMMON = """
import json, socket, ssl, sys
asked = json.load(sys.stdin)
with open("/tmp/pair.pem", "w") as file:
    file.write(asked["pair"])
GREETING = bytes.fromhex("0a392e372e300001000000616263646566676800ffffff0200ffdf15" + 20 * "0" + "696a6b6c6d6e6f707172737400") + b"caching_sha2_password\\0"
SSL_REQUEST = bytes.fromhex("20000001" "018a0800" "00000001" "ff") + bytes(23)
"""

# Stands where a server should be and says of each client whether it went on behind the handshake.
IMPOSTOR = COMMON + """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/pair.pem")
context.set_alpn_protocols(["h2", "http/1.1"] if asked["port"] == 443 else ["http/1.1"])
server = socket.create_server(("", 47113))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    client.settimeout(3)
    try:
        if asked["port"] == 3306:
            client.sendall(len(GREETING).to_bytes(3, "little") + bytes(1) + GREETING)
            client.recv(36, socket.MSG_WAITALL)
        with context.wrap_socket(client, server_side=True) as connection:
            print("accepted" if connection.recv(1) else "refused", flush=True)
    except (OSError, ValueError) as error:
        print("refused", error, flush=True)
    client.close()
"""

# Stands where a client should be and says whether the server went on behind the handshake.
INTRUDER = COMMON + """
context = ssl._create_unverified_context()
if asked["pair"]:
    context.load_cert_chain("/tmp/pair.pem")
client = socket.create_connection((asked["address"], asked["port"]), 5)
try:
    if asked["port"] == 3306:
        client.recv(4096)
        client.sendall(SSL_REQUEST)
    with context.wrap_socket(client, server_hostname=asked["name"]) as connection:
        if asked["port"] in (3306, 6514, 10000):
            connection.settimeout(2)
        else:
            connection.sendall(b"GET /nginx-health HTTP/1.0\\r\\nHost: www.foobar.com\\r\\n\\r\\n")
        answer = connection.recv(100)
        print("refused" if not answer or b" 400 " in answer or b" 403 " in answer else "accepted", answer)
except TimeoutError:
    # It waits for what the client has to say.
    print("accepted")
except OSError as error:
    print("refused", error)
"""


def pair_of(name):
    return lab.on(name).check_output(f"cat {PKI}/host.crt {PKI}/host.key")


def forged(name):
    return docker(*in_network_of("none", "python3", "-c", FORGE), input=lab.on(name).check_output(f"cat {PKI}/host.crt")).stdout


def primary():
    return next(name for name in lab.HOSTS["database"] if lab.sql(name, "SELECT @@read_only") == "0")


BALANCER, OTHER = lab.HOSTS["loadbalancers"]
WEB, APP, MONITOR = (lab.HOSTS[tier][0] for tier in ("web", "app", "monitoring"))
DATABASES = lab.HOSTS["database"]


@dataclass
class Link:
    client: str
    server: str
    port: int
    # What makes the client connect anew.
    anew: str = "true"
    visited: bool = False


LINKS = {
    "load balancer to web": lambda first, other: Link(BALANCER, WEB, 443),
    "load balancer to load balancer": lambda first, other: Link(BALANCER, OTHER, 10000, "systemctl reload haproxy"),
    "web to app": lambda first, other: Link(WEB, APP, 8443, "systemctl reload nginx", visited=True),
    "router to role check": lambda first, other: Link(APP, other, 8008),
    "app to MySQL": lambda first, other: Link(APP, first, 3306, "systemctl restart app", visited=True),
    "replica to primary": lambda first, other: Link(other, first, 3306, "mysql --execute 'STOP REPLICA IO_THREAD; START REPLICA IO_THREAD'"),
    "agent to metrics": lambda first, other: Link(WEB, MONITOR, 9090, "systemctl restart vmagent"),
    "agent to logs": lambda first, other: Link(WEB, MONITOR, 6514, "systemctl restart rsyslog; logger again"),
}


def outcomes(link, pair):
    """What the client does when the server is one that has this certificate and key."""
    client = lab.on(link.client)
    redirect = f"OUTPUT --protocol tcp --destination {lab.ADDRESS[link.server]} --dport {link.port} --jump REDIRECT --to-ports 47113"
    impostor = subprocess.Popen(
        ["docker", *in_network_of(link.client, "python3", "-u", "-c", IMPOSTOR)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen = []
    try:
        impostor.stdin.write(json.dumps({"pair": pair, "port": link.port}))
        impostor.stdin.close()
        assert impostor.stdout.readline() == "ready\n"
        threading.Thread(target=lambda: [seen.append(line.split()[0]) for line in impostor.stdout], daemon=True).start()
        client.check_output(f"iptables --table nat --append {redirect}")
        client.check_output(link.anew)

        def connected():
            if link.visited and not seen:
                lab.on("client").run("curl --silent --insecure --max-time 3 --output /dev/null https://www.foobar.com/readyz")
            return seen

        lab.wait_for(connected, seconds=40)
        return set(seen)
    finally:
        client.run(f"iptables --table nat --delete {redirect}")
        impostor.terminate()
        impostor.wait()


@pytest.mark.parametrize("name", LINKS)
def test_clients_refuse_the_server(name):
    first = primary()
    link = LINKS[name](first, next(name for name in DATABASES if name != first))
    assert outcomes(link, forged(link.server)) == {"refused"}
    assert "accepted" in outcomes(link, pair_of(link.server)), "it would refuse the true one, too"


def answer(link, pair):
    result = docker(*in_network_of(link.client, "python3", "-c", INTRUDER), input=json.dumps(
        {"pair": pair, "port": link.port, "address": lab.ADDRESS[link.server], "name": link.server}))
    return result.stdout.split()[0]


@pytest.mark.parametrize("client, server, port", [
    (BALANCER, WEB, 443), (BALANCER, OTHER, 10000), (WEB, APP, 8443), (WEB, MONITOR, 6514), (APP, DATABASES[0], 3306), (DATABASES[0], DATABASES[1], 3306)])
def test_servers_refuse_the_client(client, server, port):
    link = Link(client, server, port)
    assert answer(link, pair_of(client)) == "accepted"
    assert answer(link, forged(client)) == "refused"
    if port != 3306:
        assert answer(link, "") == "refused"
    if port in (443, 8443):
        assert answer(link, pair_of(DATABASES[0])) == "refused", "of the right CA, but of a host that has no business here"


def test_the_account_of_the_cluster_needs_a_certificate():
    password = (CREDENTIALS / "cluster_admin_password").read_text()
    login = f"[client]\nuser=cluster_admin\npassword={password}\nhost={lab.ADDRESS[DATABASES[1]]}\nssl-mode=REQUIRED\n"
    own = f"ssl-cert={PKI}/host.crt\nssl-key={PKI}/host.key\n"
    for more, works in ((own, True), ("", False)):
        result = docker("exec", "--interactive", DATABASES[0], "mysql", "--defaults-file=/dev/stdin", "--execute", "SELECT 1", input=login + more, check=False)
        assert (result.returncode == 0) is works, result.stderr


def test_all_is_well_again():
    """Also for the tests that come after."""
    assert lab.wait_for(lambda: all(lab.site("/readyz").status == 200 for _ in range(4)), seconds=30)
    for name in set(DATABASES) - {primary()}:
        assert lab.wait_for(lambda name=name: lab.sql(name, "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status") == "ON", seconds=60)
