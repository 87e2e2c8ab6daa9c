"""Queuing: a broker that is away is noticed at once, not after Celery's own patience."""

from __future__ import annotations

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
        monkeypatch.setattr(tasks.tardis_app, "connection_for_write", lambda: Connection(address))
        for queue, argument in ((tasks.queue_series, "1.2.3"), (tasks.queue_run, 1)):
            calls.clear()
            with pytest.raises(RetriableError, match="the broker cannot be reached"):
                queue(argument)
            assert 1 <= len(calls) <= 2
        server.shutdown(socket.SHUT_RDWR)
