#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_unread_info
short_description: Files that a running unit has not read since they were written
version_added: 1.0.0
author:
  - The foobar.webstack developers (@foobar)
description:
  - A run that is cut off between a file and the handler which the file notifies leaves a unit with its old configuration,
    and later runs find the file as it should be. This module compares the times of files with those of the unit's last start and reload.
  - Files that are not there are passed over, and so are those of units that are not active, as they read everything when they start.
  - Of unit files and drop-ins systemd itself says whether it has read them (C(NeedDaemonReload)). Where one of C(restart) is not loaded at all,
    or the unit is not active, the unit has to be restarted after a daemon-reload. Somebody else's drop-in is no reason to restart an active one.
options:
  units:
    description:
      - The units, each with the C(name) that systemd knows it by, including the suffix.
      - C(reload) lists the paths that the unit reads when it starts and when it is reloaded. A reload that failed has read nothing.
      - C(restart) lists those that take effect at a start only, such as the unit's own files and drop-ins.
      - A directory stands for the names in it, so a file that was removed counts as well.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name of the unit.
        type: str
        required: true
      reload:
        description: What a reload is enough for.
        type: list
        elements: path
        default: []
      restart:
        description: What takes a restart.
        type: list
        elements: path
        default: []
requirements:
  - systemd
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: none
    description: Changes nothing.
notes:
  - Times in the future, of a clock that was set back after the file was written, are ignored until they have come.
  - A file whose time alone has changed counts as unread.
seealso:
  - module: ansible.builtin.systemd_service
"""

EXAMPLES = r"""
- name: Look for files that nginx has not read, as after a run that was cut off
  foobar.webstack.systemd_unread_info:
    units:
      - name: nginx.service
        reload: [/etc/nginx/nginx.conf]
        restart: [/etc/systemd/system/nginx.service.d/limits.conf]
  register: unread
  changed_when: unread.reload | length > 0
  notify: Reload nginx
"""

RETURN = r"""
reload:
  description: The units that have to be reloaded.
  returned: always
  type: list
  elements: str
  sample: [nginx.service]
restart:
  description: The units that have to be restarted, after a daemon-reload.
  returned: always
  type: list
  elements: str
  sample: []
files:
  description: The files that their unit has not read; none after a reload that failed.
  returned: always
  type: list
  elements: str
  sample: [/etc/nginx/nginx.conf]
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = "ActiveState,InactiveExitTimestampMonotonic,StateChangeTimestampMonotonic,ReloadResult,NeedDaemonReload,FragmentPath,DropInPaths"


def since(microseconds):
    """The present clock's time of a moment that systemd noted, also where the clock was set since; nothing is newer than what it does not know."""
    if not int(microseconds or 0):
        return float("inf")
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + int(microseconds) / 1e6


def newer(paths, moment):
    """Those that were written after it, and not in the future."""
    now, found = time.time(), []
    for path in paths:
        try:
            written = os.stat(path).st_mtime
        except OSError:
            continue
        if moment < written <= now:
            found.append(path)
    return found


def unread(unit, state):
    """Files that take a reload, files that take a restart, and whether the last reload failed."""
    active = state.get("ActiveState") in ("active", "reloading")
    restart = newer(unit["restart"], since(state["InactiveExitTimestampMonotonic"])) if active else []
    if state.get("NeedDaemonReload") == "yes":
        loaded = [state.get("FragmentPath"), *state.get("DropInPaths", "").split()] if active else []
        restart += [path for path in unit["restart"] if "/systemd/system/" in path and path not in loaded + restart and os.path.exists(path)]
    if not active:
        return [], restart, False
    reload = newer(unit["reload"], since(state["StateChangeTimestampMonotonic"]))
    return reload, restart, state.get("ReloadResult", "success") != "success" and bool(unit["reload"])


def main():
    module = AnsibleModule(
        argument_spec=dict(
            units=dict(type="list", elements="dict", required=True, options=dict(
                name=dict(type="str", required=True),
                reload=dict(type="list", elements="path", default=[]),
                restart=dict(type="list", elements="path", default=[]),
            )),
        ),
        supports_check_mode=True,
    )
    units = module.params["units"]
    if not units:
        module.exit_json(changed=False, reload=[], restart=[], files=[])
    command = [module.get_bin_path("systemctl", required=True), "show", "--property=" + PROPERTIES, "--"]
    _rc, output, _error = module.run_command(command + [unit["name"] for unit in units], check_rc=True)
    # A block each, in the order asked for.
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.strip().split("\n\n")]
    if len(blocks) != len(units):
        module.fail_json(msg="systemctl says something of %d units instead of %d. Are all names those of units, with their suffix?" % (len(blocks), len(units)))
    result = dict(changed=False, reload=[], restart=[], files=[])
    for unit, state in zip(units, blocks):
        reload, restart, failed = unread(unit, state)
        result["files"] += reload + restart
        if reload or failed:
            result["reload"].append(unit["name"])
        if restart:
            result["restart"].append(unit["name"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
