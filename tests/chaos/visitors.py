"""Visitors of the site while something happens to it: the load generator in the lab, and what it saw."""
import json
import re
import subprocess
import time

import lab

from chaos import ROOT, ROUNDS, docker, vip_moves


class Visitors:
    """They come at a fixed rate during a `with` block, and until LEAST of them came; their numbers are there after it."""

    def __init__(self, rate=40, seconds=1500, least=0):
        lab.acme_root()
        docker("cp", str(ROOT / "tests/chaos/load.py"), "client:/root/load.py")
        docker("exec", "client", "rm", "-f", "/tmp/load-stop")
        self.command = ["docker", "exec", "client", "python3", "/root/load.py", str(rate), str(seconds), str(least)]
        self.numbers, self.start = {}, time.time()

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_error):
        docker("exec", "client", "touch", "/tmp/load-stop")
        self.numbers = json.loads(self.process.communicate(timeout=900)[0])

    def vip_moves(self):
        return vip_moves(self.start)

    def nobody_failed(self, *kinds):
        """Beside other tests the machine is too busy, and a VIP moves on its own, or the app says that it has lost its database: neither counts in one round."""
        moves = self.vip_moves()
        failed = [failure for failure in self.numbers["reasons"] if failure[1] in (kinds or ("GET", "POST"))
                  if ROUNDS > 1 or not (any(abs(failure[0] - move) < 2 for move in moves) or re.search(r"status 503 for \S+ \S+ app", failure[2]))]
        assert failed == [], (failed[:10], moves)
        assert self.numbers["GET"]["requests"] > 100 and self.numbers["POST"]["requests"] > 25


def figures(numbers):
    return {f"{kind.lower()}_{name}": value for kind in ("GET", "POST") for name, value in numbers[kind].items()}
