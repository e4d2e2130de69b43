# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import haproxy

# Written by HAProxy 3.0.11, with fewer columns.
STAT = """\
# pxname,svname,qcur,scur,status,weight,check_status,last_chk,
web,web1,0,3,UP,1,L7OK,,
web,web2,1,2,DOWN 1/2,1,L7STS,"HTTP status ""502"", so it is down",
web,BACKEND,0,5,UP,1,,,
pool,one,0,0,no check,1,,,
pool,two,0,0,MAINT,1,,,

"""
STATE = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight
6 web 1 web1 198.19.0.23 2 0 1
6 web 2 web2 198.19.0.24 0 8 1
7 pool 1 one 198.19.0.25 2 0 1
7 pool 2 two 198.19.0.26 0 5 1

"""


def known():
    return haproxy.servers(haproxy.parse_stat(STAT), haproxy.parse_state(STATE))


def test_servers():
    rows = known()
    assert [(row["backend"], row["server"], row["state"], row["status"], row["sessions"]) for row in rows] == [
        ("web", "web1", "ready", "UP", 3), ("web", "web2", "drain", "DOWN 1/2", 3),
        ("pool", "one", "ready", "no check", 0), ("pool", "two", "maint", "MAINT", 0)]
    assert rows[1]["check"] == 'L7STS HTTP status "502", so it is down'


def test_who_tracks_a_server_goes_with_it():
    stat = "# pxname,svname,qcur,scur,status,weight,tracked,\nweb,web1,0,3,UP,1,,\nweb_once,web1,1,2,UP,1,web/web1,\nweb,web2,0,4,UP,1,,\n"
    state = "1\n# be_name srv_name srv_admin_state\nweb web1 0\nweb_once web1 2\nweb web2 0\n"
    rows = haproxy.servers(haproxy.parse_stat(stat), haproxy.parse_state(state))
    assert [(row["sessions"], row["tracked_by"]) for row in rows] == [(6, ["web_once/web1"]), (3, []), (4, [])]


@pytest.mark.parametrize("parse", [haproxy.parse_stat, haproxy.parse_state])
@pytest.mark.parametrize("answer", ["", "Permission denied\n", "Unknown command\nmore\n"])
def test_other_answers(parse, answer):
    with pytest.raises(ValueError):
        parse(answer)


@pytest.mark.parametrize("bits, state", [(0, "ready"), (1, "maint"), (8, "drain"), (9, "maint"), (2, "ready"), (16, "ready"), (5, "maint")])
def test_admin_state(bits, state):
    assert haproxy.admin_state(bits) == state


def test_find():
    assert [row["server"] for row in haproxy.find(known(), "web", ["web2", "web1"])[0]] == ["web2", "web1"]
    assert haproxy.find(known(), "nope", ["web1"])[1] == "HAProxy has no backend nope; there are: pool, web"
    assert haproxy.find(known(), "web", ["web1", "x"])[1] == "backend web has no server x; there are: web1, web2"
    assert "none with servers" in haproxy.find([], "web", ["web1"])[1]


@pytest.mark.parametrize("status, up, fully", [("UP", True, True), ("UP 1/3", True, False), ("DOWN 1/2", False, False), ("no check", True, True),
                                               ("UP (via web/web1)", True, True), ("MAINT", False, False)])
def test_is_up(status, up, fully):
    row = dict(status=status, state="ready", weight=1)
    assert (haproxy.is_up(row), haproxy.is_fully_up(row)) == (up, fully)


def test_is_serving():
    assert haproxy.is_serving(dict(status="UP", state="ready", weight=1))
    assert not haproxy.is_serving(dict(status="UP", state="drain", weight=1))
    assert not haproxy.is_serving(dict(status="UP", state="ready", weight=0))


def test_is_last():
    rows = known()
    assert haproxy.is_last(rows, "web", ["web1"])
    assert not haproxy.is_last(rows, "web", ["web2"])
    rows[1].update(state="ready", status="UP")
    assert not haproxy.is_last(rows, "web", ["web1"])
    assert haproxy.is_last(rows, "web", ["web1", "web2"])
    # What serves nobody already is no loss.
    rows[0]["status"] = rows[1]["status"] = "DOWN"
    assert not haproxy.is_last(rows, "web", ["web1"])


def test_describe():
    assert haproxy.describe(known()[:2]) == "web/web1: ready\nweb/web2: drain\n"
