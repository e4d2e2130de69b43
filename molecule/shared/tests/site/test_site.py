"""The site as a visitor sees it, in every stage."""

import json
import os
import re
import subprocess
from pathlib import Path

import lab

testinfra_hosts = ["client"]


def test_the_page_names_the_hosts_that_answered():
    answer = lab.site()
    assert answer.status == 200
    if lab.HOSTS["loadbalancers"]:
        assert answer.hops["Load balancer"] in lab.HOSTS["loadbalancers"]
    assert answer.hops["Web server"] in lab.HOSTS["web"]
    assert answer.hops["App server"] in lab.HOSTS["app"]


def test_static_files_come_from_disk_for_ever():
    style = re.search(r'href="(/static/style[^"]+)"', lab.site().body).group(1)
    answer = lab.site(style)
    assert answer.status == 200
    assert "immutable" in answer.headers["cache-control"]
    assert "x-app-version" not in answer.headers


def test_what_is_written_is_read_by_the_session_that_wrote():
    entry, answer = lab.write("read your own write")
    seen = answer.json["gtid"]
    page = lab.site(f"/api/entries?limit=1000&seen={seen.replace(':', '%3A').replace(',', '%2C')}").json
    assert [row for row in page["entries"] if row["text"] == "read your own write"]


def test_the_form_works_without_javascript():
    client = lab.on("client")
    client.check_output("rm -f /tmp/cookies")
    page = lab.site("/", "--cookie-jar", "/tmp/cookies").body
    fields = dict(re.findall(r'name="(csrf|id)" value="([^"]+)"', page))
    text = f"by form {fields['id'][:8]}"
    posted = lab.site(
        "/entries", "--cookie", "/tmp/cookies", "--cookie-jar", "/tmp/cookies",
        *(part for name, value in {**fields, "name": "A visitor", "text": text}.items() for part in ("--data-urlencode", f"{name}={value}")),
    )
    assert posted.status == 303
    assert text in lab.site("/", "--cookie", "/tmp/cookies").body


def test_the_name_is_in_the_dns():
    found = lab.on("client").check_output("dig +short @198.18.0.53 www.foobar.com A; dig +short @198.18.0.53 foobar.com A")
    assert found.split() == [lab.EDGE, lab.EDGE]


def test_an_entry_is_kept_from_stage_to_stage():
    """Stages 1 to 3 run over the same hosts: what the first one wrote is what the last one shows."""
    kept = Path(lab.ROOT, ".lab", "servers" if lab.STAGE != "stage4" else "stage4", "first_entry")
    if not kept.exists():
        entry, answer = lab.write(f"first written in {lab.STAGE}")
        kept.write_text(f"first written in {lab.STAGE}")
    assert lab.wait_for(lambda: kept.read_text() in [row["text"] for row in lab.site("/api/entries?limit=1000").json["entries"]])


def test_the_runs_showed_no_secret():
    """With -vvv and --diff: the first one, which writes every file, and the one that changes nothing."""
    log = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "ansible.log").read_text()
    # What comes before made the lab.
    log = log[log.index("PLAY [Gather facts]"):]
    assert "--- before" in log and "the output has been hidden" in log
    credentials = Path(lab.LAB["vars"]["webstack_credentials_dir"])
    secrets = {path.name: path.read_text().strip() for path in credentials.iterdir() if path.name.endswith(("_password", "_key", ".key"))}
    # The second line of a private key is its own.
    secrets = {name: text.splitlines()[1] if "PRIVATE KEY" in text else text for name, text in secrets.items()}
    secrets["dns_record_key_secret"] = lab.LAB["vars"]["dns_record_key_secret"]
    assert len(secrets) >= 4 and all(len(text) >= 20 for text in secrets.values())
    assert [name for name, text in secrets.items() if text in log] == []


def test_the_status_playbook_finds_nothing_wrong(tmp_path):
    """But for alerts, which may still fire for what another test broke."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    inventories = ["-i", f"inventories/{lab.STAGE}", "-i", f".lab/{lab.STAGE}.yml"]
    command = ["ansible-playbook", *inventories, "playbooks/status.yml", "-e", f"status_directory={tmp_path}"]
    result = subprocess.run(command, cwd=lab.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (tmp_path / "index.html").exists(), result.stdout[-3000:] + result.stderr[-3000:]
    status = json.loads((tmp_path / "status.json").read_text())
    found = [found for found in status["problems"] + status["warnings"] if found["tier"] != "monitoring"]
    why = "journalctl --no-pager --lines 30 $(systemctl list-units --failed --plain --no-legend | awk '{ print \"--unit \" $1 }')"
    assert found == [], [lab.on(host).run(why).stdout for host in {problem["host"] for problem in found} if host]
    assert status["primary"] in lab.HOSTS["database"] and status["release"]
    assert {tier: [node["name"] for node in nodes] for tier, nodes in status["tiers"].items()} == lab.HOSTS
    assert status["site"]["stage"] == int(lab.STAGE[-1]) and (result.returncode == 0) == status["healthy"]
