#!/usr/bin/python3
"""Makes the requests of a JSON list on stdin one after the other, each over a connection of its own, and prints the answers."""
import base64
import http.client
import json
import socket
import ssl
import sys

PKI = "/etc/webstack/pki/"


def ask(to, path="/", host="www.foobar.com", method="GET", headers=None, tls=True, cert="lb1", sni=None, body=None):
    try:
        sock = socket.create_connection((to, 443 if tls else 80), 15)
        if tls:
            context = ssl.create_default_context(cafile=PKI + "ca.crt")
            context.check_hostname = False
            if cert:
                context.load_cert_chain(PKI + cert + ".crt", PKI + cert + ".key")
            sock = context.wrap_socket(sock, server_hostname=sni)
        connection = http.client.HTTPConnection(to)
        connection.sock = sock
        connection.request(method, path, body, dict({"Host": host}, **(headers or {})))
        answer = connection.getresponse()
        names = [name.lower() for name, _value in answer.getheaders()]
        return {"status": answer.status, "headers": {k.lower(): v for k, v in answer.getheaders()}, "repeated": len(names) - len(set(names)),
                "body": base64.b64encode(answer.read()).decode()}
    except (OSError, http.client.HTTPException) as error:
        return {"status": None, "error": repr(error)}


json.dump([ask(**request) for request in json.load(sys.stdin)], sys.stdout)
