"""A server that has less of its core than its heartbeats need."""

import os
import subprocess
import sys
from contextlib import contextmanager

from stage import check, finish_load, nothing_wrong, on_cores, serving, show, start_load, wait_for

STREAMS = 18_000
# The last message is published after half of this.
SECONDS = 60
MESSAGES = 4
# Against a process that takes all it can get and is not nice: about 6 % of the core, or 13,000 sends a second.
NICENESS = 12


@contextmanager
def starved(server, core):
    """Leaves the server a small share of its core."""
    os.setpriority(os.PRIO_PROCESS, int(server.pid), NICENESS)
    # It ends by itself, should this process be killed.
    spin = f"import time\nend = time.monotonic() + {2 * SECONDS}\nwhile time.monotonic() < end: pass"
    with on_cores({core}):
        glutton = subprocess.Popen([sys.executable, "-c", spin])
    try:
        yield
    finally:
        glutton.kill()
        glutton.wait()


def broadcasts_beside(heartbeat):
    """The figures of 18,000 subscribers who get a message every ten seconds from a starved server; why it closed any."""
    core, *others = sorted(os.sched_getaffinity(0))
    with on_cores({core}), serving("--heartbeat", heartbeat) as server, on_cores(set(others) or {core}):
        clients = start_load(server, "-n", str(STREAMS), "--duration", f"{SECONDS}s", "--heartbeat", "0s", "--publish-url",
                             server.url + "/publish", "--publish-rate", "0.1", "--publish-count", str(MESSAGES))
        wait_for("18,000 streams", lambda: server.health()["streams"] >= STREAMS, seconds=60)
        with starved(server, core):
            figures = finish_load(clients)
        return figures, server.closed()


def overload():
    """More heartbeats are due than the server can send: events come first, and nobody is closed"""
    runs = {"30s": broadcasts_beside("30s"), "1s": broadcasts_beside("1s")}
    due = STREAMS * SECONDS
    check("more heartbeats were due than it could send", runs["1s"][0]["heartbeats"] < 0.8 * due)
    latency = {heartbeat: figures["latency_p99_us"] for heartbeat, (figures, _) in runs.items()}
    check("events take at most twice as long, p99", latency["1s"] <= 2 * latency["30s"])
    for heartbeat, (figures, closed) in runs.items():
        print(f"  with --heartbeat {heartbeat}:")
        nothing_wrong(figures, published=STREAMS)
        check("nobody was closed", figures["disconnects"] == 0 and not set(closed) & {"stalled", "evicted", "timed_out"})
        show("heartbeats that arrived a second", f"{figures['heartbeats'] / SECONDS:,.0f}")
        show("latency, p50 and p99", f"{figures['latency_p50_us'] / 1e6:.2f} and {figures['latency_p99_us'] / 1e6:.2f} s")
        show("from publish to the last subscriber, p50", f"{figures['last_subscriber_p50_us'] / 1e6:.2f} s")
