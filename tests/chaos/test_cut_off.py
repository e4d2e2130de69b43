"""A run of the stage that is cut off between a file and the reload that it asks for: the next run makes every service read what is there."""
import json
import os
import re
import signal
import subprocess

import lab
import pytest

from chaos import DATABASES, ROOT, asked, docker, play, report

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.long]

WANTED = {"nginx_http_config": 'add_header X-Cut-Off "no" always;', "haproxy_maxconn": 7999, "keepalived_advert_interval": 0.2, "mysql_settings": {"back_log": 123},
          "monitoring_agent_scrape_interval": "14s", "monitoring_server_slo": 99.8}
# Each is followed by a handler that the run does not live to see.
TASKS = ["monitoring_server : Write the rules", "mysql : Write the configuration", "haproxy : Write the configuration", "nginx : Configure nginx", "keepalived : Configure keepalived",
         "monitoring_agent : Write the units and the configuration of the agent"]


def cut_off_after(task):
    """SIGKILL as soon as one host has a new file."""
    process = subprocess.Popen(
        ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/stage4.yml", "-e", json.dumps(WANTED)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"})
    here = False
    for line in process.stdout:
        if line.startswith("TASK ["):
            here = f" [foobar.webstack.{task}]" in line
        elif here and line.startswith("changed: ["):
            os.killpg(process.pid, signal.SIGKILL)
            break
    # Not one that came to its end.
    assert process.wait() == -signal.SIGKILL, task


def answer(host, program):
    return docker("exec", host, "python3", "-c", program).stdout


def page(host, url):
    return answer(host, f"import urllib.request; page = urllib.request.urlopen({url!r}); print(page.headers, page.read().decode())")


def maxconn(host):
    text = answer(host, "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); s.send(b'show info\\n'); print(s.makefile().read())")
    return re.search(r"^Maxconn: (\d+)$", text, re.M)[1]


def adverts(host):
    """Heard within two seconds: they come in a frame each to whoever does not hold the VIP."""
    return int(answer(host, "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112); s.settimeout(0.5); end = time.time() + 2; count = 0\n"
                            "while time.time() < end:\n try: s.recv(200); count += 1\n except TimeoutError: pass\nprint(count)"))


def test_a_stage_cut_off_before_its_handlers():
    try:
        for task in TASKS:
            cut_off_after(task)
        _, seconds = play("stage4", "-e", json.dumps(WANTED))
        for host in DATABASES:
            assert asked(host, "SELECT @@back_log") == "123", host
        for host in lab.HOSTS["web"]:
            assert "X-Cut-Off: no" in page(host, "http://127.0.0.1:8080/stub_status"), host
        for host in lab.HOSTS["loadbalancers"] + lab.HOSTS["app"]:
            assert maxconn(host) == "7999", host
        assert 5 < max(adverts(host) for host in lab.HOSTS["loadbalancers"]) < 15
        for host in lab.EVERY_HOST:
            assert "scrape_interval: 14s" in page(host, "http://127.0.0.1:8429/config"), host
        written = float(docker("exec", lab.HOSTS["monitoring"][0], "stat", "--format=%.6Y", "/etc/prometheus/rules/webstack.yml").stdout)
        assert lab.wait_for(lambda: float(lab.ask_monitoring("prometheus_config_last_reload_success_timestamp_seconds")[0]["value"][1]) > written, seconds=30)
        output, _ = play("stage4", "-e", json.dumps(WANTED))
        assert not re.search(r"changed=[1-9]", output)
        report("a stage cut off six times, and run again", again_s=round(seconds))
    finally:
        play("stage4")
