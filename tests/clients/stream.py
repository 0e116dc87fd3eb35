"""A stream as curl, httpx or requests read it: opened, and resumed with the last id whenever it ends.

The first argument is which of them. As in told.mjs: a stream's URL on standard input, and a line of JSON on standard output
for everything that happens."""
import json
import subprocess
import sys
import time

RETRY_S = 0.2


def lines_of_curl(url, headers):
    fields = [field for name, value in headers.items() for field in ("--header", f"{name}: {value}")]
    command = ["curl", "--silent", "--no-buffer", "--compressed", *fields, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        yield from (line.decode().rstrip("\n") for line in curl.stdout)


def lines_of_httpx(url, headers):
    import httpx

    try:
        with httpx.stream("GET", url, headers=headers, timeout=None) as response:
            tell("coding", data=response.headers.get("content-encoding"))
            yield from response.iter_lines()
    except httpx.TransportError:
        pass


def lines_of_requests(url, headers):
    import requests

    try:
        with requests.get(url, headers=headers, stream=True) as response:
            tell("coding", data=response.headers.get("content-encoding"))
            # Whole lines only: requests cuts them where its chunks end.
            rest = ""
            for chunk in response.iter_content(chunk_size=1, decode_unicode=True):
                *lines, rest = (rest + chunk).split("\n")
                yield from lines
    except requests.RequestException:
        pass


def tell(kind, **happened):
    print(json.dumps({"kind": kind, **happened}), flush=True)


def read(lines, last_id):
    """Reads one connection by WHATWG HTML 9.2.6; returns the last id."""
    buffered_id, event_type, data = last_id, "", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            last_id = buffered_id
            if data:
                tell(event_type or "message", data="\n".join(data), id=last_id)
            event_type, data = "", []
        elif field == "id":
            buffered_id = value
        elif field == "event":
            event_type = value
        elif field == "data":
            data.append(value)
        elif field == "retry":
            tell("open")
        elif field != "":
            tell("error", data=f"not a line of a stream: {line!r}", ready_state=2)
    return last_id


lines_of = {"curl": lines_of_curl, "httpx": lines_of_httpx, "requests": lines_of_requests}[sys.argv[1]]
url, last_id = sys.stdin.readline().strip(), None
while True:
    last_id = read(lines_of(url, {"Last-Event-ID": last_id} if last_id else {}), last_id)
    tell("error", ready_state=0)
    time.sleep(RETRY_S)
