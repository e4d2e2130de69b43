"""The module haproxy_server against a running HAProxy."""
import json
import os
import subprocess

import pytest

from helpers import CURL, SITE, admin, curl, servers, wait_for


def run(host, *options, **arguments):
    done = subprocess.run(
        ["ansible", "-i", os.environ["MOLECULE_INVENTORY_FILE"], host.backend.get_hostname(), "-m", "foobar.webstack.haproxy_server",
         "-a", json.dumps({"backend": "web", "server": ["web2"], **arguments}), *options],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
             "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"},
        capture_output=True, text=True, check=False, timeout=120)
    assert "{" in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{"):])


@pytest.mark.parametrize("state, status", [("drain", "DRAIN"), ("maint", "MAINT")])
def test_out_and_back(host, state, status):
    assert run(host, "--check", state=state)["changed"] and servers(host, "web")["web2"] == "UP"
    result = run(host, state=state)
    assert result["changed"] and result["servers"][0]["before"] == "ready" and result["servers"][0]["after"] == state
    assert servers(host, "web")["web2"].startswith(status)
    assert {json.loads(curl(host, SITE))["name"] for _ in range(4)} == {"web1"}
    assert not run(host, state=state)["changed"]
    assert "no other server serves backend web than web1" in run(host, server=["web1"], state=state)["msg"]
    result = run(host, state="ready")
    assert result["changed"] and result["servers"][0]["status"] == "UP"
    assert not run(host, state="ready")["changed"]


def test_sessions_end_or_are_cut(host):
    """web1 is out, so that the slow answer (4 s) comes from web2."""
    run(host, server=["web1"], state="maint")
    try:
        host.check_output(f"({CURL} -N {SITE}/slow >/tmp/slow; echo $? >/tmp/slow.rc) >/dev/null 2>&1 & until test -s /tmp/slow; do sleep 0.05; done")
        result = run(host, state="drain", force=True)
        assert result["servers"][0]["sessions"] == 0 and result["waited"] > 0.5
        assert host.file("/tmp/slow").content_string == "........"
        run(host, state="ready")
        host.check_output(f"rm -f /tmp/slow*; ({CURL} -N {SITE}/slow >/tmp/slow; echo $? >/tmp/slow.rc) >/dev/null 2>&1 & until test -s /tmp/slow; do sleep 0.05; done")
        assert "not all sessions ended: web/web2 has 1" in run(host, state="drain", force=True, wait_timeout=0)["msg"]
        assert run(host, state="drain", force=True, wait_timeout=0, on_timeout="cut")["cut"] == 1
        wait_for(lambda: host.run("cat /tmp/slow.rc").stdout.strip() not in ("", "0"))
    finally:
        run(host, server=["web1", "web2"], state="ready")


def test_what_is_wrong_is_said(host):
    assert "has no server x; there are: web1, web2, web3" in run(host, server=["x"], state="drain")["msg"]
    assert "HAProxy has no backend x; there are: " in run(host, backend="x", state="drain")["msg"]
    assert "there is no socket /run/none" in run(host, socket="/run/none", state="drain")["msg"]
    # web3 has the certificate of another, so it never is up.
    assert "not up after 1 s: web/web3 is DOWN" in run(host, server=["web3"], state="ready", wait_timeout=1)["msg"]
    assert admin(host, "show servers state web").count(" web3 ") == 1
