"""How the tests look at HAProxy and at what stands behind it."""
import json
import os
import subprocess
import time

CURL = "curl -sS --max-time 15 --cacert /etc/lab/ca.crt --resolve '*:443:127.0.0.1' --resolve '*:80:127.0.0.1' "
SITE = "https://www.example.com"


def curl(host, arguments):
    return host.check_output(CURL + arguments)


def admin(host, command):
    return host.check_output(f"echo '{command}' | socat -t 5 /run/haproxy/admin.sock -")


def servers(host, backend):
    """Status of each server, as the statistics say: UP, DOWN, DRAIN ..."""
    lines = admin(host, f"show stat {backend} 4 -1").splitlines()
    names = lines[0].lstrip("# ").split(",")
    return {row["svname"]: row["status"] for row in (dict(zip(names, line.split(","))) for line in lines[1:] if line)}


def wait_for(what, seconds=10):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "it did not happen in time"
        time.sleep(0.2)


def web_is_up(host, *names):
    return lambda: all(servers(host, "web")[name].startswith("UP") for name in names or ("web1", "web2"))


def seconds_until_down(host, signal, server, backend="web"):
    """Between the signal to a server and HAProxy's log line, by the host's clock."""
    start = host.check_output(f"date +%s.%N; systemctl kill -s {signal} upstream@{server}")
    wait_for(lambda: servers(host, backend)[server] == "DOWN")
    log = host.check_output(f"journalctl -u haproxy -o short-unix --since @{int(float(start))} | grep 'Server {backend}/{server} is DOWN' | head -1")
    return float(log.split()[0]) - float(start)


def s_client(host, options):
    return host.run(f"openssl s_client -connect 127.0.0.1:443 -servername www.example.com -CAfile /etc/lab/ca.crt {options} </dev/null 2>&1").stdout


def ask(host, port):
    return host.run(f"timeout 5 bash -c 'head -1 </dev/tcp/127.0.0.1/{port}'").stdout.strip()


def set_roles(host, **roles):
    host.check_output("; ".join(f"echo {role} > /run/lab/{name}.role" for name, role in roles.items()))


def play(host, **variables):
    return subprocess.run(
        ["ansible-playbook", "-vvv", "--diff", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "--limit", host.backend.get_hostname(),
         "-e", json.dumps(variables), os.path.join(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml")],
        capture_output=True, text=True, check=False, timeout=300)
