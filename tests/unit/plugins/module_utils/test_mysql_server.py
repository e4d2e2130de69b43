# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.foobar.webstack.plugins.module_utils import mysql_server

A, B = '%s-1111-1111-1111-111111111111' % ('a' * 8), '%s-2222-2222-2222-222222222222' % ('b' * 8)


def members(gtids):
    found = set()
    for group in filter(None, gtids.split(',')):
        uuid, first, last = group.replace(':', '-').rsplit('-', 2)
        found.update((uuid.lower(), number) for number in range(int(first), int(last) + 1))
    return found


class Db:
    """A server whose GTID sets are made of UUID:FIRST-LAST."""

    def __init__(self, uuid, executed, purged=''):
        self.uuid, self.gtid = uuid, {'executed': executed, 'purged': purged}

    def row(self, _statement):
        return dict(self.gtid)

    def value(self, statement, sets=()):
        if 'server_uuid' in statement:
            return self.uuid
        left = members(sets[0]) - members(sets[1])
        return ','.join('%s:%s-%s' % (uuid, number, number) for uuid, number in sorted(left))


def gaps(here, there, received=''):
    return mysql_server.gtid_gaps(Db(B, here), Db(A, there), A, received, pause=0)


def test_what_a_server_wrote_itself_and_lacks():
    found = gaps('%s:1-9,%s:1-2' % (A, B), '%s:1-9,%s:1-4' % (A, B.upper()))
    assert found['missing_own'] == '%s:3-3,%s:4-4' % (B, B) and found['errant'] == ''


def test_what_is_only_on_its_way_is_not_missing():
    found = gaps('%s:1-7,%s:1-2' % (A, B), '%s:1-9,%s:1-2' % (A, B))
    assert found['missing'] == '%s:8-8,%s:9-9' % (A, A) and found['missing_own'] == ''
