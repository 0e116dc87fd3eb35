"""What the kernel holds for subscribers that stopped reading: a step of tests/acceptance/run."""

import re
from pathlib import Path

from stage import check, publish, serving, show, start_load, wait_for

# --unsent-bytes, and the one packet that the kernel fills after it looked.
BOUND_BYTES = (16 + 64) << 10


def tcp_memory_bytes():
    """Pages that all TCP sockets of this network namespace hold for what is sent and received."""
    pages = re.search(r"TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text())[1]
    return int(pages) * 4096


def held_bytes(port):
    """For each connection of the server: bytes that are not acknowledged, or not sent (tx_queue of /proc/net/tcp)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [int(row[4].split(":")[0], 16) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]


def pinned():
    """5,000 subscribers stop reading: what the kernel holds for each stays within its bound"""
    flags = ["--stall-timeout", "1h", "--history-bytes", "64MiB", "--history-bytes-total", "64MiB", "--history-events", "100000"]
    with serving(*flags) as server:
        before, resident = tcp_memory_bytes(), server.resident_mib()
        clients = start_load(server, "-n", "5000", "--scenario", "slow", "--slow-share", "100%", "--slow-bytes-per-second", "0",
                             "--slow-receive-buffer", "4096", "--duration", "60s")
        wait_for("5,000 streams", lambda: server.health()["streams"] >= 5000, seconds=120)
        idle = tcp_memory_bytes()

        def all_are_blocked():
            publish(server, "dashboard_updates", "x" * 50_000)
            return server.metric("fanfare_lagging_subscribers") >= 5000 and server.metric("fanfare_skipped_blocked_total") > 100_000

        wait_for("all of them to be blocked", all_are_blocked, seconds=120)
        held = held_bytes(int(server.url.rsplit(":", 1)[1]))
        stalled = [count for count in held if count > 0]
        show("kernel memory of TCP: before, with all idle, with all stalled",
             ", ".join(f"{count / 2**20:.1f} MiB" for count in (before, idle, tcp_memory_bytes())))
        show("bytes that the kernel holds for a stalled subscriber, least and most", f"{min(stalled)} and {max(stalled)}")
        show("resident memory, before and with all stalled", f"{resident:.1f} and {server.resident_mib():.1f} MiB")
        check("all 5,000 are stalled", len(stalled) >= 5000)
        check(f"none pins more than {BOUND_BYTES} bytes", max(stalled) <= BOUND_BYTES)
        clients[0].terminate()
        clients[0].wait(timeout=60)
