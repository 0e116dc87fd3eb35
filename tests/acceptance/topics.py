"""The memory that topics leave when they are gone: a step of tests/acceptance/run."""

import json
import time
import urllib.request

from stage import check, serving, show, wait_for

TOPICS = 100_000
BATCH = 100
# Of the memory before, what may be more when the topics are gone.
LEFT_MAX = 0.10


def publish_once(server, first, count):
    """Publishes one event to each of `count` topics. Returns the id of the last one."""
    for start in range(first, first + count, BATCH):
        events = [{"topic": f"topic-{n}", "data": "x" * 100} for n in range(start, min(start + BATCH, first + count))]
        with urllib.request.urlopen(server.url + "/publish", json.dumps(events).encode(), timeout=30) as answer:
            last = json.load(answer)["ids"][-1]
    return last


def wait_until_forgotten(server):
    """Until the topics have vanished, and free memory was returned: what was held is looked at once a second."""
    wait_for("all topics to vanish", lambda: server.metric("fanfare_topics") < 10, seconds=60)
    resident = [server.resident_mib()]

    def is_steady():
        time.sleep(3)
        resident.append(server.resident_mib())
        return abs(resident[-1] - resident[-2]) < 0.1

    wait_for("memory to be steady", is_steady, seconds=60)


def vanish():
    """100,000 topics with an event each come and expire: their memory is returned, and no client gets a false gap"""
    with serving("--history-age", "5s") as server:
        # The code that publishes, answers and forgets is in memory from here on.
        publish_once(server, 0, 1000)
        wait_until_forgotten(server)
        before = server.resident_mib()
        last = publish_once(server, 1000, TOPICS)
        while_there = server.resident_mib()
        wait_until_forgotten(server)
        # Memory is returned once more when the timers of the publisher's connections are gone.
        time.sleep(120)
        after = server.resident_mib()
        show("resident memory before, with 100,000 topics, and after", f"{before:.1f}, {while_there:.1f} and {after:.1f} MiB")
        show("bytes for a topic with an event", f"{(while_there - before) * 2**20 / TOPICS:.0f}")
        show("after to before", f"{after / before:.3f}")
        check(f"memory is within {LEFT_MAX:.0%} of what it was", after <= (1 + LEFT_MAX) * before)
        run, number = last.rsplit("-", 1)
        number = int(number)
        for topic, stands_at, expected in [
            (f"topic-{1000 + TOPICS - 1}", number, []),
            (f"topic-{1000 + TOPICS - 1}", number - 1, ["gap"]),
            (f"topic-{1000 + TOPICS // 2}", number, []),
            (f"topic-{1000 + TOPICS // 2}", 1, ["gap"]),
        ]:
            found = after_return(server, topic, f"{run}-{stands_at}")
            check(f"a client of {topic} that stands at {stands_at} gets {'a gap' if expected else 'no gap'}", found == expected)


def after_return(server, topic, last_event_id):
    """The types of what a client gets that returns with this id, before an event that is published now."""
    request = urllib.request.Request(f"{server.url}/events?topic={topic}", headers={"Last-Event-ID": last_event_id})
    with urllib.request.urlopen(request, timeout=20) as stream:
        types, event = [], "message"
        body = json.dumps({"topic": topic, "data": "the end"}).encode()
        urllib.request.urlopen(server.url + "/publish", body, timeout=10).close()
        for line in stream:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                event = line[7:]
            elif line == "data: the end":
                return types
            elif line.startswith("data: "):
                types.append(event)
                event = "message"
    return types
