"""How the stage tests look at the site: as a visitor, from host to host, and by SQL."""

import json
import os
import re
import time
import uuid
from dataclasses import dataclass

import testinfra
import yaml

STAGE = os.environ["MOLECULE_SCENARIO_NAME"]
ROOT = os.environ["MOLECULE_PROJECT_DIRECTORY"]
TLS = STAGE in ("stage3", "stage4")
TIERS = ("loadbalancers", "web", "app", "database", "monitoring")


def _inventory():
    with open(f"{ROOT}/inventories/{STAGE}/hosts.yml") as file:
        groups = yaml.safe_load(file)
    return {tier: list(((groups.get(tier) or {}).get("hosts") or {})) for tier in TIERS}


HOSTS = _inventory()
EVERY_HOST = sorted({name for members in HOSTS.values() for name in members})
with open(f"{ROOT}/.lab/{STAGE}.yml") as file:
    LAB = yaml.safe_load(file)["all"]
ADDRESS = {name: host["webstack_address"] for name, host in LAB["hosts"].items()}
PUBLIC = {name: host["webstack_public_address"] for name, host in LAB["hosts"].items() if "webstack_public_address" in host}
VIP = LAB["vars"]["webstack_vips"][0].split("/")[0]
EDGE = VIP if STAGE == "stage4" else PUBLIC[(HOSTS["loadbalancers"] or HOSTS["web"])[0]]


def on(name):
    return testinfra.get_host(f"docker://{name}")


@dataclass
class Answer:
    status: int
    headers: dict
    body: str

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def hops(self):
        """Which host of each tier the page names."""
        return dict(re.findall(r"<span>(.*?)</span> <strong>(.*?)</strong>", self.body))


def acme_root():
    on("client").check_output("test -s /tmp/acme-root.pem || curl --silent --insecure https://198.18.0.53:15000/roots/0 --output /tmp/acme-root.pem")
    return "/tmp/acme-root.pem"


def curl(*options):
    """curl as the visitor; raises when it could not talk to the server."""
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "10", *options]
    if TLS:
        command += ["--cacert", acme_root()]
    result = on("client").run(" ".join(["%s"] * len(command)), *command)
    assert result.rc == 0, result.stderr
    head, _, body = result.stdout.replace("\r\n", "\n").partition("\n\n")
    lines = head.splitlines()
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body)


def site(path="/", *options):
    return curl(*options, f"http{'s' if TLS else ''}://www.foobar.com{path}")


def write(text="written by a test"):
    """Write an entry through the site; returns its id and the answer."""
    entry = {"id": uuid.uuid4().hex, "name": "A test", "text": text}
    answer = site("/api/entries", "--header", "Content-Type: application/json", "--data", json.dumps(entry))
    assert answer.status == 201, answer.body
    return entry["id"], answer


def sql(name, statement):
    return on(name).check_output("mysql --batch --skip-column-names --execute %s", statement)


def ask_monitoring(query):
    """What Prometheus on the monitoring host knows."""
    secret = open(f"{LAB['vars']['webstack_credentials_dir']}/monitoring_password").read().strip()
    code = (
        "import base64, json, ssl, sys, urllib.parse, urllib.request as r; secret = sys.stdin.read().strip();"
        "q = r.Request('https://%s:9090/api/v1/query?' % sys.argv[1] + urllib.parse.urlencode({'query': sys.argv[2]}),"
        " headers={'Authorization': 'Basic ' + base64.b64encode(('webstack:' + secret).encode()).decode()});"
        "print(r.urlopen(q, context=ssl.create_default_context(cafile='/etc/webstack/pki/ca.crt'), timeout=5).read().decode())"
    )
    monitor = HOSTS["monitoring"][0]
    answer = on(monitor).run("printf %s %s | python3 -c %s %s %s", "%s", secret, code, ADDRESS[monitor], query)
    assert answer.rc == 0, answer.stderr
    return json.loads(answer.stdout)["data"]["result"]


def wait_for(condition, seconds=15, pause=0.2):
    """The first true answer of condition within the time, else its last answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = condition()
        except AssertionError:
            answer = None
        if answer or time.monotonic() > end:
            return answer
        time.sleep(pause)
