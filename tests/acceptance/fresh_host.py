"""A fresh Debian on which the commands of docs/installing.md run, until Fanfare's page in Chromium shows an event.

The host is a root of mmdebstrap that systemd-nspawn boots, in a network of its own (slirp4netns): it reaches the archives of
Debian, and its ports are not those of this machine. Needs root, and what tests/setup --fresh installs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "docs"), str(ROOT / "tests" / "support")]
sys.dont_write_bytecode = True

from markdown import Page
from stage import wait_for

RELEASE = "bookworm"
# Roots are made once, and unpacked for each run.
CACHE = ROOT / "target" / "fresh"
# What Debian's installer adds to the smallest root of a server, as far as the documentation uses it.
PACKAGES = ["systemd-sysv", "dbus", "sudo", "ca-certificates", "openssl", "iproute2"]
USER = "visitor"
HOME = f"/home/{USER}"
COMMAND_SECONDS = 900
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs in namespaces of its own: nspawn needs a /run in memory, and control groups of version 2 alone.
BOOT = """
mount -t tmpfs tmpfs /run
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
  umount -R /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
exec systemd-nspawn --quiet --register=no --keep-unit --boot --directory "$0" --resolv-conf=off --console=passive \
  --capability=all --system-call-filter="add_key keyctl bpf"
"""


class FreshHost:
    """A host that runs, and the commands that were typed on it."""

    def __init__(self, folder, leader):
        self.folder = folder
        self.leader = leader
        self.commands = 0
        self.began = None

    def download(self, file):
        """Copies a file of this machine into the user's home."""
        shutil.copy(file, f"{self.folder}{HOME}/")

    def outside(self, *command):
        """A command of this machine that reaches the host's ports as localhost."""
        return ["nsenter", f"--net=/proc/{self.leader}/ns/net", *command]

    def inside(self, *command):
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        enter = ["nsenter", f"--target={self.leader}", *namespaces]
        return [*enter, "env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", *command]

    def run(self, command):
        """Runs, as root in the user's home, what is no part of the documentation, and returns its output. Its time does not count."""
        began = time.monotonic()
        shell = self.inside("bash", "-euo", "pipefail", "-c", f"cd {HOME}; {command}")
        done = subprocess.run(shell, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=COMMAND_SECONDS, check=True)
        self.began = self.began and self.began + time.monotonic() - began
        return done.stdout.strip()

    def type(self, command):
        """Runs a documented command as the user, and returns its output."""
        self.began = self.began or time.monotonic()
        self.commands += 1
        print(f"  $ {command}", flush=True)
        login = self.inside("runuser", "--login", USER, "--command", command)
        done = subprocess.run(login, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=COMMAND_SECONDS, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout}FAILED with {done.returncode}: {command}")
        return done.stdout

    @contextmanager
    def page(self, token, topic, data):
        """Opens Fanfare's page in Chromium; its inspector watches a topic, and in the end has to show an event with this data."""
        url = "http://localhost:3001/"
        asks = self.outside("curl", "-sf", "-o", "/dev/null", url + "health/live")
        wait_for("the server", lambda: subprocess.run(asks, check=False).returncode == 0, 60)
        program = ROOT / "tests" / "acceptance" / "inspector.mjs"
        command = self.outside("node", program, url, topic, data)
        environment = {**os.environ, "OPERATOR_TOKEN": token}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as browser:
            try:
                self._expect(browser, "watching")
                yield
                self._expect(browser, "shown")
            finally:
                browser.kill()

    def _expect(self, browser, word):
        if browser.stdout.readline().strip() != word:
            raise SystemExit(f"FAILED: the page is not {word}")

    def report(self, way):
        print(f"{way}: {self.commands} commands, {time.monotonic() - self.began:.0f} s until the page shows the event")


def documented(start):
    """The commands of the block of docs/installing.md that begins with these words, without those that are optional."""
    blocks = [block for block in Page(ROOT, "docs/installing.md").blocks if block.text.startswith(start)]
    if len(blocks) != 1:
        raise SystemExit(f"docs/installing.md has {len(blocks)} blocks that begin with: {start}")
    lines = [line.partition("  #") for line in blocks[0].text.replace("\\\n", "").splitlines()]
    return [command.rstrip() for command, _, comment in lines if command and "optional" not in comment]


def debian_root(name, packages):
    """The tar file of a root with these packages."""
    archive = CACHE / f"{name}.tar"
    if not archive.exists():
        print(f"making a root of Debian {RELEASE}: {name}", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = CACHE / f"unfinished-{name}.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", RELEASE, unfinished]
        subprocess.run(command, check=True)
        unfinished.rename(archive)
    return archive


@contextmanager
def fresh_host():
    archive = debian_root("host", PACKAGES)
    folder = Path(tempfile.mkdtemp(prefix="host-", dir=CACHE))
    try:
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True)
        configure(folder)
        with booted(folder) as host:
            yield host
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def configure(folder):
    (folder / "etc/hostname").write_text("fresh\n")
    (folder / "etc/hosts").write_text("127.0.0.1 localhost fresh\n")
    (folder / "etc/resolv.conf").unlink(missing_ok=True)
    (folder / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")  # that of slirp4netns
    # The reader answers yes.
    (folder / "etc/apt/apt.conf.d/99yes").write_text('APT::Get::Assume-Yes "true";\n')
    subprocess.run(["chroot", folder, "useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
    (folder / "etc/sudoers.d" / USER).write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    subprocess.run(["chroot", folder, "apt-get", "-qq", "update"], check=True)


@contextmanager
def booted(folder):
    unshare = ["unshare", "--net", "--mount", "--propagation=private", "sh", "-euc", BOOT, folder]
    # So that podman in it may make networks of its own.
    environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
    with open(folder.with_suffix(".log"), "wb") as log:
        nspawn = subprocess.Popen(unshare, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    own = os.readlink("/proc/self/ns/net")
    wait_for("a network namespace", lambda: os.readlink(f"/proc/{nspawn.pid}/ns/net") != own)
    slirp = subprocess.Popen(["slirp4netns", "--configure", "--mtu=65520", str(nspawn.pid), "tap0"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the first process of the host", lambda: leader_of(nspawn.pid), 60)
        host = FreshHost(folder, leader_of(nspawn.pid))
        wait_for("the host to be up", lambda: is_up(host), 60)
        yield host
    finally:
        nspawn.terminate()  # an orderly power-off
        try:
            nspawn.wait(60)
        except subprocess.TimeoutExpired:
            nspawn.kill()
        slirp.terminate()
        slirp.wait()
        folder.with_suffix(".log").unlink()


def leader_of(nspawn):
    """The first process in the host, by its number on this machine; None until there is one."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields["PPid"] == str(nspawn) and fields["NSpid"].split()[1:] == ["1"]:
            return int(fields["Pid"])
    return None


def is_up(host):
    asked = subprocess.run(host.inside("systemctl", "is-system-running"), capture_output=True, text=True, check=False)
    return asked.stdout.strip() in ("running", "degraded")
