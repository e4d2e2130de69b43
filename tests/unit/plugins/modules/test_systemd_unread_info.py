# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time

import pytest

from ansible_collections.foobar.webstack.plugins.modules import systemd_unread_info as module

NOW = time.time()


def stamp(age):
    moment = NOW - age
    return time.strftime("%a %Y-%m-%d %H:%M:%S", time.gmtime(moment)) + ".%06d UTC" % int(moment % 1 * 1e6)


def state(started=100, changed=None, **more):
    return {"ActiveState": "active", "InactiveExitTimestamp": stamp(started), "StateChangeTimestamp": stamp(started if changed is None else changed), **more}


@pytest.fixture
def path(tmp_path):
    def make(age, name="file"):
        file = tmp_path / name
        file.write_text("")
        os.utime(file, (NOW - age, NOW - age))
        return str(file)
    return make


def test_the_time_that_systemd_shows():
    assert module.seconds("Thu 1970-01-01 00:00:01.250000 UTC") == 1.25
    assert module.seconds("Thu 1970-01-01 00:01:00 UTC") == 60
    assert module.seconds("") == float("inf")


@pytest.mark.parametrize("age, started, changed, reload, restart", [
    (200, 100, 100, False, False),
    (50, 100, 100, True, True),
    # A reload has read it, and is not enough for a drop-in.
    (50, 100, 20, False, True),
    (-3600, 100, 100, False, False),
])
def test_files_against_the_last_start_and_reload(path, age, started, changed, reload, restart):
    file = path(age)
    found = module.unread({"reload": [file], "restart": [file]}, state(started, changed))
    assert found == ([file] if reload else [], [file] if restart else [], False)


def test_what_is_not_there_or_does_not_run_has_nothing_to_read(path):
    unit = {"reload": [path(1), "/nowhere", ""], "restart": [path(1)]}
    assert module.unread(unit, dict(state(), ActiveState="inactive")) == ([], [], False)
    assert module.unread(unit, {"ActiveState": "active", "InactiveExitTimestamp": "", "StateChangeTimestamp": ""}) == ([], [], False)
    assert module.unread({"reload": ["/nowhere", ""], "restart": []}, state()) == ([], [], False)


def test_a_reload_that_failed_has_read_nothing(path):
    assert module.unread({"reload": [path(200)], "restart": []}, state(ReloadResult="exit-code"))[2]
    assert not module.unread({"reload": [path(200)], "restart": []}, state(ReloadResult="success"))[2]
    assert not module.unread({"reload": [], "restart": [path(200)]}, state(ReloadResult="exit-code"))[2]
