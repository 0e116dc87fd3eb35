"""The orders of one user. New ones come to the user's open pages through Fanfare, as fragments that htmx swaps in."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.middleware.sessions import SessionMiddleware

import fanfare

HERE = Path(__file__).parent
DATABASE = HERE / "tmp/orders.sqlite3"

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"], same_site="lax")  # in production: https_only=True
app.mount("/static", StaticFiles(directory=HERE / "static"))
app.mount("/npm", StaticFiles(directory=HERE / "node_modules"))
templates = Jinja2Templates(HERE / "templates")

with closing(sqlite3.connect(DATABASE)) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, user TEXT NOT NULL, item TEXT NOT NULL)")


def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(DATABASE, check_same_thread=False)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def signed_in(request: Request) -> str:
    if user := request.session.get("user"):
        return user
    raise HTTPException(401)


def sent_by_htmx(hx_request: Annotated[bool, Header()] = False) -> None:
    """A page of another origin can't send this header, so it can't post in the user's name."""
    if not hx_request:
        raise HTTPException(403)


Database = Annotated[sqlite3.Connection, Depends(database)]
User = Annotated[str, Depends(signed_in)]


def state(user: str, db: sqlite3.Connection) -> dict:
    # The position comes first. An order that is saved in between is in the state and in the stream; else it might be in neither.
    position = fanfare.position(user)
    orders = db.execute("SELECT id, item FROM orders WHERE user = ? ORDER BY id", [user]).fetchall()
    return {"orders": orders, "position": position, "stream_url": fanfare.stream_url(user, position)}


def set_token(response: Response, user: str) -> None:
    response.set_cookie("fanfare_token", fanfare.token(user), httponly=True, samesite="lax")  # in production: secure=True


@app.get("/")
def page(request: Request, db: Database):
    user = request.session.get("user")
    if not user:
        return templates.TemplateResponse(request, "login.html")
    context = {"user": user, "token_seconds": fanfare.TOKEN_SECONDS} | state(user, db)
    response = templates.TemplateResponse(request, "page.html", context)
    set_token(response, user)
    return response


@app.post("/login")
def login(request: Request, user: Annotated[str, Form()] = ""):
    if not re.fullmatch("[a-z0-9-]{1,32}", user):
        return templates.TemplateResponse(request, "login.html", status_code=400)
    request.session["user"] = user
    return RedirectResponse("/", status_code=303)


@app.post("/orders", status_code=204, dependencies=[Depends(sent_by_htmx)])
def create_order(user: User, db: Database, item: Annotated[str, Form(min_length=1, max_length=200)]) -> None:
    with db:
        order = db.execute("INSERT INTO orders (user, item) VALUES (?, ?) RETURNING id, item", [user, item]).fetchone()
    # After the commit: a page that refetches because of this event finds the order.
    fanfare.publish(user, "order", templates.get_template("order.html").render(order=order))


@app.get("/orders")
def orders(request: Request, user: User, db: Database):
    return templates.TemplateResponse(request, "orders.html", state(user, db))


@app.post("/token", status_code=204, dependencies=[Depends(sent_by_htmx)])
def renew_token(user: User, response: Response) -> None:
    set_token(response, user)
