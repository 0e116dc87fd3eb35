"""A PostgreSQL of a test's own: a cluster on a free port that can be killed, as by a crash, and started again.

Needs Debian's package postgresql. Root starts it as the user postgres, because it refuses to run as root.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from stage import free_port, wait_for

INITDB = ["--no-sync", "--no-instructions", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]
# Who its programs run as.
OTHER_USER = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


class Postgres:
    """A server with these settings, `name=value`."""

    def __init__(self, *settings):
        self.settings = [word for setting in settings for word in ("-c", setting)]
        self.port = free_port()
        self.url = self.url_of("postgres")
        self.folder = tempfile.mkdtemp()
        os.chmod(self.folder, 0o755)
        if OTHER_USER:
            shutil.chown(self.folder, OTHER_USER["user"], OTHER_USER["group"])
        subprocess.run([program("initdb"), *INITDB, "-D", self.data()], cwd="/", check=True, stdout=subprocess.DEVNULL, **OTHER_USER)
        self.start()

    def data(self):
        return f"{self.folder}/data"

    def url_of(self, database):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def start(self):
        flags = ["-p", str(self.port), "-k", self.folder, "-c", "listen_addresses=127.0.0.1", *self.settings]
        with open(f"{self.folder}/log", "a") as log:
            command = [program("postgres"), "-D", self.data(), *flags]
            self.process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, **OTHER_USER)
        wait_for("postgres", self.is_up)

    def is_up(self):
        if self.process.poll() is not None:
            raise SystemExit(f"postgres ended:\n{Path(self.folder, 'log').read_text()}")
        return subprocess.run(["pg_isready", "-q", "-d", self.url]).returncode == 0

    def kill(self):
        """SIGKILL to the server and all of its processes. While it is stopped, it starts no other."""
        pid = self.process.pid
        self.process.send_signal(signal.SIGSTOP)
        processes = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for process in [pid, *processes]:
            os.kill(process, signal.SIGKILL)
        self.process.wait()
        wait_for("the processes of postgres", lambda: not any(os.path.exists(f"/proc/{process}") for process in processes))

    def sql(self, sql, database="postgres"):
        """Runs statements; returns what they return, one line for each row."""
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url_of(database), "-c", sql]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def tool(self, name, *flags, **more):
        """Runs a program of PostgreSQL for this server; returns its output."""
        command = [program(name), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", *flags]
        return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


@contextmanager
def postgres(*settings):
    server = Postgres(*settings)
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder)


def program(name):
    """A program of the newest PostgreSQL that is installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = versions[-1] / name if versions else shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is missing: apt-get install postgresql")
    return str(found)
