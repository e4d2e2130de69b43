"""Requests that no browser sends: ambiguous ones, which two servers could read differently, slow ones and big ones, at the edge."""

import lab
import pytest

# Sends bytes over TLS, HTTP/1.1, and prints the status, the number of answers, and the seconds until the first one.
SEND = r"""
import socket, ssl, sys, time
context = ssl._create_unverified_context()
context.set_alpn_protocols(["http/1.1"])
connection = context.wrap_socket(socket.create_connection((sys.argv[1], 443), timeout=90), server_hostname="www.foobar.com")
begun, answer, seconds = time.monotonic(), b"", None
connection.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
while block := connection.recv(65536):
    seconds = seconds or time.monotonic() - begun
    answer += block
print((answer.split() or [b"", b"0"])[1].decode(), answer.count(b"HTTP/1.1 "), round(seconds or time.monotonic() - begun, 1))
"""


def send(head, body=""):
    """(status, number of answers, seconds)"""
    request = r"POST / HTTP/1.1\r\nHost: www.foobar.com\r\n" + head + r"\r\n" + body
    status, answers, seconds = lab.on("client").check_output("python3 -c %s %s %s", SEND, lab.VIP, request).split()
    return int(status), int(answers), float(seconds)


@pytest.mark.parametrize("head", [
    r"Content-Length: 5\r\nContent-Length: 6\r\n",
    r"Content-Length: 5, 6\r\n",
    r"Content-Length: +5\r\n",
    r"Content-Length: 0x5\r\n",
    r"Content-Length : 5\r\n",
    r"Transfer-Encoding : chunked\r\n",
    r"Transfer-Encoding: chunked, identity\r\n",
    r"Transfer-Encoding: xchunked\r\n",
    r"Transfer-Encoding: \x0bchunked\r\n",
    r"X: a\x00b\r\n",
    r"X: a\rTransfer-Encoding: chunked\r\n",
    r"Host: another.example\r\nContent-Length: 5\r\n",
])
def test_what_could_be_read_in_two_ways_is_refused(head):
    status, answers, _ = send(head, r"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: www.foobar.com\r\n\r\n")
    assert (status, answers) in ((400, 1), (422, 1), (501, 1))


def test_a_length_beside_chunks_does_not_count():
    """RFC 9112, 6.3: chunks win, and the connection ends, so that nothing after them can be read as part of it."""
    status, answers, _ = send(r"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", r"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: www.foobar.com\r\n\r\n")
    assert answers == 1 and status < 500


def test_a_header_that_comes_slowly():
    status, _, seconds = send("X: slow")
    assert status == 408 and 9 <= seconds <= 13


@pytest.mark.long
def test_a_body_that_comes_slowly():
    _, _, seconds = send(r"Content-Length: 100\r\n", "x")
    assert 20 <= seconds <= 40


def test_a_body_that_is_too_big():
    assert send(r"Content-Length: 11000000\r\n")[0] == 413
