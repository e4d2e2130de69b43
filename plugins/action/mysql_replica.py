# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a clone in the background of the host and shows how far it is: it may take hours, and outlives the connection."""
from __future__ import annotations

import time

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.foobar.webstack.plugins.module_utils import mysql

MODULE = 'foobar.webstack.mysql_replica'
# Seconds between two lines, growing: a clone takes seconds or hours.
SHOW_FIRST, SHOW_LAST = 2.0, 60.0
JOB_KEYS = frozenset(('ansible_job_id', 'results_file', 'started', 'finished', 'stdout', 'stderr', 'stdout_lines', 'stderr_lines'))

display = Display()


def size(number):
    return '%.1f GiB' % (number / 2 ** 30) if number >= 2 ** 30 else '%d MiB' % (number // 2 ** 20)


def progress_text(host, clone):
    return '%s: clone from %s, %d %%, %s of %s, %s/s' % (
        host, clone['source'], clone['percent'], size(clone['bytes']), size(clone['estimated_bytes']), size(clone['bytes_per_second']))


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        seeding = args.get('state', 'started') == 'started' and not self._task.check_mode
        first = self._execute_module(module_name=MODULE, module_args=dict(args, clone_timeout=0) if seeding else args, task_vars=task_vars)
        if not seeding or first.get('failed') or (first.get('seed') or {}).get('method') != 'clone':
            return dict(result, **first)
        try:
            self._task.async_val = int(args.get('clone_timeout') or 86400) + int(args.get('timeout') or 300)
            started = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars, wrap_async=True)
        finally:
            # Else the executor would wait for the job once more.
            self._task.async_val = 0
        result.update(self._follow(started['ansible_job_id'], task_vars) if 'ansible_job_id' in started else started)
        return result

    def _follow(self, job, task_vars):
        shown, pause = time.monotonic(), SHOW_FIRST
        while True:
            time.sleep(1)
            status = self._job(job, 'status', task_vars)
            if status.get('finished') or 'started' not in status:
                break
            if time.monotonic() - shown >= pause:
                shown, pause = time.monotonic(), min(SHOW_LAST, 1.5 * pause)
                self._show(task_vars)
        self._job(job, 'cleanup', task_vars)
        return {key: value for key, value in status.items() if key not in JOB_KEYS}

    def _job(self, job, mode, task_vars):
        where = self.get_shell_option('async_dir', default='~/.ansible_async')
        return self._execute_module(module_name='ansible.builtin.async_status', task_vars=task_vars,
                                    module_args={'jid': job, 'mode': mode, '_async_dir': where})

    def _show(self, task_vars):
        login = {name: self._task.args[name] for name in mysql.login_argument_spec() if name in self._task.args}
        seen = self._execute_module(module_name='foobar.webstack.mysql_replication_info', task_vars=task_vars,
                                    module_args=dict(login, fail_on_unreachable=False))
        clone = seen.get('clone')
        if clone and clone['state'] == 'In Progress':
            display.display(progress_text(task_vars['inventory_hostname'], clone))
        elif clone and 'Too many concurrent clone' in (clone['error'] or ''):
            display.display('%s: waits for the end of another clone, of %s' % (task_vars['inventory_hostname'], clone['source']))
