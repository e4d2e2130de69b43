# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy says of its servers over the runtime socket."""

from __future__ import annotations

import csv

# srv_admin_state of `show servers state`: what an operator has set. A server that tracks another inherits its state (2, 16).
MAINT, DRAIN = 1, 8


def parse_stat(text):
    """`show stat`: one dictionary per line, {(backend, server): line}."""
    lines = text.strip().splitlines()
    if not lines or not lines[0].startswith("# "):
        raise ValueError("HAProxy answers: %s" % text.strip())
    return {(row["pxname"], row["svname"]): row for row in csv.DictReader([lines[0][2:]] + lines[1:])}


def parse_state(text):
    """`show servers state`: {(backend, server): ready, drain or maint}."""
    lines = text.strip().splitlines()
    if len(lines) < 2 or not lines[1].startswith("# "):
        raise ValueError("HAProxy answers: %s" % text.strip())
    names = lines[1][2:].split()
    rows = [dict(zip(names, line.split())) for line in lines[2:]]
    return {(row["be_name"], row["srv_name"]): admin_state(int(row["srv_admin_state"])) for row in rows}


def admin_state(bits):
    return "maint" if bits & MAINT else "drain" if bits & DRAIN else "ready"


def servers(stat, states):
    """[{backend, server, state, status, sessions, check, tracked_by}] in HAProxy's order. Who tracks a server goes with it, and its sessions count here."""
    tracked_by = {}
    for key, row in stat.items():
        if row.get("tracked"):
            tracked_by.setdefault(tuple(row["tracked"].split("/", 1)), []).append("%s/%s" % key)
    found = []
    for key, state in states.items():
        row = stat.get(key, {})
        rows = [row] + [stat[tuple(name.split("/", 1))] for name in tracked_by.get(key, [])]
        found.append(dict(
            backend=key[0], server=key[1], state=state, status=row.get("status") or "unknown", tracked_by=tracked_by.get(key, []),
            sessions=sum(int(one.get(column) or 0) for one in rows for column in ("scur", "qcur")), weight=int(row.get("weight") or 0),
            check=" ".join(row[name] for name in ("check_status", "last_chk") if row.get(name)),
        ))
    return found


def find(known, backend, names):
    """The servers of these names, and what is wrong with the names."""
    backends = sorted({row["backend"] for row in known})
    if backend not in backends:
        return [], "HAProxy has no backend %s; there are: %s" % (backend, ", ".join(backends) or "none with servers")
    there = {row["server"]: row for row in known if row["backend"] == backend}
    missing = [name for name in names if name not in there]
    if missing:
        return [], "backend %s has no server %s; there are: %s" % (backend, ", ".join(missing), ", ".join(there))
    return [there[name] for name in names], ""


def is_up(row):
    """UP 1/2 is on its way down, and still used; DOWN 1/2 is not used yet."""
    return row["status"].startswith("UP") or row["status"] == "no check"


def is_fully_up(row):
    """After maint a server is UP 1/3 until a check has answered."""
    return row["status"].partition(" (")[0] in ("UP", "no check")


def is_serving(row):
    return is_up(row) and row["state"] == "ready" and row["weight"] > 0


def is_last(known, backend, names):
    """Whether nothing would serve the backend any more, where something does now."""
    serving = {row["server"] for row in known if row["backend"] == backend and is_serving(row)}
    return bool(serving) and serving <= set(names)


def describe(rows):
    """For the diff."""
    return "".join("%s/%s: %s\n" % (row["backend"], row["server"], row["state"]) for row in rows)
