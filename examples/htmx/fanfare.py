"""What the application tells Fanfare, and what it asks."""

import logging
import os
import time
from urllib.parse import urlencode

import httpx
import jwt

URL = os.environ["FANFARE_URL"]
JWT_SECRET = os.environ["FANFARE_JWT_SECRET"]
PUBLISH_TOKEN = os.environ["FANFARE_PUBLISH_TOKEN"]
TOKEN_SECONDS = int(os.environ.get("TOKEN_SECONDS", 600))

log = logging.getLogger(__name__)
client = httpx.Client(base_url=URL, timeout=2)


def topic(user: str) -> str:
    return f"user-{user}.orders"


def token(user: str) -> str:
    """Lets its holder subscribe to the topics of this user, and to no others."""
    now = int(time.time())
    claims = {"sub": f"user-{user}", "iat": now, "exp": now + TOKEN_SECONDS, "fanfare": {"subscribe": [f"user-{user}.*"]}}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


def position(user: str) -> str | None:
    """The id after which a stream continues that begins now; None if Fanfare does not answer."""
    try:
        answer = client.get("/dashboard/data", params={"topic": topic(user)}, headers={"Authorization": f"Bearer {token(user)}"})
        return answer.raise_for_status().json()["id"]
    except httpx.HTTPError as error:
        log.error("Fanfare gave no position in %s: %s", topic(user), error)
        return None


def stream_url(user: str, position: str | None) -> str:
    query = {"topic": topic(user)} | ({"last_event_id": position} if position else {})
    return f"{URL}/events?{urlencode(query)}"


def publish(user: str, event: str, html: str) -> None:
    """Shows a fragment in the user's open pages. If Fanfare does not answer, they get it with the next gap or load."""
    try:
        body = {"topic": topic(user), "event": event, "data": html}
        client.post("/publish", json=body, headers={"Authorization": f"Bearer {PUBLISH_TOKEN}"}).raise_for_status()
    except httpx.HTTPError as error:
        log.error("Fanfare did not publish to %s: %s", topic(user), error)
