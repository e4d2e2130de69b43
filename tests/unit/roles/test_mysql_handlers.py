# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who makes the writable server writable again after a restart: its role keeper where others follow it, else the handler."""
from __future__ import annotations

import os
import pathlib
import subprocess

import jinja2
import pytest
import yaml

HANDLERS = pathlib.Path(__file__).resolve().parents[3] / 'roles' / 'mysql' / 'handlers' / 'main.yml'
SCRIPT = next(item['ansible.builtin.shell'] for item in yaml.safe_load(HANDLERS.read_text(encoding='utf-8')) if item['name'].startswith('Restart the writable'))
# Commands that note how they were called; a server is writable when the file says so, which the keeper writes as soon as mysqld is restarted, or never.
COMMANDS = {
    'systemctl': 'echo "systemctl $*" >> log; if [ "$1" = start ] && [ -e resumes ]; then echo 0 > read_only; fi',
    'mysql': 'case "$*" in *SELECT*) cat read_only;; *) echo "mysql $*" >> log;; esac',
    'journalctl': "echo 'read-only: db2 is the primary'",
    'sleep': ':',
}


@pytest.fixture(name='run')
def fixture_run(tmp_path):
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text('#!/bin/sh\n%s\n' % text, encoding='ascii')
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'read_only').write_text('1\n', encoding='ascii')

    def runner(resumes=True, **variables):
        if resumes:
            (tmp_path / 'resumes').touch()
        values = {'mysql_role_keeper': True, '__mysql_role_keeper_unit': {'stat': {'exists': True}}, '__mysql_was_followed': True, '__mysql_lossless': True,
                  'mysql_semi_sync': True, '__mysql_was_strict': True, 'inventory_hostname': 'db1'}
        script = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(SCRIPT).render(dict(values, **variables))
        result = subprocess.run(['/bin/sh', '-c', script], cwd=tmp_path, capture_output=True, text=True, check=False,
                                env={'PATH': '%s:%s' % (tmp_path, os.environ['PATH'])})
        return result.returncode, (tmp_path / 'log').read_text(encoding='utf-8').splitlines(), result.stderr
    return runner


def test_the_role_keeper_gives_the_role_back(run):
    assert run() == (0, ['systemctl restart mysql.service', 'systemctl start mysql-role-keeper.service'], '')


def test_a_server_that_was_replaced_meanwhile_is_not_made_writable(run):
    code, log, text = run(resumes=False)
    assert code == 1 and not [line for line in log if line.startswith('mysql')]
    assert 'db1 was restarted and is still read-only' in text and 'its role keeper says: read-only: db2 is the primary' in text


@pytest.mark.parametrize('variables', [
    {'mysql_role_keeper': False},
    # Installed in this very run: it does not run yet.
    {'__mysql_role_keeper_unit': {'stat': {'exists': False}}},
    {'__mysql_was_followed': False},
])
def test_without_a_keeper_or_followers_the_handler_does(run, variables):
    code, log, _stderr = run(**variables)
    assert code == 0 and log == ['systemctl restart mysql.service', "mysql --execute SET GLOBAL rpl_semi_sync_source_wait_no_replica = ON",
                                 'mysql --execute SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF']


def test_a_server_that_did_not_wait_for_replicas_does_not_begin_to(run):
    assert not [line for line in run(__mysql_was_followed=False, __mysql_was_strict=False)[1] if 'semi_sync' in line]
