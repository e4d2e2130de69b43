"""The role check without MySQL: what it answers, when, and how often it asks."""
import http.client
import importlib.machinery
import importlib.util
import pathlib
import socket
import threading
import time

import pytest

FILE = pathlib.Path(__file__).resolve().parents[3] / 'roles' / 'mysql' / 'files' / 'mysql-role-check'
PRIMARY = {'role': 'primary', 'read_only': False, 'running': False, 'orphaned': False, 'lag': None, 'reason': ''}
REPLICA = {'role': 'replica', 'read_only': True, 'running': True, 'orphaned': False, 'lag': 0, 'reason': ''}
UP, DOWN, FAILING = (state + '; name=database_writer/db1; node=app1' for state in ('UP', 'DOWN', 'UP 1/2'))


@pytest.fixture(name='check', scope='module')
def fixture_check():
    loader = importlib.machinery.SourceFileLoader('mysql_role_check', str(FILE))
    spec = importlib.util.spec_from_loader('mysql_role_check', loader)
    module = importlib.util.module_from_spec(spec)
    # No compiled file beside the source.
    loader.set_data = lambda *_args, **_kwargs: None
    loader.exec_module(module)
    return module


class Server:
    """MySQL as the watch sees it."""

    def __init__(self):
        self.state, self.questions, self.hangs = PRIMARY, 0, threading.Event()
        self.hangs.set()

    def ask(self, last=None):
        self.questions += 1
        self.hangs.wait(5)
        for error in [self.state] if isinstance(self.state, Exception) else []:
            raise error
        return last if last == self.state else dict(self.state)


@pytest.fixture(name='server')
def fixture_server():
    server = Server()
    yield server
    server.hangs.set()


@pytest.fixture(name='watch')
def fixture_watch(check, server):
    return check.Watch(server.ask)


@pytest.fixture(name='ask')
def fixture_ask(check, watch, monkeypatch):
    """Over HTTP: (status, seconds)."""
    monkeypatch.setattr(check.Handler, 'mysql', watch)
    with socket.create_server(('127.0.0.1', 0)) as listener:
        threading.Thread(target=check.serve, args=([listener.dup()], None), daemon=True).start()

        def ask(path, known=None):
            start = time.monotonic()
            connection = http.client.HTTPConnection(*listener.getsockname(), timeout=5)
            connection.request('GET', path, headers={'X-Haproxy-Server-State': known} if known else {})
            status = connection.getresponse().status
            connection.close()
            return status, time.monotonic() - start
        yield ask


def after(seconds, action):
    threading.Timer(seconds, action).start()


@pytest.mark.parametrize('state, path, query, status, reason', [
    (PRIMARY, '/primary', {}, 200, 'primary'),
    (PRIMARY, '/replica', {}, 503, 'follows no source'),
    (REPLICA, '/primary', {}, 503, 'read-only'),
    (REPLICA, '/replica', {'max_lag': 0}, 200, 'replica'),
    (dict(REPLICA, running=False, orphaned=True, lag=None), '/replica', {'orphaned': ''}, 200, 'replica'),
    (dict(REPLICA, running=False, lag=None), '/replica', {'orphaned': ''}, 503, 'its source can be reached, or replication is stopped'),
    (REPLICA, '/replica', {'orphaned': ''}, 503, 'its source can be reached, or replication is stopped'),
    (PRIMARY, '/replica', {'orphaned': ''}, 503, 'follows no source'),
    (dict(REPLICA, lag=11), '/replica', {}, 200, 'replica'),
    (dict(REPLICA, lag=11), '/replica', {'max_lag': 10}, 503, '11 s behind'),
    (dict(REPLICA, lag=None), '/replica', {}, 503, 'lag is not known'),
    (dict(REPLICA, running=False), '/replica', {}, 503, 'replication does not run'),
    # The new primary of a moment ago may still have a channel.
    (dict(REPLICA, read_only=False), '/primary', {}, 200, 'primary'),
    ({'role': 'unknown', 'reason': 'MySQL: gone'}, '/primary', {}, 503, 'MySQL: gone'),
])
def test_judge(check, state, path, query, status, reason):
    assert check.judge(path, query, state) == (status, reason)


@pytest.mark.parametrize('known, good, news', [
    ('UP', True, False), ('UP', False, True), ('DOWN', False, False), ('DOWN', True, True),
    # Half known: the next answer comes at once too, until HAProxy is sure.
    ('UP 1/2', True, True), ('UP 1/2', False, True), ('DOWN 1/2', True, True), ('no check', True, True),
])
def test_news(check, known, good, news):
    assert check.is_news(known, good) is news


@pytest.mark.parametrize('path, status', [
    ('/primary', 200), ('/replica', 503), ('/', 404), ('/replica?max_lag=soon', 400), ('/primary?hold=nan', 400), ('/primary?hold=-1', 400),
])
def test_answers_at_once(ask, path, status):
    answer, seconds = ask(path)
    assert answer == status and seconds < 0.25


@pytest.mark.parametrize('path, known, status', [
    ('/primary?hold=300', UP, 200), ('/primary?hold=300', None, 200), ('/replica?hold=300', DOWN, 503),
])
def test_what_is_known_is_held(ask, path, known, status):
    answer, seconds = ask(path, known)
    assert answer == status and 0.29 < seconds < 0.6


@pytest.mark.parametrize('path, known, status', [
    ('/primary?hold=2000', DOWN, 200), ('/primary?hold=2000', FAILING, 200), ('/replica?hold=2000', UP, 503), ('/replica?hold=2000', FAILING, 503),
])
def test_what_is_not_known_comes_at_once(ask, path, known, status):
    answer, seconds = ask(path, known)
    assert answer == status and seconds < 0.25


@pytest.mark.parametrize('path, known, status', [
    ('/primary?hold=2000', UP, 503), ('/primary?hold=2000', None, 503), ('/replica?hold=2000&max_lag=1', DOWN, 200),
])
def test_a_change_is_said_at_once(ask, server, path, known, status):
    after(0.4, lambda: setattr(server, 'state', REPLICA))
    answer, seconds = ask(path, known)
    assert answer == status and 0.4 <= seconds < 0.6


def test_mysql_that_hangs_is_said_within_the_time_limit(ask, server):
    after(0.4, server.hangs.clear)
    answer, seconds = ask('/primary?hold=2000', UP)
    assert answer == 503 and 0.7 <= seconds < 0.95
    # Who asks now waits less, and who knows already waits for the end of it.
    answer, seconds = ask('/primary?hold=2000', FAILING)
    assert answer == 503 and 0.14 < seconds < 0.28
    answer, seconds = ask('/primary?hold=400', DOWN)
    assert answer == 503 and 0.39 < seconds < 0.6
    after(0.2, server.hangs.set)
    answer, seconds = ask('/primary?hold=2000', DOWN)
    assert answer == 200 and 0.2 <= seconds < 0.4


def test_a_hiccup_of_mysql_is_no_death(ask, server):
    server.hangs.clear()
    after(0.1, server.hangs.set)
    assert ask('/primary?hold=2000', FAILING)[0] == 200
    answer, seconds = ask('/primary?hold=2000', DOWN)
    assert answer == 200 and seconds < 0.25


def test_mysql_that_hangs_when_nobody_asked(ask, server):
    ask('/primary')
    server.hangs.clear()
    answer, seconds = ask('/primary')
    assert answer == 503 and seconds < 0.5


def test_any_failure_is_an_answer(ask, server):
    for failure in (OSError(111, 'refused'), ValueError()):
        server.state = failure
        assert ask('/primary')[0] == 503
    server.state = PRIMARY
    assert ask('/primary')[0] == 200


def test_many_who_wait_are_one_question(check, server, watch):
    threads = [threading.Thread(target=watch.hold, args=(0.5, lambda state: False)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.questions <= 0.5 / check.PACE + 20
    time.sleep(2 * check.PACE)
    before = server.questions
    time.sleep(0.2)
    assert server.questions == before, 'nobody waits, nobody asks'


def test_who_is_one_of_too_many_does_not_wait(check, ask, watch):
    watch.held = check.CONNECTIONS
    assert ask('/primary?hold=2000', UP)[1] < 0.25
