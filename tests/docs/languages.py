"""Checks for the blocks that are not commands, by their language. Each returns an error, or None."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<text>.*?)</script>", re.DOTALL)


def _run(*command):
    tool = shutil.which(command[0], path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin") or shutil.which(command[0])
    if tool is None:
        return f"this test needs {command[0]}, which tests/setup installs"
    output = subprocess.run([tool, *command[1:]], capture_output=True, text=True, timeout=60, check=False)
    if output.returncode == 0:
        return None
    return (output.stdout + output.stderr).strip() or f"{command[0]} ended with {output.returncode}"


def _saved(text, folder, name):
    path = Path(folder) / name
    path.write_text(text)
    return str(path)


def js(text, session):
    return _run("node", "--check", _saved(text, session.folder, "block.mjs"))


def html(text, session):
    scripts = list(SCRIPT.finditer(text))
    errors = [js(script["text"], session) for script in scripts if "src=" not in script["attributes"]]
    return next(filter(None, errors), None)


def json_text(text, _session):
    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return None


def python(text, _session):
    try:
        ast.parse(text)
    except SyntaxError as error:
        return str(error)
    return None


def ruby(text, session):
    return _run("ruby", "-c", _saved(text, session.folder, "block.rb"))


def toml(text, session):
    """A configuration file of the server, or a part of one."""
    path = _saved(text, session.folder, "block.toml")
    return _run(session.binary, "serve", "--config", path, "--print-config")


def ini(text, session):
    """Drop-ins of the units of the package, each section for the unit that has it."""
    folder = Path(session.folder) / "units"
    folder.mkdir(exist_ok=True)
    for unit in ["fanfare.service", "fanfare.socket"]:
        shipped = (REPOSITORY / "systemd" / unit).read_text()
        _saved(shipped.replace("/usr/bin/fanfare", session.binary), folder, unit)
    for section in re.findall(r"^\[[^\[]*", text, re.MULTILINE):
        unit = "fanfare.socket" if section.startswith("[Socket]") else "fanfare.service"
        (folder / f"{unit}.d").mkdir(exist_ok=True)
        _saved(section, folder / f"{unit}.d", "override.conf")
    units = [str(folder / unit) for unit in ["fanfare.service", "fanfare.socket"]]
    for unit in units:
        command = ["systemd-analyze", "verify", "--man=no", unit]
        output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if output.returncode or output.stderr.strip():
            return output.stderr.strip() or f"exit code {output.returncode}"
    return None


def nginx(text, session):
    """Upstreams and maps stand in `http`, everything else in a `server`, as in docs/proxies/nginx.conf."""
    parts = re.findall(r"^( *)(\S.*?^\1\}$)", text, re.DOTALL | re.MULTILINE)
    of_http = ("upstream ", "map ")
    upstreams = "\n".join(part for _, part in parts if part.startswith(of_http))
    locations = "\n".join(part for _, part in parts if not part.startswith(of_http))
    known = "".join(f"upstream {name} {{ server 127.0.0.1:1; }}\n" for name in ["old", "fanfare"]
                    if f"upstream {name} " not in upstreams and f"http://{name}" in locations)
    if "$connection_upgrade" in locations:
        known += 'map $http_upgrade $connection_upgrade { default upgrade; "" ""; }\n'
    paths = f"pid {session.folder}/nginx.pid; error_log stderr;"
    server = f"server {{ listen unix:{session.folder}/nginx.sock;\n{locations}\n}}"
    whole = f"{paths} events {{}} http {{ access_log off;\n{known}{upstreams}\n{server}\n}}"
    return _run("nginx", "-t", "-q", "-p", str(session.folder), "-c", _saved(whole, session.folder, "nginx.conf"))


def haproxy(text, session):
    return _run("haproxy", "-c", "-f", _saved(text, session.folder, "haproxy.cfg"))


def yaml(text, session):
    """A configuration of Prometheus, or the part of one that scrapes; the files that it names need not be here."""
    for name in re.findall(r"(?:credentials_file|ca_file): *(\S+)", text):
        text = text.replace(name, _saved("token\n", session.folder, Path(name).name))
    for name in re.findall(r"^ *- (/\S+\.yml)$", text, re.MULTILINE):
        text = text.replace(name, str(REPOSITORY / "docs/monitoring" / Path(name).name))
    return _run("promtool", "check", "config", _saved(text, session.folder, "prometheus.yml"))


def http(text, session):
    """A request: the server that runs, or else one with --dev, answers it with success."""
    head, _, body = text.replace("TOKEN", session.token).partition("\n\n")
    method, target = head.split("\n")[0].split(" ")[:2]
    headers = [argument for line in head.split("\n")[1:] for argument in ("-H", line)]
    url = f"http://127.0.0.1:{session.port(3001)}{target}"
    session.serve_if_none_does()
    return _run("curl", "-sS", "--max-time", "60", "--fail-with-body", "-X", method, *headers, "-d", body.strip(), url)


def sse(text, _session):
    """Part of a stream: lines that are fields or comments, in which data in braces is JSON."""
    for line in filter(None, text.split("\n")):
        field, separator, value = line.partition(":")
        if not separator or field not in ("", "id", "event", "data", "retry"):
            return f"no field of a stream: {line}"
        error = json_text(value, None) if field == "data" and value.startswith(" {") else None
        if error:
            return error
    return None


CHECKS = {
    "js": js, "html": html, "json": json_text, "python": python, "ruby": ruby, "toml": toml, "ini": ini,
    "nginx": nginx, "haproxy": haproxy, "yaml": yaml, "http": http, "sse": sse,
}
