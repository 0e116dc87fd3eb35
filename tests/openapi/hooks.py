"""What schemathesis can't know from web/openapi.json, and a check of its own: that each header of an answer is in the file."""

import schemathesis
from hypothesis import strategies

# JSON Schema counts characters; the server counts bytes of UTF-8. For each field, the most of both.
SIZES_MAX = {"topic": 1024, "subject": 1024, "token_id": 1024, "event": 128}
# HTTP itself; Content-Type is documented by what it names.
HEADERS_OF_HTTP = {"date", "connection", "content-length", "content-type"}


# ---- streams never end

class FirstBytes:
    """The body of a stream, as if it ended after what arrives first: the preamble, and events if there are some."""

    def __init__(self, raw):
        self.raw = raw
        self.is_read = False

    def read1(self, *args, **kwargs):
        if self.is_read:
            return b""
        self.is_read = True
        return self.raw.read1(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.raw, name)


def end_stream(response, *_, **__):
    if response.headers.get("Content-Type", "").startswith("text/event-stream"):
        response.raw = FirstBytes(response.raw)


@schemathesis.hook
def before_call(context, case, kwargs):
    kwargs["hooks"] = {"response": end_stream}


# ---- what the file can't express

schemathesis.openapi.format(
    "ip-network",
    strategies.one_of(
        strategies.ip_addresses().map(str),
        strategies.tuples(strategies.ip_addresses(v=4), strategies.integers(0, 32)).map(lambda pair: "%s/%d" % pair),
        strategies.tuples(strategies.ip_addresses(v=6), strategies.integers(0, 128)).map(lambda pair: "%s/%d" % pair),
    ),
)


def fits(field, value):
    """Whether a value has as few bytes as the file allows characters, or too many of both."""
    if isinstance(value, dict):
        return all(fits(name, part) for name, part in value.items())
    if isinstance(value, list):
        return all(fits(field, part) for part in value)
    if field not in SIZES_MAX or not isinstance(value, str):
        return True
    return len(value) > SIZES_MAX[field] or len(value.encode("utf-8", "surrogatepass")) <= SIZES_MAX[field]


@schemathesis.hook
def filter_case(context, case):
    return all(fits(None, part) for part in (case.path_parameters, case.query, case.body))


# ---- no header that the file lacks

@schemathesis.check
def every_header_is_documented(ctx, response, case):
    definition = case.operation.responses.find_by_status_code(response.status_code)
    if definition is None:
        return
    documented = {name.lower() for name, _ in definition.headers.items()}
    undocumented = {name.lower() for name in response.headers} - documented - HEADERS_OF_HTTP
    assert not undocumented, f"these headers of a {response.status_code} are not in web/openapi.json: {sorted(undocumented)}"
