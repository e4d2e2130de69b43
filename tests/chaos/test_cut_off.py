"""A run of the stage that is cut off between a file and the reload or restart that it asks for: the next run sees to it."""
import json
import os
import re
import signal
import subprocess
import time

import lab
import pytest

from chaos import DATABASES, ROOT, asked, docker, holders, play

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.long]

WANTED = {"nginx_http_config": 'add_header X-Cut-Off "no" always;', "haproxy_maxconn": 7999, "keepalived_advert_interval": 0.2, "mysql_settings": {"back_log": 123},
          "monitoring_agent_scrape_interval": "14s", "monitoring_server_slo": 99.8}
MONITOR = lab.HOSTS["monitoring"][0]


def answer(host, program):
    return docker("exec", host, "python3", "-c", program).stdout


def page(host, url):
    return answer(host, f"import urllib.request; page = urllib.request.urlopen({url!r}); print(page.headers, page.read().decode())")


def rules(_host):
    written = float(docker("exec", MONITOR, "stat", "--format=%.6Y", "/etc/prometheus/rules/webstack.yml").stdout)
    begun = time.time()
    # The time of the last reload is a sample among others.
    lab.wait_for(lambda: float(lab.ask_monitoring("timestamp(prometheus_config_last_reload_success_timestamp_seconds)")[0]["value"][1]) > begun, seconds=40, pause=2)
    return float(lab.ask_monitoring("prometheus_config_last_reload_success_timestamp_seconds")[0]["value"][1]) > written


def back_log(host):
    return asked(host, "SELECT @@back_log") == "123"


def maxconn(host):
    text = answer(host, "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); s.send(b'show info\\n'); print(s.makefile().read())")
    return re.search(r"^Maxconn: (\d+)$", text, re.M)[1] == "7999"


def header(host):
    return "X-Cut-Off: no" in page(host, "http://127.0.0.1:8080/stub_status")


def adverts(host):
    """Five a second, and no longer ten, from the holder of the VIP."""
    other = next(name for name in lab.HOSTS["loadbalancers"] if name != host)
    heard = int(answer(other, "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112); s.settimeout(0.5); end = time.time() + 2; count = 0\n"
                              "while time.time() < end:\n try: s.recv(200); count += 1\n except TimeoutError: pass\nprint(count)"))
    return heard < 15


def interval(host):
    return "scrape_interval: 14s" in page(host, "http://127.0.0.1:8429/config")


def cut_off(tag, task, host, file, live):
    """SIGKILL when a host has a new file; what runs there is still the old."""
    process = subprocess.Popen(
        ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/stage4.yml", "--tags", tag, "-e", json.dumps(WANTED)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "4"})
    here = False
    for line in process.stdout:
        if line.startswith("TASK ["):
            here = f" [foobar.webstack.{task}]" in line
        elif here and line.startswith(f"changed: [{host}]"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    # Not one that came to its end.
    assert process.wait() == -signal.SIGKILL, task
    assert docker("exec", host, "find", file, "-mmin", "-1").stdout and not live(host), task


def test_a_stage_cut_off_before_its_handlers():
    holder = holders()[0]
    web, app = lab.HOSTS["web"][0], lab.HOSTS["app"][0]
    try:
        cut_off("monitoring", "monitoring_server : Write the rules", MONITOR, "/etc/prometheus/rules/webstack.yml", rules)
        cut_off("database", "mysql : Write the configuration", DATABASES[0], "/etc/mysql/mysql.conf.d/zz-server.cnf", back_log)
        cut_off("router", "haproxy : Write the configuration", app, "/etc/haproxy/haproxy.cfg", maxconn)
        cut_off("web", "nginx : Configure nginx", web, "/etc/nginx/nginx.conf", header)
        cut_off("loadbalancers", "haproxy : Write the configuration", holder, "/etc/haproxy/haproxy.cfg", maxconn)
        cut_off("loadbalancers", "keepalived : Configure keepalived", holder, "/etc/keepalived/keepalived.conf", adverts)
        cut_off("monitoring_agent", "monitoring_agent : Write the units and the configuration of the agent", web, "/etc/vmagent/scrape.yml", interval)
        play("stage4", "-e", json.dumps(WANTED))
        for live, hosts in ((rules, [MONITOR]), (back_log, DATABASES), (maxconn, lab.HOSTS["loadbalancers"] + lab.HOSTS["app"]), (header, lab.HOSTS["web"]),
                            (adverts, [holder]), (interval, lab.EVERY_HOST)):
            assert [host for host in hosts if not live(host)] == [], live.__name__
        output, _ = play("stage4", "-e", json.dumps(WANTED))
        assert not re.search(r"changed=[1-9]", output)
    finally:
        play("stage4")
