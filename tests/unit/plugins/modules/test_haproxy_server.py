# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import threading

import pytest

from ansible_collections.foobar.webstack.plugins.modules import haproxy_server

BITS = {"ready": 0, "drain": 8, "maint": 1}


class Exit(Exception):
    pass


class HAProxy:
    """A runtime socket with a backend web of some servers; sessions end after so many looks at them."""

    def __init__(self, path, monkeypatch):
        self.path, self.monkeypatch = str(path / "admin.sock"), monkeypatch
        self.servers = {name: dict(state="ready", status="UP", sessions=0) for name in ("web1", "web2")}
        self.commands, self.looks, self.ends_after, self.up_after, self.refuse = [], 0, 0, 0, ""
        monkeypatch.setattr(haproxy_server, "PAUSE", 0)
        monkeypatch.setattr(haproxy_server, "CUT", 1)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection = self.listener.accept()[0]
            with connection:
                connection.sendall(self.answer(connection.recv(1000).decode().strip()).encode())

    def answer(self, command):
        if command == "show stat":
            self.looks += 1
            for server in self.servers.values():
                if self.looks > self.ends_after and server["state"] != "ready":
                    server["sessions"] = 0
                if self.looks > self.up_after and server["status"] == "UP 1/3":
                    server["status"] = "UP"
            return "# pxname,svname,qcur,scur,status,weight,check_status,last_chk,\n" + "".join(
                "web,%s,0,%d,%s,1,L7OK,,\n" % (name, server["sessions"], server["status"]) for name, server in self.servers.items())
        if command == "show servers state":
            return "1\n# be_name srv_name srv_admin_state\n" + "".join("web %s %d\n" % (name, BITS[server["state"]]) for name, server in self.servers.items())
        self.commands.append(command)
        if self.refuse:
            return self.refuse
        words = command.split()
        if words[0] == "shutdown":
            self.servers[words[3].partition("/")[2]]["sessions"] = 0
        else:
            server = self.servers[words[2].partition("/")[2]]
            server["status"] = "UP 1/3" if words[4] == "ready" and server["state"] == "maint" else {"ready": "UP", "drain": "DRAIN", "maint": "MAINT"}[words[4]]
            server["state"] = words[4]
        return "\n"

    def run(self, check=False, **params):
        result, path = {}, self.path

        class Module:
            def __init__(self, argument_spec, supports_check_mode):
                defaults = {name: spec.get("default") for name, spec in argument_spec.items()}
                self.params, self.check_mode = {**defaults, "backend": "web", "server": ["web1"], "socket": path, "wait_timeout": 1, **params}, check

            def exit_json(self, **kwargs):
                result.update(kwargs)
                raise Exit

            def fail_json(self, msg):
                result.update(msg=msg, failed=True)
                raise Exit

        self.monkeypatch.setattr(haproxy_server, "AnsibleModule", Module)
        with pytest.raises(Exit):
            haproxy_server.main()
        return result


@pytest.fixture
def haproxy(tmp_path, monkeypatch):
    found = HAProxy(tmp_path, monkeypatch)
    yield found
    found.listener.close()


def test_drain_waits_for_the_sessions(haproxy):
    haproxy.servers["web1"]["sessions"], haproxy.ends_after = 3, 4
    result = haproxy.run(state="drain")
    assert result["changed"] and haproxy.commands == ["set server web/web1 state drain"] and haproxy.looks == 5
    assert result["servers"] == [dict(backend="web", server="web1", before="ready", after="drain", status="DRAIN", sessions=0)]
    assert (result["diff"]["before"], result["diff"]["after"]) == ("web/web1: ready\n", "web/web1: drain\n")


def test_again_changes_nothing_but_waits_all_the_same(haproxy):
    haproxy.servers["web1"].update(state="drain", status="DRAIN", sessions=1)
    haproxy.ends_after = 3
    result = haproxy.run(state="drain")
    assert not result["changed"] and haproxy.commands == [] and result["servers"][0]["sessions"] == 0 and haproxy.looks == 4


@pytest.mark.parametrize("how", ["fail", "cut"])
def test_sessions_that_do_not_end(haproxy, how):
    haproxy.servers["web1"]["sessions"], haproxy.ends_after = 2, 10 ** 9
    result = haproxy.run(state="maint", on_timeout=how)
    if how == "fail":
        assert "web/web1 is in state maint, and in 1 s not all sessions ended: web/web1 has 2" in result["msg"]
        assert len(haproxy.commands) == 1
    else:
        assert result["cut"] == 2 and haproxy.commands[-1] == "shutdown sessions server web/web1" and result["servers"][0]["sessions"] == 0


def test_without_waiting(haproxy):
    haproxy.servers["web1"]["sessions"], haproxy.ends_after = 2, 10 ** 9
    assert haproxy.run(state="drain", wait=False)["servers"][0] == dict(backend="web", server="web1", before="ready", after="drain", status="DRAIN", sessions=2)


def test_ready_waits_until_a_check_has_answered(haproxy):
    haproxy.servers["web1"].update(state="maint", status="MAINT")
    haproxy.up_after = 5
    result = haproxy.run(state="ready")
    assert result["changed"] and result["servers"][0]["status"] == "UP" and haproxy.looks == 6


def test_ready_but_never_up(haproxy):
    haproxy.servers["web1"].update(state="maint", status="MAINT")
    haproxy.up_after = 10 ** 9
    assert haproxy.run(state="ready")["msg"] == "not up after 1 s: web/web1 is UP 1/3 (L7OK)"


@pytest.mark.parametrize("names", [["web1", "web2"], ["web1"]])
def test_the_last_server_stays(haproxy, names):
    if names == ["web1"]:
        haproxy.servers["web2"]["status"] = "DOWN"
    assert "no other server serves backend web than " + ", ".join(names) in haproxy.run(state="drain", server=names)["msg"]
    assert haproxy.commands == []
    assert haproxy.run(state="drain", server=names, force=True)["changed"]


def test_check_mode(haproxy):
    result = haproxy.run(check=True, state="maint")
    assert result["changed"] and haproxy.commands == [] and result["servers"][0]["after"] == "maint" and result["servers"][0]["status"] == "UP"


def test_errors(haproxy, tmp_path):
    assert haproxy.run(state="drain", backend="x")["msg"] == "HAProxy has no backend x; there are: web"
    assert haproxy.run(state="drain", server=["x"])["msg"] == "backend web has no server x; there are: web1, web2"
    haproxy.refuse = "Permission denied\n"
    assert haproxy.run(state="drain")["msg"] == "HAProxy refused `set server web/web1 state drain`: Permission denied"
    assert "there is no socket" in haproxy.run(state="drain", socket=str(tmp_path / "none"))["msg"]
    (tmp_path / "file").write_text("")
    assert "nobody listens" in haproxy.run(state="drain", socket=str(tmp_path / "file"))["msg"]
