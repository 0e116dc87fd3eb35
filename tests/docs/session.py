"""Runs the blocks of one page after one another, as a reader would, in a folder and on ports of their own.

Only commands that `command.py` knows or `PLAIN` lists are on the PATH, so a page can change nothing of this host.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Commands that run as they are: they change only files of the folder.
PLAIN = "bash cat cut date echo env false grep head id ls mkdir node openssl printf sed sleep sort tail timeout tr true wc".split()
# Commands that `command.py` runs in a way that suits a test.
WRAPPED = "cargo curl fanfare python3 redis-cli sudo".split()
# Names of hosts in the documentation that stand for this one.
HOSTS = ["redis.internal"]
# A port of this host, in an address or in a program.
LOCAL = re.compile(r"""(\b(?:localhost|127\.0\.0\.1)(?::|", ))(\d+)\b""")
PORT_MIN = 10_000
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
BLOCK_SECONDS = 120
# How long an output may take that a page shows; DOCS_SECONDS sets another time.
OUTPUT_SECONDS = float(os.environ.get("DOCS_SECONDS", 60))


class Session:
    def __init__(self, binary: str):
        self.binary = binary
        self.folder = Path(tempfile.mkdtemp(prefix="fanfare-docs-"))
        self.kept = self.folder / ".kept"  # what commands keep running; see command.py
        self.kept.mkdir()
        self.token = "a-token-that-only-this-page-knows"
        self._ports = {}
        self._logs = []
        self._redis = None
        self._make_path()

    def _make_path(self):
        self.path = self.folder / ".bin"
        self.path.mkdir()
        for name in PLAIN:
            (self.path / name).symlink_to(shutil.which(name))
        for name in WRAPPED:
            wrapper = self.path / name
            script = Path(__file__).with_name("command.py")
            wrapper.write_text(f'#!{os.path.realpath("/bin/sh")}\nexec "{sys.executable}" "{script}" {name} "$@"\n')
            wrapper.chmod(0o755)

    def port(self, documented):
        """The port of this host that stands for a port of the page."""
        while documented not in self._ports:
            # Below the ports that the kernel gives to connections, or one of those might take it before a server does.
            chosen = random.randrange(PORT_MIN, int(PORT_RANGE.read_text().split()[0]))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", chosen))
                except OSError:
                    continue
            self._ports[documented] = chosen
        return self._ports[documented]

    def adapt(self, text):
        """A text of the page with ports, sockets and hosts that are this session's."""
        for host in HOSTS:
            text = text.replace(host, "127.0.0.1")
        text = text.replace("/run/fanfare", str(self.folder / "run"))
        text = LOCAL.sub(lambda found: f"{found[1]}{self.port(int(found[2]))}", text)
        if ":" + str(self._ports.get(6379)) in text:
            self._start_redis()
        return text

    def _start_redis(self):
        if self._redis is None:
            command = [shutil.which("redis-server"), "--port", str(self.port(6379)), "--save", "", "--dir", str(self.folder)]
            self._redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            self._wait_for_port(self.port(6379))

    def _wait_for_port(self, port):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"nothing listens on port {port}")

    def save(self, name, text):
        (self.folder / name).write_text(self.adapt(text))

    def shell(self, text):
        """Runs commands until the first one that fails; an error, or None."""
        log = self.folder / f".log-{len(self._logs)}"
        self._logs.append(log)
        with open(log, "w") as output:
            child = subprocess.Popen(
                [str(self.path / "bash"), "-euo", "pipefail", "-c", self.adapt(text)],
                cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
            try:
                status = child.wait(BLOCK_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                return f"still runs after {BLOCK_SECONDS} s: {log.read_text()}"
        return f"exit code {status}: {log.read_text().strip()}" if status else None

    def _environment(self):
        return {
            "PATH": str(self.path), "HOME": str(self.folder), "LANG": "C.UTF-8", "TERM": "dumb",
            "SESSION_BINARY": self.binary, "SESSION_KEPT": str(self.kept), "SESSION_SERVER": str(self.port(3001)),
            "SESSION_REDIS": str(self.port(6379)), "TOKEN": self.token,
        }

    def serve_if_none_does(self):
        if not (self.kept / "serve.pid").exists():
            error = self.shell("fanfare serve --dev")
            if error:
                raise RuntimeError(error)

    def shows(self, expected):
        """Waits until an output of the page contains what a block shows; an error, or None."""
        wanted = re.compile(pattern_of(self.adapt(expected)))
        end = time.monotonic() + OUTPUT_SECONDS
        while True:
            outputs = [log.read_text(errors="replace") for log in [*self._logs, *sorted(self.kept.glob("*.log"))]]
            if any(wanted.search(output.replace("\r\n", "\n")) for output in outputs):
                return None
            if time.monotonic() > end:
                return "no output shows this, but:\n" + "\n---\n".join(outputs)
            time.sleep(0.1)

    def ended_early(self):
        """What should have run on, but failed by itself."""
        for status in self.kept.glob("*.status"):
            if status.read_text().strip() not in ("", "0"):
                logs = sorted(self.kept.glob(f"{status.stem}*.log"))
                yield f"{status.stem} ended with {status.read_text().strip()}: {logs[-1].read_text()[-1000:]}"

    def close(self):
        for file in self.kept.glob("*.pid"):
            try:
                os.killpg(int(file.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass
        if self._redis:
            self._redis.kill()
            self._redis.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def pattern_of(shown):
    """A shown output as a pattern: ids, tokens and numbers are any, and `...` is anything."""
    names = {"...": r".*", "…": r".*"}
    part = re.compile(r"\.\.\.|…|\b[a-z0-9]{12}-\d+|\bey[\w-]+\.[\w.-]+|\d+(?:\.\d+)*")

    def one(found):
        text = found[0]
        if text in names:
            return names[text]
        if text.startswith("ey"):
            return r"ey[\w.-]+"
        return r"[a-z0-9]{12}-\d+" if "-" in text else r"\d+(?:\.\d+)*"

    pieces, end = [], 0
    text = shown.strip("\n")
    for found in part.finditer(text):
        pieces += [re.escape(text[end:found.start()]), one(found)]
        end = found.end()
    return "".join([*pieces, re.escape(text[end:])])
