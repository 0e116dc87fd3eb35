"""The acceptance steps about deploys: a restart and a drain, with a socket that outlives the servers on it."""

import json
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

from crowd import Crowd, tenths
from stage import ROOT, Server, check, finish_load, redis, serving, show, start_load, wait_for


@contextmanager
def held_socket():
    """A listening socket that outlives the servers on it, as systemd holds one."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        held.listen(65535)
        yield held


class Knocking:
    """Somebody who connects again and again, and counts how often that was refused."""

    def __init__(self, address):
        self.attempts, self.failures, self.stopped = 0, [], False
        self.thread = threading.Thread(target=self.knock, args=(address,))
        self.thread.start()

    def knock(self, address):
        while not self.stopped:
            self.attempts += 1
            try:
                socket.create_connection(address, timeout=60).close()
            except OSError as error:
                self.failures.append(error)
            time.sleep(0.005)

    def stop(self):
        self.stopped = True
        self.thread.join()


class Page:
    """A page in Chromium with one EventSource that nobody helps (tests/clients/page.mjs), and what happens to it."""

    def __init__(self):
        folder = ROOT / "tests/clients"
        if not (folder / "node_modules/.package-lock.json").exists():
            raise SystemExit("this step needs what tests/setup installs")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(["node", "page.mjs"], cwd=folder, **pipes)
        self.happened = []
        self.origin = json.loads(self.process.stdout.readline())["data"]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.happened.append(json.loads(line))

    def open(self, url):
        self.process.stdin.write(url + "\n")
        self.process.stdin.flush()

    def count(self, kind):
        return sum(one["kind"] == kind for one in self.happened)

    def stop(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def chromium():
    page = Page()
    try:
        yield page
    finally:
        page.stop()


def restart():
    """A restart under load with socket activation: nobody refused, everybody back by himself, told of exactly one gap"""
    flags = ["--drain", "5s", "--retry", "1s"]
    with redis() as broker, held_socket() as held, chromium() as page:
        flags += ["--redis-url", broker.url, "--cors-origin", page.origin]
        first = Server(*flags, on=held)
        wait_for("the subscription", lambda: first.health()["status"] == "ok")
        page.open(first.url + "/dashboard/stream")
        wait_for("the page's stream", lambda: page.count("open") == 1)
        clients = start_load(first, "-n", "5000", "--redis-url", broker.url, "--publish-rate", "20", "--duration", "40s")
        wait_for("5,000 streams and the page", lambda: first.health()["streams"] >= 5001)
        wait_for("the page's first event", lambda: page.count("message") > 0)
        knocking = Knocking(held.getsockname())
        first.leave()
        first.process.wait(timeout=60)
        with serving(*flags, on=held) as second:
            wait_for("everybody's return", lambda: second.health()["streams"] >= 5001, seconds=60)
            knocking.stop()
            seen = page.count("message")
            wait_for("the page's next event", lambda: page.count("message") > seen)
            figures = finish_load(clients)
            closed = second.closed()
    check(f"none of {knocking.attempts} other attempts to connect was refused meanwhile",
          knocking.attempts > 100 and not knocking.failures)
    check("nor one of the subscribers'", figures["errors"] == 0 and figures["refused_clients"] == 0)
    check("every subscriber was sent away once and came back", figures["disconnects"] == figures["reconnects"] == 5000)
    check("and was told of exactly one gap", figures["gap_events"] == 5000)
    check("nothing was lost unannounced, doubled or out of order",
          all(figures[name] == 0 for name in ["lost_events", "duplicated_events", "disordered_events"]))
    check("the page's EventSource came back, too", page.count("open") == 2 and page.count("gap") == 1)
    check("and was never closed for good", all(one.get("ready_state") != 2 for one in page.happened))
    show("closed by the second server, by reason", closed)


def drain():
    """A drain of 10,000 subscribers: closings spread over its ten seconds, and their returns"""
    flags = ["--drain", "10s", "--retry", "1s", "--max-connections", "12000"]
    with held_socket() as held:
        crowd = Crowd(held.getsockname(), "/events?topic=quiet", 10_000)

        def turn_until(what, holds, seconds=120):
            def turn():
                crowd.turn()
                return holds()
            wait_for(what, turn, seconds)

        first = Server(*flags, on=held)
        turn_until("10,000 streams", lambda: crowd.streams() == 10_000)
        first.leave()
        turn_until("the end of the drain", lambda: first.process.poll() is not None)
        with serving(*flags, on=held):
            turn_until("everybody's return", lambda: crowd.streams() == 10_000)
            # The gap comes behind the head, perhaps in a read of its own.
            turn_until("what they are told", lambda: all(one.gaps for one in crowd.subscribers))
    closings = [one.closed[0][0] for one in crowd.subscribers]
    told = [at + retry for at, retry in (one.closed[0] for one in crowd.subscribers)]
    returns = [one.opened[1] for one in crowd.subscribers]
    check("each was closed once and came back by itself",
          all(len(one.closed) == 1 and len(one.opened) == 2 and one.refused == 0 for one in crowd.subscribers))
    check("and was told of one gap", all(one.gaps == 1 for one in crowd.subscribers))
    check("nobody was told to come back before the last was closed", min(told) > max(closings))
    for what, times in [("closings", closings), ("returns as told", told), ("returns", returns)]:
        counts = tenths(times)
        show(f"{what}, by tenths of {max(times) - min(times):.1f} s", counts)
        if times is not returns:  # when they arrive is this machine's affair, too
            check(f"{what}: no tenth has more than twice the mean, nor less than a quarter of it",
                  max(counts) <= 2000 and min(counts) >= 250)
