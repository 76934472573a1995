"""The page of a study that runs: a real server, asked by hand and by a browser."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_analysis import SCRIPT, member
from test_page import until
from test_status import RUNNING, study

from gimtune.analysis.page.serve import _Server
from gimtune.results.store import Store
from gimtune.vocabulary import Status


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = study(tmp_path / "run", RUNNING)
    (run / "errors").mkdir()
    (run / "errors" / "t04-1.txt").write_text(
        f"Traceback (most recent call last):\n  {SCRIPT}\nValueError: no such thing"
    )
    (tmp_path / "secret.txt").write_text("secret")
    return run


@pytest.fixture
def server(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``gimtune analysis RUN --serve``, and the address that it prints."""
    command = [sys.executable, "-m", "gimtune", "analysis", str(run), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        first = process.stdout.readline().strip()
        assert first.startswith("http://127.0.0.1:"), first + process.stdout.read()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield process, first
        process.kill()


def asked(address: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(address).port, timeout=120)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_without_the_token_there_is_nothing_and_with_it_no_file(
    server: tuple[subprocess.Popen[str], str], run: Path
) -> None:
    process, address = server
    token, port = urlsplit(address).path.strip("/"), urlsplit(address).port
    assert len(token) >= 32
    assert asked(address, f"/{token}/")[0] == 200
    refused = {
        asked(address, path) for path in ("/", "/standing", f"/{token[:-1]}/", f"/{token}x/", "/%ff/", "/é/"[:1])
    }
    assert {status for status, _ in refused} == {403}
    assert len(refused) == 1
    # a page of another site, whose name leads here
    assert asked(address, f"/{token}/", Host=f"evil.example:{port}")[0] == 403
    for name in ("study.db", "errors/t04-1.txt", "../secret.txt", "%2e%2e/secret.txt", "/etc/passwd", "report/.."):
        status, text = asked(address, f"/{token}/{name}")
        assert (status, "secret" in text) == (404, False), name
    with pytest.raises(OSError, match="refused"):  # the loopback address alone, and not all of that network
        socket.create_connection(("127.0.0.2", port), timeout=10)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_link_to_elsewhere_is_no_traceback(run: Path, server: tuple[subprocess.Popen[str], str]) -> None:
    path = run / "errors" / "t04-1.txt"
    path.unlink()
    path.symlink_to(run.parent / "secret.txt")
    address = server[1]
    status, text = asked(address, urlsplit(address).path + "standing")
    assert (status, "no such thing" in text, "secret" in text) == (200, True, False)


@pytest.mark.parametrize(("error", "told"), [(BrokenPipeError, 0), (ConnectionResetError, 0), (ValueError, 1)])
def test_a_browser_that_closes_is_no_error(
    error: type[Exception], told: int, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closed(_Server):
        def finish_request(self, *_: object) -> None:
            raise error

    with Closed(("127.0.0.1", 0), BaseHTTPRequestHandler) as server, socket.socket() as one:
        server.process_request_thread(one, ("127.0.0.1", 1))
    assert capsys.readouterr().err.count("Traceback") == told


@pytest.mark.slow
def test_the_page_follows_the_study(browser: Any, run: Path, server: tuple[subprocess.Popen[str], str]) -> None:
    page = browser.new_page()
    page.set_default_timeout(200_000)
    trouble: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.goto(server[1])
    page.wait_for_selector("html[data-ready=yes]")
    text = page.inner_text("#standing")
    assert "6 members: 1 planned, 1 running, 2 done, 1 diverged, 1 failed" in text
    assert "none is at work" in text
    assert f"resume={run}" in text
    page.locator("summary", has_text="Traceback of t04-1").click()
    assert "ValueError: no such thing" in page.inner_text("details pre")
    assert "<script>alert(1)</script>" in page.inner_text("details pre")
    assert page.locator("#standing button").count() == 0
    status = page.locator("#standing [role=status]").element_handle()
    report = page.frame_locator("#report")
    report.locator("html[data-ready=yes]").wait_for()
    assert "2 trials" in report.locator("header").inner_text()
    with Store(run / "study.db", create=True) as store:
        row = member(2, fid=11.0, probe_codes=0.95)
        store.report([{"trial": row["trial"], **{k: row[k] for k in ("epoch", "fid", "probe_codes", "fid_features")}}])
        store.mark([str(row["trial"])], Status.DONE, None)
    until(page, "document.getElementById('standing').textContent.includes('3 done')")
    assert page.locator("details[open]").count() == 1  # what one reads stays open
    assert status.evaluate("node => node.isConnected")
    page.frame_locator("#report").locator("header", has_text="3 trials").wait_for()
    os.kill(server[0].pid, signal.SIGTERM)
    until(page, "document.getElementById('fresh').textContent.includes('The server has ended')")
    page.close()
    # what was asked for as it ended has no answer
    ended = ("ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE")
    assert [text for text in trouble if not any(reason in text for reason in ended)] == []
