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
    return str(int((time.clock_gettime(time.CLOCK_MONOTONIC) - age) * 1e6))


def state(started=100, changed=None, **more):
    return {"ActiveState": "active", "InactiveExitTimestampMonotonic": stamp(started),
            "StateChangeTimestampMonotonic": stamp(started if changed is None else changed), "NeedDaemonReload": "no", **more}


@pytest.fixture
def path(tmp_path):
    def make(age, name="file"):
        file = tmp_path / name
        file.write_text("")
        os.utime(file, (NOW - age, NOW - age))
        return str(file)
    return make


def test_times_of_systemd_as_those_of_the_clock():
    assert module.since(stamp(100)) == pytest.approx(time.time() - 100, abs=1)
    assert module.since("0") == module.since("") == float("inf")


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
    assert module.unread(unit, dict(state(), InactiveExitTimestampMonotonic="0", StateChangeTimestampMonotonic="0")) == ([], [], False)
    assert module.unread({"reload": ["/nowhere", ""], "restart": []}, state()) == ([], [], False)


def test_a_reload_that_failed_has_read_nothing(path):
    assert module.unread({"reload": [path(200)], "restart": []}, state(ReloadResult="exit-code"))[2]
    assert not module.unread({"reload": [path(200)], "restart": []}, state(ReloadResult="success"))[2]
    assert not module.unread({"reload": [], "restart": [path(200)]}, state(ReloadResult="exit-code"))[2]


def test_units_that_systemd_has_not_read(tmp_path):
    directory = tmp_path / "systemd/system/a.service.d"
    directory.mkdir(parents=True)
    ours = str(directory / "ours.conf")
    unit, stale = {"reload": [], "restart": [ours, "/etc/a.conf"]}, dict(state(), NeedDaemonReload="yes", FragmentPath="/lib/systemd/system/a.service")
    assert module.unread(unit, stale) == ([], [], False)
    (directory / "ours.conf").write_text("")
    os.utime(ours, (NOW - 200, NOW - 200))
    assert module.unread(unit, stale) == module.unread(unit, dict(stale, ActiveState="failed")) == ([], [ours], False)
    # It is the drop-in of somebody else that is new.
    assert module.unread(unit, dict(stale, DropInPaths="/run/x.conf " + ours)) == ([], [], False)
    assert module.unread(unit, dict(stale, DropInPaths=ours, ActiveState="inactive")) == ([], [ours], False)
    assert module.unread(unit, dict(stale, NeedDaemonReload="no")) == ([], [], False)
