"""What the application tells Fanfare, and what it asks."""

import logging
import time

import jwt
import requests
from django.conf import settings

TIMEOUT_SECONDS = 2

log = logging.getLogger(__name__)


def topic(user):
    return f"user-{user}.orders"


def token(user):
    """Lets its holder subscribe to the topics of this user, and to no others."""
    now = int(time.time())
    claims = {
        "sub": f"user-{user}",
        "iat": now,
        "exp": now + settings.FANFARE_TOKEN_SECONDS,
        "fanfare": {"subscribe": [f"user-{user}.*"]},
    }
    return jwt.encode(claims, settings.FANFARE_JWT_SECRET, algorithm="HS256")


def set_token(response, user):
    response.set_cookie("fanfare_token", token(user), httponly=True, samesite="Lax", secure=settings.SESSION_COOKIE_SECURE)


def position(user):
    """The id after which a stream continues that begins now; None if Fanfare does not answer."""
    try:
        answer = requests.get(
            f"{settings.FANFARE_URL}/dashboard/data",
            params={"topic": topic(user)},
            headers={"Authorization": f"Bearer {token(user)}"},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return answer.json()["id"]
    except requests.RequestException as error:
        log.error("Fanfare gave no position in %s: %s", topic(user), error)
        return None


def publish(user, event, data):
    """Tells the user's open pages. If Fanfare does not answer, they get it with the next gap or load."""
    try:
        answer = requests.post(
            f"{settings.FANFARE_URL}/publish",
            json={"topic": topic(user), "event": event, "data": data},
            headers={"Authorization": f"Bearer {settings.FANFARE_PUBLISH_TOKEN}"},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
    except requests.RequestException as error:
        log.error("Fanfare did not publish to %s: %s", topic(user), error)
