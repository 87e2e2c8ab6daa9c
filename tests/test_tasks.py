"""Queuing: a broker that is away is noticed at once, not after Celery's own patience."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from kombu import Connection

from tardis_imagetrove import tasks
from tardis_imagetrove.errors import RetriableError


def test_a_broker_that_hangs_up_is_tried_no_more_than_twice(monkeypatch):
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            while True:
                try:
                    taken = server.accept()[0]
                except OSError:
                    return
                calls.append(1)
                taken.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        address = f"amqp://guest@127.0.0.1:{server.getsockname()[1]}//"
        monkeypatch.setattr(
            tasks.tardis_app, "connection_for_write", lambda **options: Connection(address, **options)
        )
        for queue, argument in ((tasks.queue_series, "1.2.3"), (tasks.queue_run, 1)):
            calls.clear()
            with pytest.raises(RetriableError, match="the broker cannot be reached"):
                queue(argument)
            assert 1 <= len(calls) <= 2
        server.shutdown(socket.SHUT_RDWR)


def test_a_broker_that_answers_nothing_is_not_waited_for_twice(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"amqp://guest@127.0.0.1:{server.getsockname()[1]}//"
        monkeypatch.setattr(
            tasks.tardis_app, "connection_for_write", lambda **options: Connection(address, **options)
        )
        with pytest.raises(RetriableError, match="the broker cannot be reached.*timed out"):
            tasks.queue_series("1.2.3")
        # The kernel has taken the connections that nobody answered.
        taken = []
        server.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(server.accept()[0])
        assert len(taken) == 1
