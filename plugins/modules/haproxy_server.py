#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_server
short_description: Takes servers of a HAProxy backend out of service and back
version_added: 1.0.0
author:
  - The foobar.webstack developers (@foobar)
description:
  - Sets the state of servers over HAProxy's runtime socket and waits, for a bounded time, until it has effect.
    A server that is taken out has ended its sessions, one that is taken back is up.
  - Servers that C(track) it follow its state, and their sessions count as its own.
  - Refuses to take out the last server that serves a backend.
  - The state is HAProxy's, not the configuration's. A restart forgets it unless HAProxy has a C(server-state-file).
options:
  backend:
    description: Name of the backend (or listen section).
    type: str
    required: true
  server:
    description: Names of the servers.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(ready) takes new sessions.
      - V(drain) takes no new ones and ends those that it has; health checks go on.
      - V(maint) is V(drain) without health checks.
    type: str
    choices: [ready, drain, maint]
    required: true
  socket:
    description: HAProxy's runtime socket, of level C(admin).
    type: path
    default: /run/haproxy/admin.sock
  wait:
    description: Whether to wait until the sessions have ended, or until the server is up.
    type: bool
    default: true
  wait_timeout:
    description: Seconds that this may take.
    type: int
    default: 30
  on_timeout:
    description:
      - What happens to sessions that have not ended by then. V(fail) leaves them alone and the module fails, V(cut) closes them.
      - The state stays as it was set in both cases.
    type: str
    choices: [fail, cut]
    default: fail
  force:
    description: Take out servers even if no other one serves the backend.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Says what would change, and refuses what would be refused.
  diff_mode:
    support: full
    description: Shows the state of each server.
notes:
  - Run it on each load balancer, with a loop over them in O(ignore:delegate_to).
  - An idle connection that HAProxy keeps to a server is no session.
seealso:
  - module: community.general.haproxy
"""

EXAMPLES = r"""
- name: Take this web server out, on every load balancer
  foobar.webstack.haproxy_server:
    backend: web
    server: "{{ inventory_hostname }}"
    state: drain
    wait_timeout: 60
    on_timeout: cut
  delegate_to: "{{ item }}"
  loop: "{{ groups['loadbalancers'] }}"

- name: Take it back, and wait until HAProxy finds it up
  foobar.webstack.haproxy_server:
    backend: web
    server: "{{ inventory_hostname }}"
    state: ready
  delegate_to: "{{ item }}"
  loop: "{{ groups['loadbalancers'] }}"
"""

RETURN = r"""
servers:
  description: The servers, in the order of O(server).
  returned: success
  type: list
  elements: dict
  contains:
    backend:
      description: Name of the backend.
      type: str
    server:
      description: Name of the server.
      type: str
    before:
      description: State before, V(ready), V(drain) or V(maint).
      type: str
    after:
      description: State now.
      type: str
    status:
      description: What HAProxy says of it now, for example V(UP), V(DOWN), V(DRAIN), V(MAINT) or V(no check).
      type: str
    sessions:
      description: Sessions that it and those that track it still have, queued ones included.
      type: int
  sample: [{backend: web, server: web1, before: ready, after: drain, status: DRAIN, sessions: 0}]
cut:
  description: Sessions that were closed because the time was over.
  returned: success
  type: int
  sample: 0
waited:
  description: Seconds that it took.
  returned: success
  type: float
  sample: 0.4
"""

import socket
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.foobar.webstack.plugins.module_utils import haproxy

PAUSE = 0.1
# Closed sessions are gone after a turn of HAProxy's loop.
CUT = 5


class Runtime:
    """Commands over the socket, one connection each."""

    def __init__(self, module):
        self.module = module
        self.path = module.params["socket"]

    def ask(self, command):
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(self.path)
                connection.sendall(command.encode() + b"\n")
                while True:
                    part = connection.recv(65536)
                    if not part:
                        break
                    answer += part
        except FileNotFoundError:
            self.fail("there is no socket %s: is HAProxy running here, with `stats socket %s level admin`?" % (self.path, self.path))
        except ConnectionRefusedError:
            self.fail("nobody listens on the socket %s: HAProxy is not running" % self.path)
        except PermissionError:
            self.fail("the socket %s may not be used by this user; set become: true" % self.path)
        except OSError as problem:
            self.fail("no answer over the socket %s: %s" % (self.path, problem))
        return answer.decode(errors="replace")

    def tell(self, command):
        answer = self.ask(command).strip()
        if answer:
            self.fail("HAProxy refused `%s`: %s" % (command, answer))

    def servers(self):
        try:
            return haproxy.servers(haproxy.parse_stat(self.ask("show stat")), haproxy.parse_state(self.ask("show servers state")))
        except ValueError as problem:
            self.fail("the socket %s does not speak as HAProxy's runtime socket. %s" % (self.path, problem))

    def fail(self, message):
        self.module.fail_json(msg=message)


def wait(runtime, params, done, seconds):
    """The servers, as soon as all are done or the time is over."""
    end = time.monotonic() + seconds
    while True:
        rows = haproxy.find(runtime.servers(), params["backend"], params["server"])[0]
        if all(done(row) for row in rows) or time.monotonic() >= end:
            return rows
        time.sleep(PAUSE)


def name(row):
    return "%s/%s" % (row["backend"], row["server"])


def main():
    module = AnsibleModule(
        argument_spec=dict(
            backend=dict(type="str", required=True),
            server=dict(type="list", elements="str", required=True),
            state=dict(type="str", choices=["ready", "drain", "maint"], required=True),
            socket=dict(type="path", default="/run/haproxy/admin.sock"),
            wait=dict(type="bool", default=True),
            wait_timeout=dict(type="int", default=30),
            on_timeout=dict(type="str", choices=["fail", "cut"], default="fail"),
            force=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    params = module.params
    runtime = Runtime(module)
    known = runtime.servers()
    before, problem = haproxy.find(known, params["backend"], params["server"])
    if problem:
        module.fail_json(msg=problem)
    out = params["state"] != "ready"
    change = [row for row in before if row["state"] != params["state"]]
    if out and change and not params["force"] and haproxy.is_last(known, params["backend"], params["server"]):
        module.fail_json(msg="nothing was changed: no other server serves backend %s than %s; set force: true to take it out all the same"
                             % (params["backend"], ", ".join(params["server"])))

    start, cut, after = time.monotonic(), 0, before
    if not module.check_mode:
        for row in change:
            runtime.tell("set server %s state %s" % (name(row), params["state"]))
        if params["wait"] and out:
            after = wait(runtime, params, lambda row: row["sessions"] == 0, params["wait_timeout"])
            busy = [row for row in after if row["sessions"]]
            if busy and params["on_timeout"] == "fail":
                module.fail_json(msg="%s, and in %d s not all sessions ended: %s. It stays so; on_timeout: cut closes them"
                                     % (", ".join("%s is in state %s" % (name(row), params["state"]) for row in busy), params["wait_timeout"],
                                        ", ".join("%s has %d" % (name(row), row["sessions"]) for row in busy)))
            if busy:
                cut = sum(row["sessions"] for row in busy)
                for row in busy:
                    for one in [name(row)] + row["tracked_by"]:
                        runtime.tell("shutdown sessions server %s" % one)
                after = wait(runtime, params, lambda row: row["sessions"] == 0, CUT)
        elif params["wait"]:
            after = wait(runtime, params, haproxy.is_fully_up, params["wait_timeout"])
            down = [row for row in after if not haproxy.is_fully_up(row)]
            if down:
                module.fail_json(msg="not up after %d s: %s" % (params["wait_timeout"], "; ".join(
                    "%s is %s%s" % (name(row), row["status"], row["check"] and " (%s)" % row["check"]) for row in down)))
        else:
            after = haproxy.find(runtime.servers(), params["backend"], params["server"])[0]

    wanted = [dict(row, state=params["state"]) for row in before]
    module.exit_json(
        changed=bool(change),
        servers=[dict(backend=old["backend"], server=old["server"], before=old["state"], after=new["state"], status=new["status"], sessions=new["sessions"])
                 for old, new in zip(before, wanted if module.check_mode else after)],
        cut=cut,
        waited=round(time.monotonic() - start, 1),
        diff=dict(before_header="servers of HAProxy", after_header="servers of HAProxy", before=haproxy.describe(before), after=haproxy.describe(wanted)),
    )


if __name__ == "__main__":
    main()
