"""Thousands of EventSources in one loop, which behave as browsers do and remember when what happened to each."""

import re
import selectors
import socket
import time

REQUEST = "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{last_id}\r\n"


class Subscriber:
    """One EventSource: what it knows to come back, and its times."""

    def __init__(self):
        self.last_id = None
        self.retry = 3.0
        self.socket = None
        self.unread = b""
        self.opened = []  # when a stream began
        self.closed = []  # when one ended, and how long it was told to wait then
        self.gaps = 0
        self.refused = 0


class Crowd:
    """All of them. `turn` is to be called for as long as they shall live."""

    def __init__(self, address, path, count):
        self.address, self.path = address, path
        self.selector = selectors.DefaultSelector()
        self.subscribers = [Subscriber() for _ in range(count)]
        self.absent = [(0.0, subscriber) for subscriber in self.subscribers]

    def streams(self):
        return sum(len(one.opened) > len(one.closed) for one in self.subscribers)

    def turn(self):
        now = time.monotonic()
        due = [one for at, one in self.absent if at <= now]
        self.absent = [(at, one) for at, one in self.absent if at > now]
        for subscriber in due:
            self.connect(subscriber)
        for key, _ in self.selector.select(timeout=0.02):
            self.read(key.data)

    def connect(self, subscriber):
        last_id = f"Last-Event-ID: {subscriber.last_id}\r\n" if subscriber.last_id else ""
        subscriber.unread = b""
        try:
            subscriber.socket = socket.create_connection(self.address, timeout=60)
            subscriber.socket.sendall(REQUEST.format(path=self.path, last_id=last_id).encode())
        except OSError:
            subscriber.refused += 1
            self.absent.append((time.monotonic() + subscriber.retry, subscriber))
            return
        subscriber.socket.setblocking(False)
        self.selector.register(subscriber.socket, selectors.EVENT_READ, subscriber)

    def read(self, subscriber):
        try:
            received = subscriber.socket.recv(65536)
        except OSError:
            received = b""
        now = time.monotonic()
        if not received:
            return self.end(subscriber, now)
        if not subscriber.unread and len(subscriber.opened) == len(subscriber.closed):
            if not received.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"this is no stream: {received.decode()}")
            subscriber.opened.append(now)
        *blocks, subscriber.unread = (subscriber.unread + received).split(b"\n\n")
        for block in blocks:
            fields = dict(re.findall(r"^(\w+): ?(.*?)\r?$", block.decode(), re.MULTILINE))
            subscriber.last_id = fields.get("id", subscriber.last_id)
            subscriber.retry = int(fields["retry"]) / 1000 if "retry" in fields else subscriber.retry
            subscriber.gaps += fields.get("event") == "gap"

    def end(self, subscriber, now):
        self.selector.unregister(subscriber.socket)
        subscriber.socket.close()
        if len(subscriber.opened) > len(subscriber.closed):
            subscriber.closed.append((now, subscriber.retry))
        self.absent.append((now + subscriber.retry, subscriber))


def tenths(times):
    """How many of some times fall into each tenth of the span that they fill."""
    first, last = min(times), max(times)
    counts = [0] * 10
    for at in times:
        counts[min(9, int(10 * (at - first) / (last - first)))] += 1
    return counts
