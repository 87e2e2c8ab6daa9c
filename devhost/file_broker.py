"""A Celery broker made of files: no server, and a task goes only when it is done, as with RabbitMQ.

Kombu's own filesystem transport opens a message under its final name before it has written it, so a
worker that looks at that moment reads half of it; and it removes a message when a worker takes it, so
`acks_late` means nothing. Here a message appears whole, a worker that takes one moves it into a folder of
its own, and it is removed when the worker says that it is done. The folder of a process that has died is
known by its lock, which went with the process; any other worker gives its messages back.
"""

import fcntl
import json
import os
import tempfile
import time
from pathlib import Path
from queue import Empty
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual

SCHEME = "filebroker"
SECONDS_BETWEEN_LOOKS_FOR_THE_DEAD = 2

_own_folders = {}


def own_folder(root):
    """The folder of this process for what it has taken; its lock is held as long as the process lives.

    A POSIX lock, because that is not inherited: the pool of a killed worker may outlive it.
    """
    key = (os.getpid(), root)
    if key not in _own_folders or not _own_folders[key][0].is_dir():
        new = Path(tempfile.mkdtemp(prefix=".", dir=root))
        lock = (new / "lock").open("w")
        fcntl.lockf(lock, fcntl.LOCK_EX)
        folder = root / f"{os.getpid()}-{uuid4().hex}"
        new.rename(folder)
        _own_folders[key] = (folder, lock)
    return _own_folders[key][0]


def write_whole(path, content):
    """Writes JSON so that the name appears, or changes, only with all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{uuid4().hex}")
    hidden.write_text(json.dumps(content))
    hidden.replace(path)


class QoS(virtual.QoS):
    """Removes the file of a message once it is acknowledged."""

    def ack(self, delivery_tag):
        self.channel.forget(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag, requeue=False):
        super().reject(delivery_tag, requeue)
        self.channel.forget(delivery_tag)


class Channel(filesystem.Channel):
    QoS = QoS

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._taken = {}
        self._next_look = 0.0
        for folder in (self.data_folder_in, self.data_folder_out, self.control_folder, self.processed_folder):
            Path(folder).mkdir(parents=True, exist_ok=True)

    def _put(self, queue, payload, **kwargs):
        name = f"{time.time_ns():020}_{uuid4().hex}.{queue}.msg"
        write_whole(Path(self.data_folder_out, name), payload)

    def _get(self, queue):
        self._give_back_of_the_dead()
        folder = Path(self.data_folder_in)
        if not folder.is_dir():
            raise Empty
        for name in sorted(path.name for path in folder.iterdir()):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = own_folder(Path(self.processed_folder)) / name
            try:
                (folder / name).rename(taken)
            except FileNotFoundError:
                continue  # Another worker was quicker.
            payload = json.loads(taken.read_text())
            self._taken[payload["properties"]["delivery_tag"]] = taken
            return payload
        raise Empty

    def forget(self, delivery_tag):
        """The message is done with."""
        taken = self._taken.pop(delivery_tag, None)
        if taken:
            taken.unlink(missing_ok=True)

    def _restore(self, message):
        taken = self._taken.pop(message.delivery_tag, None)
        if taken:
            taken.rename(Path(self.data_folder_in, taken.name))

    def basic_consume(self, queue, no_ack, callback, consumer_tag, **kwargs):
        def at_once(message):
            self.forget(message.delivery_tag)
            return callback(message)

        super().basic_consume(queue, no_ack, at_once if no_ack else callback, consumer_tag, **kwargs)

    def basic_get(self, queue, no_ack=False, **kwargs):
        message = super().basic_get(queue, no_ack, **kwargs)
        if message is not None and no_ack:
            self.forget(message.delivery_tag)
        return message

    def _give_back_of_the_dead(self):
        """Puts what processes that are gone had taken, and not done, back into the queue."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS_FOR_THE_DEAD
        root = Path(self.processed_folder)
        for folder in set(root.glob("[!.]*")) - {own_folder(root)}:
            try:
                with (folder / "lock").open("r+") as lock:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for message in folder.glob("*.msg"):
                        message.rename(Path(self.data_folder_in, message.name))
                    (folder / "lock").unlink()
                    folder.rmdir()
            except OSError:
                continue  # Its process lives, or another worker was quicker.

    # Which queues an exchange leads to is kept in a file, too, and read by everybody.

    def _bindings(self, exchange):
        return Path(self.control_folder, f"{exchange}.exchange")

    def _stored_table(self, exchange):
        """Rows of (routing key, pattern, queue), or None if no queue was ever bound."""
        try:
            rows = json.loads(self._bindings(exchange).read_text())
        except FileNotFoundError:
            return None
        return [filesystem.exchange_queue_t(*row) for row in rows]

    def get_table(self, exchange):
        table = self._stored_table(exchange)
        if table is None:
            # Somebody has emptied the folder, perhaps: what this process knows.
            keys = [key for key in self.state.bindings if key.exchange == exchange]
            table = [filesystem.exchange_queue_t(key.routing_key or "", "", key.queue) for key in keys]
        return table

    def _change_table(self, exchange, change):
        with Path(self.control_folder, ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self._stored_table(exchange) or []
            after = change(before)
            if after != before:
                write_whole(self._bindings(exchange), after)

    def _queue_bind(self, exchange, routing_key, pattern, queue):
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda table: table if row in table else [row, *table])

    def _delete(self, queue, exchange, routing_key, pattern, *args, **kwargs):
        virtual.Channel._delete(self, queue, *args, **kwargs)
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda table: [other for other in table if other != row])


class Transport(filesystem.Transport):
    Channel = Channel

    def __init__(self, client, **kwargs):
        super().__init__(client, **kwargs)
        # Kombu shares this among all connections of a process, also those to other folders.
        self.state = virtual.BrokerState()


def register():
    """Makes the URL `filebroker://` known."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"
