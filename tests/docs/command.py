"""A command of a page, run so that it suits a test: what a reader stops with Ctrl-C is kept running until the page ends.

Called as `command.py NAME ARGUMENTS...` by the wrappers that session.py puts on the PATH.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

BINARY = os.environ["SESSION_BINARY"]
KEPT = Path(os.environ["SESSION_KEPT"])
SERVER = os.environ["SESSION_SERVER"]
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
START_SECONDS = 60


def main(name, arguments):
    environment = dict(os.environ)
    if name == "cargo":
        if arguments[:3] != ["run", "--release", "--"]:
            sys.exit(f"cargo {arguments}: only cargo run --release -- is run")
        name, arguments = "fanfare", arguments[3:]
    if name == "sudo":
        if arguments[:2] != ["install", "-d"]:
            sys.exit(f"sudo {arguments}: only sudo install -d is run")
        os.makedirs(arguments[-1], exist_ok=True)
    elif name == "fanfare":
        fanfare(arguments, environment)
    elif name == "curl":
        curl(arguments, environment)
    elif name == "python3":
        python(arguments, environment)
    elif name == "redis-cli":
        run(["redis-cli", "-p", os.environ["SESSION_REDIS"], *arguments], environment)


def fanfare(arguments, environment):
    command, given = arguments[0], {argument.partition("=")[0] for argument in arguments}
    only_prints = {"--print-config", "--print-template", "--help", "-h"} & given
    if command == "serve" and not only_prints:
        if "--listen" not in given and "--config" not in given:
            environment["FANFARE_LISTEN"] = f"127.0.0.1:{SERVER}"
        # With a durable bus, a server refuses events until it has read the newest ones.
        needs_bus = "--bus" in given
        keep("serve", [BINARY, *arguments], environment, lambda log: b"listening on" in log and (not needs_bus or is_ready()))
    elif command == "subscribe" and not only_prints and "--count" not in given:
        before = streams()
        keep("subscribe", [BINARY, *arguments], environment, lambda _log: streams() > before)
    elif command == "doctor":
        # Its code 1 says that this host is short of something, which it may be.
        sys.exit(max(0, subprocess.run([BINARY, *arguments], env=environment, check=False).returncode - 1))
    else:
        if command in ("publish", "disconnect") and not {"--url", "--redis-url"} & given:
            arguments = [*arguments, "--url", f"http://127.0.0.1:{SERVER}"]
        run([BINARY, *arguments], environment)


def python(arguments, environment):
    """A program that serves runs on; any other ends."""
    if "serve_forever()" in Path(arguments[0]).read_text():
        keep("python3", [sys.executable, *arguments], environment, lambda log: b"http" in log or b"HTTP" in log)
    else:
        run([sys.executable, *arguments], environment)


def curl(arguments, environment):
    short = "".join(argument[1:] for argument in arguments if re.fullmatch(r"-[a-zA-Z]+", argument))
    # A page that shows the head of an answer may show a refusal.
    if "i" not in short:
        arguments = ["--fail-with-body", *arguments]
    if "N" in short:
        keep("curl", ["curl", "-sS", *arguments], environment, lambda log: log != b"")
    else:
        run(["curl", "-sS", "--max-time", "60", *arguments], environment)


def run(command, environment):
    """Becomes a program of the system, whose own children find only the commands of session.py."""
    os.execve(located(command[0]), command, environment)


def located(program):
    return shutil.which(program, path=SYSTEM_PATH) or program


def is_ready():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{SERVER}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def streams():
    """How many streams the server of the page has, or 0 if it has none or does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{SERVER}/health", timeout=5) as answer:
            return json.load(answer)["streams"]
    except OSError:
        return 0


def keep(kind, command, environment, has_started):
    """Starts a command that runs until the page ends; a server takes the place of the one before, and ends its streams."""
    number = len(list(KEPT.glob("*.log")))
    name = kind if kind in ("serve", "python3") else f"{kind}-{number}"
    if kind == "serve":
        for stream in [*KEPT.glob("curl-*.pid"), *KEPT.glob("subscribe-*.pid")]:
            stop(stream.stem)
    stop(name)
    command = [located(command[0]), *command[1:]]
    log, status = KEPT / f"{kind}-{number}.log", KEPT / f"{name}.status"
    with open(log, "wb") as output:
        script = '"$@"; echo $? >"$0"'
        child = subprocess.Popen(["/bin/sh", "-c", script, str(status), *command], env=environment, stdin=subprocess.DEVNULL,
                                 stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    (KEPT / f"{name}.pid").write_text(str(child.pid))
    end = time.monotonic() + START_SECONDS
    while not has_started(log.read_bytes()):
        if child.poll() is not None or time.monotonic() > end:
            sys.exit(f"{kind} did not start: {log.read_text()}")
        time.sleep(0.05)


def stop(name):
    """Stops a server as a second Ctrl-C does: at once."""
    file = KEPT / f"{name}.pid"
    if not file.exists():
        return
    group = int(file.read_text())
    file.unlink()
    try:
        for _ in range(200):
            os.killpg(group, signal.SIGINT)
            time.sleep(0.05)
    except ProcessLookupError:
        (KEPT / f"{name}.status").unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
