"""What the longer tests are made of: a server, a redis-server and load-test clients of their own, and checks.

A script that uses this needs cargo and, for `redis`, redis-server. Everything listens on loopback, on a free port.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "fanfare"
# FANFARE_BINARY names another one, which is taken as it is.
BINARY = Path(os.environ.get("FANFARE_BINARY", RELEASE))
TOPIC = "dashboard_updates"
STREAM = "/dashboard/stream"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, check, seconds=30):
    """Polls until check() is true or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.02)
    raise SystemExit(f"waited {seconds} s for {what}")


class Server:
    """A `fanfare serve` of its own, with what it says of itself; on a listening socket, if one is given."""

    # sd_listen_fds(3): the sockets are from 3 on, and LISTEN_PID says that they are for this process.
    PASS = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})"""

    def __init__(self, *flags, on=None, binary=BINARY):
        self.log = tempfile.TemporaryFile("w+")
        if on is None:
            command, passed = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", *flags], ()
        else:
            command = [sys.executable, "-c", self.PASS, str(on.fileno()), binary, "serve", "--dev", *flags]
            passed = (on.fileno(),)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, pass_fds=passed)
        line = self.process.stdout.readline()
        found = re.match(r"listening on (http://\S+)", line)
        if not found:
            self.log.seek(0)
            raise SystemExit(f"the server did not start:\n{self.log.read()}")
        self.url = found[1]
        self.pid = str(self.process.pid)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def health(self):
        return json.loads(self.get("/health"))

    def metric(self, name):
        """The value of a metric, labels included in the name; 0 when it is not there."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def closed(self):
        """How many connections were closed, by reason."""
        lines = re.findall(r'fanfare_closed_total\{reason="(\w+)"\} (\d+)', self.get("/metrics"))
        return {reason: int(count) for reason, count in lines if count != "0"}

    def broadcasts(self):
        """How many walks ended so far, and their seconds in all: from the log to the last subscriber's socket."""
        name = "fanfare_broadcast_duration_seconds"
        return self.metric(name + "_count"), self.metric(name + "_sum")

    def resident_mib(self):
        statm = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(statm[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def open_files(self):
        folder = f"/proc/{self.pid}/fd"
        return {name: os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}

    def leave(self):
        """Asks it to leave in order."""
        self.process.terminate()

    def stop(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(*flags, on=None):
    server = Server(*flags, on=on)
    try:
        yield server
    finally:
        server.stop()


class Redis:
    """A redis-server of its own that can be killed and started again on its port."""

    def __init__(self, *flags):
        self.flags = flags
        if not shutil.which("redis-server"):
            raise SystemExit("redis-server is missing: apt-get install redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.folder = tempfile.mkdtemp()
        self.start()

    def start(self, *more):
        flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self.flags, *more]
        self.process = subprocess.Popen(["redis-server", *flags], cwd=self.folder, stdout=subprocess.DEVNULL)
        wait_for("redis-server", lambda: self.cli("ping") == "PONG")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cli(self, *words):
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@contextmanager
def redis(*flags):
    server = Redis(*flags)
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder)


@contextmanager
def on_cores(cores):
    """What is started within runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start_load(server, *flags, path=STREAM, nice=0):
    """A load-test client, and the file its figures go to."""
    figures = tempfile.NamedTemporaryFile(suffix=".json", delete=False).name
    command = ["nice", "-n", str(nice), BINARY, "load", server.url + path, "--server-pid", server.pid, "--json", figures, "--quiet", *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL), figures


def finish_load(started, seconds=600):
    process, figures = started
    process.wait(timeout=seconds)
    with open(figures) as file:
        result = json.load(file)
    os.unlink(figures)
    return result


def load(server, *flags, path=STREAM):
    return finish_load(start_load(server, *flags, path=path))


def publish(server, topic, data, **more):
    body = json.dumps({"topic": topic, "data": data, **more}).encode()
    with urllib.request.urlopen(server.url + "/publish", body, timeout=10) as answer:
        return json.load(answer)["id"]


def read_stream(server, path, until, last_event_id=None):
    """The events of a stream until one's data is `until`, as (event, data) pairs."""
    request = urllib.request.Request(server.url + path)
    if last_event_id is not None:
        request.add_header("Last-Event-ID", last_event_id)
    events, event, data = [], "message", []
    with urllib.request.urlopen(request, timeout=20) as stream:
        for line in stream:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                data.append(line[6:])
            elif not line and data:
                events.append((event, "\n".join(data)))
                if events[-1][1] == until:
                    return events
                event, data = "message", []
    return events


FAILED = []


def check(what, holds):
    print(f"  {'ok ' if holds else 'NOT'} {what}", flush=True)
    if not holds:
        FAILED.append(what)


def show(what, value):
    print(f"      {what}: {value}", flush=True)


def nothing_wrong(figures, published=None):
    wrong = ["lost_events", "duplicated_events", "disordered_events", "corrupted_events", "unresolved_events"]
    found = {name: figures[name] for name in wrong if figures[name]}
    check("none lost, doubled, out of order or changed" + (f": {found}" if found else ""), not found)
    check(f"{figures['published_events']} events were published", figures["published_events"] > 0)
    if published is not None:
        check(f"each of {published} subscribers has each of them",
              figures["delivered_events"] == published * figures["published_events"])


def build(*features):
    """The release binary with these features, as it is now, unless FANFARE_BINARY names another one."""
    if BINARY == RELEASE:
        flags = ["--features", ",".join(features)] if features else []
        subprocess.run(["cargo", "build", "--release", "--quiet", *flags], cwd=ROOT, check=True)


def end():
    """Exits 1 if something did not hold."""
    if FAILED:
        sys.exit(f"{len(FAILED)} of these did not hold: " + "; ".join(FAILED))
