"""What visitors, load balancers and operators see of nginx. Each host is the other's load balancer: the address that it trusts."""
import base64
import gzip
import json
import os
import re
import subprocess
import time

import pytest
import testinfra

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOSTS = {name: testinfra.get_host("docker://" + name) for name in ("nginx-trixie", "nginx-bookworm")}
PEER = {"nginx-trixie": "nginx-bookworm", "nginx-bookworm": "nginx-trixie"}
ADDRESS = {name: host.check_output("hostname -I").split()[0] for name, host in HOSTS.items()}
PLAIN = {"tls": False, "host": "plain.example.com"}


class Answer:
    def __init__(self, raw):
        self.status, self.headers, self.error = raw["status"], raw.get("headers", {}), raw.get("error")
        self.body, self.repeated = base64.b64decode(raw.get("body", "")), raw.get("repeated")

    @property
    def app(self):
        """What the app says of the request."""
        return json.loads(self.body)


def ask(web, *requests, client=None):
    """Sends requests to nginx on a host, from its peer unless said otherwise."""
    stdin = base64.b64encode(json.dumps([dict(request, to=ADDRESS[web]) for request in requests]).encode()).decode()
    return [Answer(raw) for raw in json.loads(HOSTS[client or PEER[web]].check_output("echo %s | base64 -d | client", stdin))]


def ask_one(web, client=None, **request):
    return ask(web, request, client=client)[0]


def apps(verb, unit="tls", names=HOSTS):
    for name in names:
        HOSTS[name].check_output("systemctl %s fake@%s", verb, unit)
    time.sleep(0.5)


def forget_failures():
    """nginx lets an app server rest after failures; a reload starts afresh."""
    for host in HOSTS.values():
        host.check_output("systemctl reload nginx")
    time.sleep(1)


def app_requests():
    return [line for host in HOSTS.values() for line in host.check_output("cat /run/fake/requests").splitlines()]


def s_client(web, client, options):
    return HOSTS[client].run(
        "openssl s_client -connect %s:443 -CAfile /etc/webstack/pki/ca.crt -cert /etc/webstack/pki/lb1.crt -key /etc/webstack/pki/lb1.key %s </dev/null 2>&1"
        " | LC_ALL=C tr -cd '[:print:]\\n'" % (ADDRESS[web], options)).stdout


def play(book, **variables):
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    env = dict(os.environ, ANSIBLE_NOCOLOR="1", ANSIBLE_FORCE_COLOR="0", ANSIBLE_PYTHON_INTERPRETER="/usr/bin/python3", ANSIBLE_CALLBACK_RESULT_FORMAT="yaml",
               ANSIBLE_COLLECTIONS_PATH=os.path.join(os.path.dirname(os.path.dirname(HERE)), ".collections"))
    return subprocess.run(["ansible-playbook", "-i", inventory, "-e", json.dumps(variables), os.path.join(HERE, book)],
                          env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.fixture(params=HOSTS)
def web(request):
    return request.param


# --- what nginx answers by itself

def test_health_is_answered_for_any_host_name(web):
    for answer in ask(web, {"path": "/nginx-health"}, {"path": "/nginx-health", "host": "198.51.100.1"}, {"path": "/nginx-health", "sni": web}):
        assert (answer.status, answer.body) == (200, b"ok\n")
    assert ask_one("nginx-bookworm", path="/nginx-health", **PLAIN).status == 200


def test_other_host_names_are_refused(web):
    answer = ask_one(web, host="evil.example.com")
    assert answer.status == 421
    assert answer.headers["server"] == "nginx"


def test_static_files_and_their_caching(web):
    short, hashed, missing, hidden = ask(
        web, *({"path": "/static/" + name} for name in ("note.txt", "site.0123456789ab.css", "site.ffffffffffff.css", ".hidden")))
    assert short.body == b"plain text of release 1\n"
    assert short.headers["cache-control"] == "public, max-age=300"
    assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert hashed.headers["content-type"] == "text/css"
    assert (missing.status, hidden.status) == (404, 404)
    assert "cache-control" not in missing.headers


def test_the_compressed_file_on_disk_is_sent(web):
    answer = ask_one(web, path="/static/site.0123456789ab.css", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-length"] == HOSTS[web].check_output("stat -c %s /srv/app/current/static/site.0123456789ab.css.gz")
    assert gzip.decompress(answer.body).startswith(b"1\n2\n3\n")


def test_a_new_release_is_seen():
    web = "nginx-trixie"
    HOSTS[web].check_output(
        "cp -r /srv/app/releases/1 /srv/app/releases/2 && echo release 2 > /srv/app/releases/2/static/note.txt && ln -sfn releases/2 /srv/app/current")
    time.sleep(6)
    new = ask_one(web, path="/static/note.txt").body
    HOSTS[web].check_output("ln -sfn releases/1 /srv/app/current && rm -r /srv/app/releases/2")
    assert new == b"release 2\n"


def test_files_of_the_next_and_the_previous_release():
    web = "nginx-trixie"
    HOSTS[web].check_output(
        "cd /srv/app && mkdir -p releases/0/static releases/2/static && echo old > releases/0/static/old.0123456789.css && echo new > releases/2/static/new.0123456789.css"
        " && echo other > releases/2/static/site.0123456789ab.css && ln -sfn releases/0 previous && ln -sfn releases/2 next")
    try:
        old, new, both, none, hidden = ask(web, *({"path": "/static/" + name} for name in (
            "old.0123456789.css", "new.0123456789.css", "site.0123456789ab.css", "none.css", ".hidden")))
    finally:
        HOSTS[web].check_output("cd /srv/app && rm -r previous next releases/0 releases/2")
    assert (old.body, new.body) == (b"old\n", b"new\n") and both.body.startswith(b"1\n2\n3\n")
    assert old.headers["cache-control"] == new.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert old.headers["content-type"] == "text/css"
    assert (none.status, hidden.status) == (404, 404)


# --- what the app is asked

def test_both_app_servers_take_turns_over_few_connections(web):
    answers = ask(web, *[{"path": "/%d" % i} for i in range(20)])
    assert {answer.app["app"] for answer in answers} == set(HOSTS)
    # Two workers and two servers need four at a time.
    assert len({answer.app["connection"] for answer in answers}) <= 8


def test_the_socket_is_asked():
    assert ask_one("nginx-bookworm", path="/x?y=1", **PLAIN).app["path"] == "/x?y=1"


def test_the_balancer_is_believed(web):
    said = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7", "X-Request-ID": "abc-1", "X-Load-Balancer": "lb1", "X-Forwarded-Proto": "https",
            "X-Web-Server": "forged", "Forwarded": "for=203.0.113.9", "X-Forwarded-Host": "evil", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/evil"}
    answer = ask_one(web, headers=said)
    seen = answer.app["headers"]
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == "198.51.100.7"
    assert seen["x-request-id"] == answer.headers["x-request-id"] == "abc-1"
    assert (seen["x-load-balancer"], seen["x-forwarded-proto"], seen["x-web-server"]) == ("lb1", "https", web)
    assert seen["host"] == "www.foobar.com"
    assert {"forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"}.isdisjoint(seen)


def test_others_are_not_believed(web):
    said = {"X-Forwarded-For": "198.51.100.7", "X-Request-ID": "abc-1", "X-Load-Balancer": "lb1", "X-Forwarded-Proto": "http"}
    answer = ask_one(web, client=web, headers=said)
    seen = answer.app["headers"]
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == ADDRESS[web]
    assert re.fullmatch("[0-9a-f]{32}", seen["x-request-id"])
    assert seen["x-request-id"] == answer.headers["x-request-id"]
    assert seen["x-forwarded-proto"] == "https"
    assert "x-load-balancer" not in seen


def test_a_malformed_request_id_is_replaced(web):
    assert re.fullmatch("[0-9a-f]{32}", ask_one(web, headers={"X-Request-ID": 'a"b c'}).app["headers"]["x-request-id"])


def test_security_headers_unless_the_app_sets_its_own(web):
    ours, own = ask(web, {"path": "/"}, {"path": "/framed"})
    assert ours.headers["x-content-type-options"] == "nosniff"
    assert ours.headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert (ours.headers["x-frame-options"], own.headers["x-frame-options"]) == ("SAMEORIGIN", "DENY")
    assert own.repeated == 0


def test_only_a_host_told_so_names_itself():
    assert "x-web-server" not in ask_one("nginx-trixie").headers
    assert ask_one("nginx-bookworm").headers["x-web-server"] == "nginx-bookworm"


def test_answers_of_the_app_are_compressed(web):
    answer = ask_one(web, headers={"Accept-Encoding": "gzip", "X-Long": "x" * 2000})
    assert answer.headers["content-encoding"] == "gzip"
    assert b"x" * 2000 in gzip.decompress(answer.body)


def test_lines_and_limits_of_a_site():
    answer, large = ask("nginx-bookworm", PLAIN, dict(PLAIN, method="POST", body="x" * 2000))
    assert answer.headers["x-own-line"] == "yes"
    assert large.status == 413


# --- TLS

@pytest.mark.parametrize("path", ["/", "/static/note.txt", "/nginx-health"])
def test_who_is_no_load_balancer_is_refused(web, path):
    nobody, stranger, liar, impostor, elsewhere = ask(
        web, *({"path": path, "cert": cert} for cert in (None, "web9", "liar", "impostor")), {"path": path, "cert": "web9", "host": "198.51.100.1"})
    assert (stranger.status, liar.status, elsewhere.status) == (403, 403, 403)
    # A client that nginx does not trust gets 400 after the handshake.
    assert (nobody.status, impostor.status) == (400, 400)
    assert ask_one(web, path=path).status == 200


def test_server_name_of_the_host_or_of_the_site(web):
    own, site, other = ask(web, {"sni": web, "host": "foobar.com"}, {"sni": "www.foobar.com"}, {"sni": "www.foobar.com", "host": "foobar.com"})
    assert (own.status, site.status, other.status) == (200, 200, 421)


def test_old_protocols_and_ciphers_are_refused(web):
    old = s_client(web, PEER[web], "-tls1_1 -cipher DEFAULT:@SECLEVEL=0")
    assert "alert protocol version" in old
    assert "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256" in s_client(web, PEER[web], "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256")
    assert "alert handshake failure" in s_client(web, PEER[web], "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256")
    new = s_client(web, PEER[web], "-alpn h2")
    assert "TLSv1.3" in new
    assert "ALPN protocol: h2" in new
    assert "Verification: OK" in new or "Verify return code: 0" in new
    assert "TLS session ticket:" not in s_client(web, PEER[web], "-tls1_2")


def test_post_quantum_key_exchange_where_openssl_has_it():
    said = s_client("nginx-trixie", "nginx-trixie", "-groups X25519MLKEM768")
    assert "Negotiated TLS1.3 group: X25519MLKEM768" in said
    assert "handshake failure" in s_client("nginx-bookworm", "nginx-trixie", "-groups X25519MLKEM768")


# --- when the app is away

def test_another_app_server_takes_over(web):
    forget_failures()
    apps("stop", names=[PEER[web]])
    try:
        answers = ask(web, *[{"method": method, "body": "x"} for method in ("GET", "POST") * 6])
    finally:
        apps("start", names=[PEER[web]])
    assert {answer.status for answer in answers} == {200}
    assert {answer.app["app"] for answer in answers} == {web}


def test_a_post_is_sent_once(web):
    forget_failures()
    path = "/die/%s/%d" % (web, time.time_ns())
    post = ask_one(web, method="POST", path=path, body="x")
    assert post.status == 503
    assert app_requests().count("POST " + path) == 1
    ask_one(web, path=path)
    assert app_requests().count("GET " + path) == 2


def test_an_app_that_answers_503_keeps_its_place(web):
    forget_failures()
    away = ask(web, *[{"path": "/status/503"}] * 10)
    assert {answer.status for answer in away} == {503}
    assert {answer.app["app"] for answer in away} == set(HOSTS)
    assert {answer.app["app"] for answer in ask(web, *[{}] * 4)} == set(HOSTS)


@pytest.mark.parametrize("web, unit, site", [("nginx-trixie", "tls", {}), ("nginx-bookworm", "tls", {}), ("nginx-bookworm", "socket", PLAIN)])
def test_static_files_and_a_maintenance_page_while_the_app_is_away(web, unit, site):
    apps("stop", unit)
    try:
        static, health, get, post = ask(web, *(dict(site, **more) for more in (
            {"path": "/static/note.txt"}, {"path": "/nginx-health"}, {"path": "/cart"}, {"method": "POST", "body": "x"})))
    finally:
        apps("start", unit)
    assert (static.status, health.status) == (200, 200)
    for answer in (get, post):
        assert answer.status == 503
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["content-type"] == "text/html"
        assert b"Back in a moment" in answer.body
    deadline = time.time() + 10
    while ask_one(web, **site).status != 200:
        # A single socket is never given up, app servers that failed rest for 5 s.
        assert unit == "tls" and time.time() < deadline
        time.sleep(0.5)
    hidden = ask_one(web, path="/nginx-maintenance", **site)
    assert hidden.status == 404


# --- what operators see

def test_status_on_loopback_alone(web):
    local = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/stub_status').read())"
    assert "Active connections" in HOSTS[web].check_output("python3 -c %s", local)
    refused = HOSTS[PEER[web]].run("python3 -c %s", "import socket; socket.create_connection(('%s', 8080), 5)" % ADDRESS[web])
    assert "ConnectionRefusedError" in refused.stderr


def test_the_access_log_soon_tells_the_request_id_and_the_times(web):
    request_id = "log-%d" % time.time_ns()
    ask_one(web, path="/logged?a=1", headers={"X-Request-ID": request_id, "X-Forwarded-For": "198.51.100.7", "User-Agent": 'quo"te'})
    time.sleep(1.5)
    line = HOSTS[web].check_output("grep -- %s /var/log/nginx/access.log", request_id)
    if web == "nginx-trixie":
        entry = json.loads(line)
        assert (entry["remote_addr"], entry["uri"], entry["status"], entry["user_agent"]) == ("198.51.100.7", "/logged?a=1", 200, 'quo"te')
        assert float(entry["upstream_response_time"]) >= 0
        assert entry["upstream_addr"].endswith(":8443")
    else:
        assert re.match(r'198\.51\.100\.7 - - \[.+\] "GET /logged\?a=1 HTTP/1\.1" 200 ', line)
        assert re.search(request_id + r' [\d.]+ "[\d.]+:8443" "200" "[\d.]+" "[\d.]+" "[\d.]+"$', line)
    # Refused health checks are worth a line, answered ones are not.
    assert HOSTS[web].run(r"grep -E 'nginx-health.*( 200 |:200,)' /var/log/nginx/access.log").rc == 1


def test_the_log_survives_rotation(web):
    HOSTS[web].check_output("logrotate -f /etc/logrotate.d/nginx")
    request_id = "rotated-%d" % time.time_ns()
    time.sleep(1)
    ask_one(web, headers={"X-Request-ID": request_id})
    time.sleep(1.5)
    HOSTS[web].check_output("grep -- %s /var/log/nginx/access.log", request_id)


def test_the_sandbox(web):
    assert HOSTS[web].run("systemd-analyze security --threshold=30 nginx.service").rc == 0


def test_nginx_comes_back(web):
    HOSTS[web].check_output("systemctl kill -s KILL nginx")
    time.sleep(3)
    assert ask_one(web).status == 200


def test_a_slow_answer_survives_a_stop():
    """Debian's unit would cut it after five seconds."""
    web = "nginx-trixie"
    HOSTS[PEER[web]].check_output(
        "systemd-run --collect --unit slow sh -c %s",
        "echo %s | base64 -d | client > /run/slow" % base64.b64encode(json.dumps([{"to": ADDRESS[web], "path": "/slow"}]).encode()).decode())
    time.sleep(1)
    HOSTS[web].check_output("systemctl stop nginx")
    HOSTS[web].check_output("systemctl start nginx")
    time.sleep(1)
    assert '"status": 200' in HOSTS[PEER[web]].check_output("cat /run/slow")


# --- bad input and changes

def test_a_configuration_that_nginx_refuses_never_becomes_live():
    before = {name: host.file("/etc/nginx/nginx.conf").sha256sum for name, host in HOSTS.items()}
    run = play("converge.yml", nginx_sites=[{"name": "broken", "server_names": ["plain.example.com"], "config": "nonsense on;"}])
    assert run.returncode != 0
    assert run.stdout.count('unknown directive "nonsense"') >= len(HOSTS)
    for name, host in HOSTS.items():
        assert host.file("/etc/nginx/nginx.conf").sha256sum == before[name]
        host.check_output("nginx -t && systemctl reload nginx")
        assert ask_one(name).status == 200


def test_all_mistakes_are_told_at_once():
    run = play("converge.yml", nginx_trusted_proxies=["lb1"], nginx_sites=[
        {"name": "a b", "server_names": []},
        {"name": "c", "server_names": ["x;y", "$z"], "static": [{"prefix": "static", "root": "relative"}]},
        {"name": "d", "server_names": ["d.example.com"], "tls": True, "upstreams": ["unix:/run/a.sock", "http://10.0.0.1"], "upstream_tls": True},
    ])
    assert run.returncode != 0
    for message in ("name may hold", "server_names is empty", "nothing to serve", '"x;y" holds', '"$z" holds', "must begin and end",
                    "must be an absolute path", "is with TLS here", "a socket of this host", '"http://10.0.0.1" must be', '"lb1" must be an address'):
        assert message in run.stdout, message
    assert run.stdout.count("changed=0") == len(HOSTS)


def test_another_configuration():
    bookworm, trixie = HOSTS["nginx-bookworm"], HOSTS["nginx-trixie"]
    gone = dict(PLAIN, host="gone.example.com")
    assert ask_one("nginx-bookworm", **gone).status == 204
    bookworm.check_output("cd /etc/webstack/pki && cp web9.crt host.crt && cp web9.key host.key")
    trixie.check_output("mkdir -p /run/app && ln -sfn /run/fake/app.sock /run/app/app.sock")
    try:
        run = play("changed.yml")
        assert run.returncode == 0, run.stdout
        assert ask_one("nginx-bookworm", **gone).status == 421
        assert ask_one("nginx-bookworm", path="/note.txt", **PLAIN).body == b"plain text of release 1\n"
        # The app servers are not who they should be.
        assert ask_one("nginx-bookworm").status == 503
        assert "subject=CN = web9" in s_client("nginx-bookworm", "nginx-trixie", "").replace("CN=", "CN = ")
        # Stage 1: visitors come directly, without TLS.
        answer = ask_one("nginx-trixie", tls=False, headers={"X-Forwarded-For": "203.0.113.9"})
        assert answer.app["headers"]["x-forwarded-for"] == ADDRESS["nginx-bookworm"]
        assert answer.app["headers"]["x-forwarded-proto"] == "http"
        assert ask_one("nginx-trixie").status is None
    finally:
        bookworm.check_output("cd /etc/webstack/pki && cp nginx-bookworm.crt host.crt && cp nginx-bookworm.key host.key")
        run = play("converge.yml")
    assert run.returncode == 0, run.stdout
    assert ask_one("nginx-bookworm", **gone).status == 204
    assert ask_one("nginx-trixie").status == 200
