#!/usr/bin/env python3
"""What the edge of a running stage 4 costs, side by side with configurations made for nothing but the measurement.

  edge.py [ROUNDS]     default: 20 interleaved rounds of 1 s each, about six minutes

The generator has a core for itself, the load balancer and the web servers share the other one. CPU time is that of the unit's cgroup: on a shared machine it is
steady where requests per second are not. Writes lines to tests/output/benchmark.jsonl, of which chart.py makes a table and a chart.
"""
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("MOLECULE_SCENARIO_NAME", "stage4")
os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
sys.path[:0] = [str(ROOT / "molecule/shared/tests"), str(ROOT / "tests/chaos")]

import lab  # noqa: E402
from chaos import docker, holders, report  # noqa: E402

# Short slices in many rounds: the machine changes its speed within seconds.
SECONDS, CONNECTIONS = 1, 32
BENCH = "bench"
# From the limit of requests: molecule/shared/lab.yml.j2.
EXEMPT = "198.18.0.250"
WEB = lab.HOSTS["web"][0]
PORTS = {"haproxy": 9443, "haproxy-log": 9444, "nginx-tls": 9445, "haproxy-ours": 9446, "nginx-ours": 9080, "nginx-debian": 9081}

HAPROXY = """
global
    log /dev/log local0
    user haproxy
    group haproxy
    maxconn 8000
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 2s
    {log}
frontend https
    bind *:{port} ssl crt /etc/haproxy/certs alpn h2,http/1.1
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto https
    default_backend web
backend web
    default-server ssl verify required ca-file /etc/webstack/pki/ca.crt crt /etc/webstack/pki/host.pem alpn h2,http/1.1 check-alpn http/1.1
    {servers}
"""
NGINX_TLS = """
user www-data; worker_processes auto; pid /run/bench-tls.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
    include /etc/nginx/mime.types; sendfile on; tcp_nopush on; access_log off; gzip_static on;
    ssl_certificate /etc/webstack/pki/host.crt; ssl_certificate_key /etc/webstack/pki/host.key; ssl_protocols TLSv1.2 TLSv1.3;
    server {{ listen {port} ssl; location /static/ {{ alias /srv/app/current/static/; }} }}
}}
"""


def on(host, command, check=True):
    return docker("exec", host, "bash", "-c", command, check=check).stdout


def write(host, path, text):
    subprocess.run(["docker", "exec", "-i", host, "tee", path], input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def unit(host, name, *command):
    """A service of its own has a cgroup of its own."""
    docker("exec", host, "systemd-run", "--quiet", f"--unit=bench-{name}", *command)


def plain(text):
    """Our nginx without TLS, as Debian's default is: on another port, and for everybody."""
    text = re.sub(r"listen (\[::\]:)?443( default_server)? ssl;", lambda found: f"listen {PORTS['nginx-ours']}{found[2] or ''};" if not found[1] else "", text)
    text = re.sub(r"if \(\$client_known = 0\) \{\s*return 403;\s*\}", "", text)
    text = re.sub(r"^\s*(ssl_\w+|http2|map \$ssl_client_s_dn|listen 127\.0\.0\.1|listen \[::1\]).*$", "", text, flags=re.M)
    text = re.sub(r"^\s*default 0;\n\s*\"~\(\?:\^.*\n\s*\}\n", "", text, flags=re.M)
    return text.replace("/run/nginx.pid", "/run/bench-ours.pid").replace("/var/log/nginx/", "/tmp/bench-")


def beside(text, port):
    """Our HAProxy on a port of its own, outside of the unit's sandbox, without what the running one has for itself: sockets, and the talk with the other load balancer."""
    for line in (r"\s*stats socket .*", r"\s*bind (127|:::|\*:80).*", r"\s*server \S+ \S+:10000 .*"):
        text = re.sub(f"^{line}\n", "", text, flags=re.M)
    return text.replace("bind *:443 ", f"bind *:{port} ").replace(":10000 ssl", f":{port + 40} ssl")


def set_up(balancer):
    docker("run", "--detach", "--name", BENCH, "--label", "owner=webstack-lab", "--network", "webstack-public", "--ip", EXEMPT, "--add-host", f"www.foobar.com:{lab.VIP}", "--cpuset-cpus", "0",
           "--entrypoint", "sleep", "webstack-lab/internet:trixie", "3600")
    docker("network", "connect", "webstack-private", BENCH)
    for host in [balancer, *lab.HOSTS["web"]]:
        docker("update", "--cpuset-cpus", "1", host)
    # As many threads as cores, as those beside it will have.
    on(balancer, "systemctl reload haproxy")
    for host in (balancer, WEB):
        on(host, "iptables -I INPUT 1 -p tcp --dport 9000:9500 -j ACCEPT")
    servers = "\n    ".join(f"server {name} {lab.ADDRESS[name]}:443 check sni str({name}) check-sni {name} verifyhost {name}" for name in lab.HOSTS["web"])
    for name, log in (("haproxy", ""), ("haproxy-log", "log global\n    option httplog")):
        write(balancer, f"/etc/haproxy/bench-{name}.cfg", HAPROXY.format(port=PORTS[name], log=log, servers=servers))
        unit(balancer, name, "haproxy", "-W", "-f", f"/etc/haproxy/bench-{name}.cfg")
    write(balancer, "/etc/haproxy/bench-haproxy-ours.cfg", beside(on(balancer, "cat /etc/haproxy/haproxy.cfg"), PORTS["haproxy-ours"]))
    unit(balancer, "haproxy-ours", "haproxy", "-W", "-f", "/etc/haproxy/bench-haproxy-ours.cfg")
    write(WEB, "/etc/nginx/bench-tls.conf", NGINX_TLS.format(port=PORTS["nginx-tls"]))
    write(WEB, "/etc/nginx/bench-ours.conf", plain(on(WEB, "cat /etc/nginx/nginx.conf")))
    default = on(WEB, "dpkg-deb --fsys-tarfile /var/cache/apt/archives/nginx-common_*.deb | tar -xO ./etc/nginx/nginx.conf")
    default = default.replace("/run/nginx.pid", "/run/bench-debian.pid").replace("/var/log/nginx/", "/tmp/bench-debian-")
    default = re.sub(r"^\s*include /etc/nginx/(conf\.d|sites-enabled)/\*.*$", "", default, flags=re.M)
    at = default.rindex("}", 0, default.rindex("#mail") if "#mail" in default else len(default))
    server = f"server {{ listen {PORTS['nginx-debian']} default_server; root /srv/app/current; server_name _; location / {{ try_files $uri $uri/ =404; }} }}\n"
    write(WEB, "/etc/nginx/bench-debian.conf", default[:at] + server + default[at:])
    for name in ("tls", "ours", "debian"):
        unit(WEB, f"nginx-{name}", "nginx", "-c", f"/etc/nginx/bench-{name}.conf", "-g", "daemon off;")


def tear_down(balancer):
    docker("rm", "--force", BENCH, check=False)
    for name in PORTS:
        on(balancer if "haproxy" in name else WEB, f"systemctl stop bench-{name}", check=False)
    on(balancer, "rm -f /etc/haproxy/bench-*", check=False)
    on(WEB, "rm -f /etc/nginx/bench-* /tmp/bench-*", check=False)
    for host in (balancer, WEB):
        on(host, "iptables -D INPUT -p tcp --dport 9000:9500 -j ACCEPT", check=False)
    for host in [balancer, *lab.HOSTS["web"]]:
        docker("update", "--cpuset-cpus", f"0-{os.cpu_count() - 1}", host, check=False)
    on(balancer, "systemctl reload haproxy", check=False)


def spent(host, unit_name):
    """Seconds of CPU."""
    return int(re.search(r"usage_usec (\d+)", on(host, f"cat /sys/fs/cgroup/system.slice/{unit_name}.service/cpu.stat"))[1]) / 1e6


def requests(url, host, unit_name):
    """Requests a second, and microseconds of the unit's CPU for each."""
    before = spent(host, unit_name)
    text = on(BENCH, f"wrk --threads 1 --connections {CONNECTIONS} --duration {SECONDS}s --header 'Host: www.foobar.com' {url}")
    assert "Non-2xx" not in text and "Socket errors" not in text, text
    count = int(re.search(r"(\d+) requests in", text)[1])
    return count / SECONDS, 1e6 * (spent(host, unit_name) - before) / count


def handshakes(url, host, unit_name):
    """Connections with a full handshake and one request, for each second of CPU: hey keeps no sessions, and sends the name that `openssl s_time` cannot."""
    before = spent(host, unit_name)
    text = on(BENCH, f"hey -z {SECONDS}s -c 8 -disable-keepalive -host www.foobar.com {url}")
    assert "Error distribution" not in text, text
    return int(re.search(r"\[200\]\s+(\d+) responses", text)[1]) / (spent(host, unit_name) - before)


def latency(url):
    """Median milliseconds at 100 requests a second on kept connections: far from any limit."""
    text = on(BENCH, f"hey -z {SECONDS}s -c 4 -q 25 -host www.foobar.com {url}")
    return 1000 * float(re.search(r"50%\S* in ([\d.]+) secs", text)[1])


def main(rounds):
    balancer = holders()[0]
    style = "/static/" + re.search(r"/static/(style\.[0-9a-f]+\.css)", lab.site("/").body)[1]
    # From outside, as the limit knows the generator by its public address.
    address, web = lab.PUBLIC[balancer], lab.ADDRESS[WEB]
    edge = f"https://www.foobar.com{style}"
    tear_down(balancer)
    found = {}

    def keep(name, value):
        found.setdefault(name, []).append(value)

    measured = {
        "edge": (edge, balancer, "haproxy"),
        "hand-made": (f"https://{address}:{PORTS['haproxy']}{style}", balancer, "bench-haproxy"),
        "hand-made, with a log": (f"https://{address}:{PORTS['haproxy-log']}{style}", balancer, "bench-haproxy-log"),
        "edge, no sandbox and no peer": (f"https://{address}:{PORTS['haproxy-ours']}{style}", balancer, "bench-haproxy-ours"),
        "nginx alone": (f"https://{web}:{PORTS['nginx-tls']}{style}", WEB, "bench-nginx-tls"),
        "static, ours": (f"http://{web}:{PORTS['nginx-ours']}{style}", WEB, "bench-nginx-ours"),
        "static, Debian": (f"http://{web}:{PORTS['nginx-debian']}{style}", WEB, "bench-nginx-debian"),
    }
    try:
        set_up(balancer)
        assert lab.wait_for(lambda: "200" in on(BENCH, f"curl -sk -o /dev/null -w '%{{http_code}}' -H 'Host: www.foobar.com' {measured['hand-made'][0]}"))
        for number in range(rounds + 1):
            # Another one comes first in each round: the machine's speed drifts within it.
            order = list(measured)[number % len(measured):] + list(measured)[:number % len(measured)]
            results = {name: requests(*measured[name]) for name in order}
            shakes = {name: handshakes(*measured[name]) for name in order if name in ("edge", "hand-made", "hand-made, with a log")}
            times = {"edge": latency(edge), "nginx alone": latency(measured["nginx alone"][0])}
            # The first round warms up.
            if number:
                for name, (rate, cpu) in results.items():
                    keep(f"{name}: requests/s", rate)
                    keep(f"{name}: CPU us/request", cpu)
                for name in ("hand-made", "hand-made, with a log"):
                    keep(f"edge / {name}: CPU", results["edge"][1] / results[name][1])
                for name, value in shakes.items():
                    keep(f"{name}: handshakes/CPU s", value)
                for name, value in times.items():
                    keep(f"{name}: p50 ms", value)
            print(number, {name: [round(one) for one in values] for name, values in results.items()}, {name: round(value) for name, value in shakes.items()}, times, flush=True)
    finally:
        tear_down(balancer)
    for name, values in found.items():
        report(f"edge, {name}", "benchmark.jsonl", median=round(statistics.median(values), 2), least=round(min(values), 2), most=round(max(values), 2), rounds=rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or [20]))
