"""A study's page while it runs, on the loopback address: how it stands, failures with their tracebacks, and the report.

No file is served by its name: there are three pages, all made here, below a token that the printed address has. Whoever
else is on the machine does not know it, and a page of another site that finds the port is turned away by its host.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from gimtune.analysis.export.report import verdicts_of
from gimtune.analysis.page.page import ASSETS, digest, page, template
from gimtune.analysis.status import Standing, standing
from gimtune.analysis.tables import front_table
from gimtune.analysis.text import number, plain
from gimtune.analysis.watch import driver, failed_table, running_table
from gimtune.results.folder import go_on
from gimtune.results.load import load, text_file
from gimtune.vocabulary import Status

_ROWS, _FRONT, _TRACES = 12, 100, 20
_SECONDS = 2.0
_PACK = re.compile(r"[A-Za-z0-9_.-]{1,80}")
#: The report takes as little of a processor as with ``--watch``.
_SHARE = 20


class Live:
    """What is served of a run, kept up to date by a thread of its own.

    Attributes:
        report: the page on the members that have ended; empty so far.
        made: how often it was made.
        trouble: why it could not be.
    """

    def __init__(
        self, run: Path, objectives: Mapping[str, str] | Iterable[str] | None, only: Mapping[str, str] | None
    ) -> None:
        self.run, self.objectives, self.only = run, objectives, only
        self.report, self.made, self.trouble = "", 0, ""
        self._stand, self._looked = standing(run, objectives, only=only), time.monotonic()
        self._members, self._next, self._held = 0, 0.0, threading.Lock()
        self._fragment = template("live.html")

    def standing(self) -> dict[str, Any]:
        """The study as it stands, no older than two seconds or ten times what reading it takes."""
        with self._held:
            begun = time.monotonic()
            if begun >= self._looked:
                self._stand = standing(self.run, self.objectives, only=self.only)
                self._looked = time.monotonic() + max(_SECONDS, 10 * (time.monotonic() - begun))
            told = _told(self._stand) | {"trouble": self.trouble}
        return {"standing": self._fragment.render(whole=False, **told), "report": self.made}

    def whole(self) -> str:
        """The page around it."""
        script = (ASSETS / "live.js").read_text(encoding="utf-8")
        return self._fragment.render(
            whole=True,
            title=plain(self._stand.study.meta.get("name", self.run.name)),
            style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
            digest=f"sha256-{digest(script)}",
            script=Markup(script),
        )

    def follow(self, over: threading.Event) -> None:
        """Make the report anew as members end, until the event."""
        while not over.wait(0.5 if not self.made else _SECONDS):
            begun = time.monotonic()
            try:
                stand = standing(self.run, self.objectives, only=self.only)
                done = stand.ended and not stand.driver
                if stand.best is None or stand.tally.ended == self._members or (begun < self._next and not done):
                    continue
                study = load(self.run)
                chosen = self.objectives or stand.best.objectives
                self.report = page([study], [verdicts_of(study, self.only)], chosen, only=self.only)
                self._members, self.made, self.trouble = stand.tally.ended, self.made + 1, ""
            except (ValueError, OSError) as error:
                self.trouble = plain(error)
            self._next = time.monotonic() + _SHARE * (time.monotonic() - begun)


def _told(stand: Standing) -> dict[str, Any]:
    study, tally = stand.study, stand.tally
    trials, planned = study.trials, tally.trained + tally.left
    counts = ", ".join(f"{count} {status}" for status, count in tally.counts.items() if count)
    failed = trials[trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    running = trials[trials["status"] == Status.RUNNING]
    front = None if stand.best is None or not len(stand.best.rows) else front_table(stand.best, most=_FRONT)
    return {
        "name": plain(study.meta.get("name", study.run.name)),
        "members": f"{tally.total} members: {counts}",
        "planned": planned,
        "trained": tally.trained,
        "epochs": f"{tally.trained:,} of {'' if stand.ended else 'about '}{planned:,.0f} epochs",
        "driver": driver(stand).plain.partition("\n")[0],
        "command": "" if stand.driver or stand.ended else plain(go_on(study.run)),
        "failures": failed_table(study.run, failed, _ROWS) if len(failed) else None,
        "tracebacks": [*_tracebacks(study.run, failed)],
        "running": running_table(stand, running, _ROWS) if len(running) else None,
        "front": front and front._replace(caption=f"Front so far, on the validation split: {front.caption}"),
        "hypervolume": f"hypervolume {number(stand.best.hypervolume)}" if stand.best else "",
        "why": plain(stand.refused) if stand.refused else "No member has ended yet: no front.",
    }


def _tracebacks(run: Path, failed: pd.DataFrame) -> Iterable[tuple[str, str]]:
    for pack in dict.fromkeys(str(pack) for pack in failed["pack"].dropna().tail(_TRACES)):
        path = run / "errors" / f"{pack}.txt"
        inside = _PACK.fullmatch(pack) and path.resolve().is_relative_to(run.resolve())
        if inside and (text := text_file(run, f"errors/{pack}.txt")) is not None:
            yield pack, text[-20_000:]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where a browser has closed in the midst of an answer: it asks no more."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(live: Live, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "gimtune", ""
        timeout = 30

        def do_GET(self) -> None:
            port = self.connection.getsockname()[1]
            given, _, name = self.path.partition("?")[0].removeprefix("/").partition("/")
            # every answer without the token is the same, whatever was asked for
            known = hmac.compare_digest(given.encode(), token.encode())
            if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}") or not known:
                return self.answer(HTTPStatus.FORBIDDEN, "text/plain", "The address has a token, which was printed.\n")
            pages: Mapping[str, tuple[str, Callable[[], str]]] = {
                "": ("text/html", live.whole),
                "standing": ("application/json", lambda: json.dumps(live.standing())),
                "report": ("text/html", lambda: live.report),
            }
            if name not in pages or (name == "report" and not live.report):
                return self.answer(HTTPStatus.NOT_FOUND, "text/plain", "There is no such page.\n")
            kind, made = pages[name]
            try:
                text = made()
            except (ValueError, OSError, jinja2.TemplateError) as error:
                return self.answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{plain(error)}\n")
            return self.answer(HTTPStatus.OK, kind, text)

        def answer(self, status: HTTPStatus, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            for name, value in (
                ("Content-Type", f"{kind}; charset=utf-8"),
                ("Content-Length", str(len(content))),
                ("Cache-Control", "no-store"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "SAMEORIGIN"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: the address has the token."""

    return Handler


def serve(
    run: Path,
    say: Callable[[str], None],
    objectives: Mapping[str, str] | Iterable[str] | None = None,
    *,
    only: Mapping[str, str] | None = None,
) -> None:
    """Serve a study's page until Ctrl-C, on a free port of 127.0.0.1.

    Args:
        say: is given the address.

    Raises:
        FileNotFoundError, ValueError: as `standing`.
    """
    live, token, over = Live(run, objectives, only), secrets.token_urlsafe(24), threading.Event()
    with _Server(("127.0.0.1", 0), _handler(live, token)) as server:
        follower = threading.Thread(target=live.follow, args=(over,), daemon=True)
        follower.start()
        say(f"http://127.0.0.1:{server.server_address[1]}/{token}/")
        try:
            server.serve_forever()
        finally:
            over.set()
