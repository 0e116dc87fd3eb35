"""Nodes on a durable bus behind HAProxy, and a load test that judges what their subscribers receive."""

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from kafka import TOPIC
from stage import BINARY, Server, free_port, show, wait_for

TOPICS = ["prices", "orders", "notices"]
HAPROXY = """
global
  maxconn 9900
defaults
  mode http
  timeout connect 1s
  timeout client 2m
  timeout server 2m
  option redispatch
  retries 3
frontend public
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  balance leastconn
  option httpchk GET /health/ready
  http-check expect status 200
  default-server inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
{servers}
  # As in docs/proxies/haproxy.cfg: an EventSource gives up on another status than 200.
  http-error status 502 content-type text/event-stream hdr X-Own yes lf-string "retry: %[rand(1000)]\\n\\n"
  http-error status 503 content-type text/event-stream hdr X-Own yes lf-string "retry: %[rand(1000)]\\n\\n"
  acl is_own res.hdr(X-Own) yes
  http-after-response set-status 200 if is_own METH_GET
"""


def bus(url):
    """The bus that the engine at this URL keeps."""
    return {"postgres": "postgres", "kafka": "kafka"}.get(url.partition(":")[0], "redis-stream")


def engine(url):
    """The options that name the engine of a bus."""
    if bus(url) == "kafka":
        return ["--kafka-brokers", url.removeprefix("kafka://"), "--kafka-topic", TOPIC]
    return ["--postgres-url" if bus(url) == "postgres" else "--redis-url", url]


def install(url, binary=BINARY):
    """Installs a bus. The mock cluster of Kafka can't create a topic for a client, and has it already."""
    if bus(url) == "kafka":
        return
    subprocess.run([binary, "bus", "install", *engine(url)], check=True, stdout=subprocess.DEVNULL)


class Node:
    """A server on an address of its own that can be killed and started again. Its bus is in the engine at this URL."""

    def __init__(self, url, *flags, binary=BINARY):
        self.address = f"127.0.0.1:{free_port()}"
        # The mock cluster of Kafka does not show the topic's settings, which say what may be lost.
        accepted = ["--kafka-accept-loss"] if bus(url) == "kafka" else []
        self.flags = ["--listen", self.address, *engine(url), "--bus", bus(url), *accepted, *flags]
        self.binary = binary
        self.start()

    def start(self):
        self.server = Server(*self.flags, binary=self.binary)
        wait_for("the node", self.is_ready)

    def kill(self):
        self.server.stop()

    def is_ready(self):
        return self.server.health()["status"] in ("ok", "degraded") and self.server.health()["sources"]["bus"]["up"]


def balance(nodes, folder):
    """HAProxy in front of the nodes, and its address."""
    port = free_port()
    servers = "\n".join(f"  server n{index} {node.address} check" for index, node in enumerate(nodes))
    config = Path(folder, "haproxy.cfg")
    config.write_text(HAPROXY.format(port=port, servers=servers))
    proxy = subprocess.Popen(["haproxy", "-f", str(config), "-q"])
    wait_for("haproxy", lambda: is_listening(port))
    return proxy, f"127.0.0.1:{port}"


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def judge(address, options, trouble, rest=10):
    """Runs the load test, with trouble until `rest` seconds before its end; returns its figures."""
    query = "&".join(f"topic={topic}" for topic in TOPICS)
    topics = [flag for topic in TOPICS for flag in ("--publish-topic", topic)]
    seconds = options.minutes * 60
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        clients = subprocess.Popen([
            BINARY, "load", f"http://{address}/events?{query}", "-n", str(options.subscribers), "--duration", f"{seconds:.0f}s",
            "--publish-url", f"http://{address}/publish", "--publish-rate", options.rate, *topics, "--json", file.name,
            "--quiet", "--no-default-thresholds",
        ], stdout=subprocess.DEVNULL)
        stop_at, kills = time.monotonic() + seconds, 0
        time.sleep(min(10, seconds / 4))
        while time.monotonic() < stop_at - rest and clients.poll() is None:
            trouble()
            kills += 1
        clients.wait(timeout=seconds + 120)
        show("times of trouble", kills)
        return json.load(file)
