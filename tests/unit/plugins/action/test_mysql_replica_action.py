# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of mysql_replica: when it runs in the background, and what it shows."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from ansible_collections.foobar.webstack.plugins.action import mysql_replica as action

CLONE = {'state': 'In Progress', 'source': 'db1:3306', 'percent': 45,
         'bytes': 512 * 2 ** 20, 'estimated_bytes': 1.5 * 2 ** 30, 'bytes_per_second': 110 * 2 ** 20}


class Plugin(action.ActionModule):
    def __init__(self, args, answers, check=False):
        self._task = SimpleNamespace(args=args, check_mode=check, async_val=0)
        self.answers, self.calls = answers, []

    def get_shell_option(self, option, default=None):
        return default

    def _execute_module(self, module_name, module_args, task_vars, wrap_async=False):
        assert not wrap_async or self._task.async_val
        self.calls.append((module_name.split('.')[-1], wrap_async, module_args))
        return self.answers.pop(0)


@pytest.fixture
def run(monkeypatch):
    clock, shown = [0.0], []
    monkeypatch.setattr(action.ActionBase, 'run', lambda self, tmp, task_vars: {})
    monkeypatch.setattr(action.time, 'sleep', lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(action.time, 'monotonic', lambda: clock[0])
    monkeypatch.setattr(action.display, 'display', shown.append)

    def runner(args, answers, check=False):
        plugin = Plugin(args, answers, check)
        return plugin.run(task_vars={'inventory_hostname': 'db2'}), plugin, shown
    return runner


@pytest.mark.parametrize('args, answer, check', [
    ({'source_host': 'db1'}, {'changed': True, 'seed': {'method': 'binlog'}}, False),
    ({'source_host': 'db1'}, {'changed': True, 'seed': {'method': 'clone'}}, True),
    ({'source_host': 'db1'}, {'failed': True, 'seed': {'method': 'clone'}}, False),
    ({'state': 'absent'}, {'changed': True}, False),
])
def test_one_call_where_nothing_is_cloned(run, args, answer, check):
    result, plugin, shown = run(args, [dict(answer)], check)
    assert result == answer and len(plugin.calls) == 1 and shown == []
    assert plugin.calls[0][2].get('clone_timeout') == (None if check or 'state' in args else 0)


def test_a_clone_runs_in_the_background_and_is_shown(run):
    result, plugin, shown = run({'source_host': 'db1', 'login_user': 'root', 'clone_timeout': 100}, [
        {'seed': {'method': 'clone'}, 'changed': False}, {'ansible_job_id': 'j1', 'started': 1, 'finished': 0},
        {'started': 1, 'finished': 0}, {'started': 1, 'finished': 0}, {'clone': CLONE},
        {'started': 1, 'finished': 1, 'changed': True, 'ansible_job_id': 'j1'}, {}])
    assert result == {'changed': True}
    assert [call[:2] for call in plugin.calls] == [
        ('mysql_replica', False), ('mysql_replica', True), ('async_status', False), ('async_status', False), ('mysql_replication_info', False),
        ('async_status', False), ('async_status', False)]
    assert plugin.calls[1][2]['clone_timeout'] == 100 and plugin.calls[4][2] == {'login_user': 'root', 'fail_on_unreachable': False}
    assert shown == ['db2: clone from db1:3306, 45 %, 512 MiB of 1.5 GiB, 110 MiB/s']
    assert plugin._task.async_val == 0


def test_a_clone_that_waits_for_another_says_so(run):
    busy = dict(CLONE, state='Failed', error='Clone Donor Error: 3634 : Too many concurrent clone operations. Maximum allowed - 1..')
    shown = run({'source_host': 'db1'}, [
        {'seed': {'method': 'clone'}}, {'ansible_job_id': 'j1', 'started': 1}, {'started': 1}, {'started': 1}, {'clone': busy},
        {'started': 1, 'finished': 1, 'changed': True}, {}])[2]
    assert shown == ['db2: waits for the end of another clone, of db1:3306']


def test_a_clone_that_cannot_be_started_is_reported(run):
    result, plugin, shown = run({'source_host': 'db1'}, [{'seed': {'method': 'clone'}}, {'failed': True, 'msg': 'no space for the module'}])
    assert result == {'failed': True, 'msg': 'no space for the module'} and plugin._task.async_val == 0
