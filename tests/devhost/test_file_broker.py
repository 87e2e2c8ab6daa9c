"""The broker made of files: messages arrive whole and once, and come back when whoever took them died."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from kombu import Connection, Exchange, Queue

from devhost import file_broker

QUEUE = Queue("work", Exchange("work"), routing_key="work")
FANOUT = Exchange("all", type="fanout")

TAKE_ONE_AND_HANG = """
import sys, time
from tests.devhost.test_file_broker import QUEUE, connect
with connect(sys.argv[1]) as connection:
    print(QUEUE(connection.channel()).get().payload, flush=True)
    time.sleep(60)
"""


def connect(folder):
    file_broker.register()
    options = {
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
        "processed_folder": f"{folder}/taken",
        "polling_interval": 0.01,
    }
    return Connection(f"{file_broker.SCHEME}://", transport_options=options)


@pytest.fixture
def connection(tmp_path):
    with connect(tmp_path) as connection:
        yield connection


def publish(connection, *messages):
    producer = connection.Producer()
    for message in messages:
        producer.publish(message, exchange=QUEUE.exchange, routing_key="work", declare=[QUEUE])


def take(connection, **options):
    queue = QUEUE(connection.channel())
    queue.declare()
    return queue.get(**options)


def message_files(folder):
    return [path for path in folder.rglob("*.msg")]


def test_messages_come_in_the_order_they_were_sent(connection):
    publish(connection, *range(20))
    assert [take(connection).payload for _ in range(20)] == list(range(20))
    assert take(connection) is None


def test_a_message_stays_on_disk_until_it_is_acknowledged(connection, tmp_path):
    publish(connection, "a")
    message = take(connection)
    assert len(message_files(tmp_path / "taken")) == 1
    assert take(connection) is None
    message.ack()
    assert message_files(tmp_path) == []


def test_a_message_taken_without_acknowledgement_is_gone_at_once(connection, tmp_path):
    publish(connection, "a", "b")
    assert take(connection, no_ack=True).payload == "a"
    assert len(message_files(tmp_path)) == 1
    received = []
    with connection.Consumer(QUEUE, callbacks=[lambda body, message: received.append(body)], no_ack=True):
        connection.drain_events(timeout=30)
    assert received == ["b"]
    assert message_files(tmp_path) == []


def test_a_rejected_message_is_dropped_or_comes_back(connection, tmp_path):
    publish(connection, "a")
    take(connection).requeue()
    message = take(connection)
    assert message.payload == "a"
    message.reject()
    assert message_files(tmp_path) == []


def test_closing_gives_back_what_was_not_acknowledged(connection, tmp_path):
    publish(connection, "a", "b")
    with connect(tmp_path) as other:
        take(other).ack()
        assert take(other).payload == "b"
        assert take(connection) is None
    assert take(connection).payload == "b"


def test_what_a_killed_process_had_taken_comes_back(connection, tmp_path, monkeypatch):
    monkeypatch.setattr(file_broker, "SECONDS_BETWEEN_LOOKS_FOR_THE_DEAD", 0)
    publish(connection, "precious")
    holder = subprocess.Popen(
        [sys.executable, "-c", TAKE_ONE_AND_HANG, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert holder.stdout.readline() == b"precious\n"
        assert take(connection) is None
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert take(connection).payload == "precious"
    assert len(list((tmp_path / "taken").iterdir())) == 1


def test_a_reader_never_sees_half_a_message(connection, tmp_path):
    """With kombu's own transport a few of a thousand are lost here."""
    count = 1000
    publish(connection, "first")

    def send():
        with connect(tmp_path) as other:
            publish(other, *({"n": n, "padding": "x" * 20_000} for n in range(count)))

    sender = threading.Thread(target=send)
    sender.start()
    seen = 0
    until = time.monotonic() + 60
    queue = QUEUE(connection.channel())
    while seen < count + 1 and time.monotonic() < until:
        message = queue.get()
        if message:
            message.ack()
            seen += 1
    sender.join()
    assert seen == count + 1


def test_every_queue_of_a_fanout_gets_the_message(connection):
    channel = connection.channel()
    queues = [Queue(name, FANOUT)(channel) for name in ("one", "two")]
    for queue in queues:
        queue.declare()
    connection.Producer(channel).publish("hello", exchange=FANOUT)
    assert [queue.get().payload for queue in queues] == ["hello", "hello"]
    queues[0].delete()
    connection.Producer(channel).publish("again", exchange=FANOUT)
    assert queues[1].get().payload == "again"
    assert queues[0].get() is None


def test_a_message_sent_after_the_folder_was_emptied_arrives(connection, tmp_path):
    publish(connection, "lost")
    for folder in ("queue", "control"):
        shutil.rmtree(tmp_path / folder)
    publish(connection, "kept")
    assert take(connection).payload == "kept"


def test_queues_declared_at_the_same_time_are_all_known(tmp_path):
    def declare(number):
        with connect(tmp_path) as own:
            Queue(f"q{number}", FANOUT)(own.channel()).declare()

    threads = [threading.Thread(target=declare, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connect(tmp_path) as own:
        assert {row.queue for row in own.channel().get_table("all")} == {f"q{number}" for number in range(12)}
