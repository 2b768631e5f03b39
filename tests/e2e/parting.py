"""How a connection ends when its client has not finished writing: the last words arrive, and nothing is reset.

A client library has a queue for each channel, and its connection.close may overtake thousands of publishes. If the node
closed the socket with these unread, its kernel would send a reset, and the client would hear of a broken pipe instead of
close-ok. Nor does the node end its stream behind close-ok: several threads of a client may close the same connection, and
each of them waits for a close-ok of its own.
"""
import select
import ssl
import time

from amqp_raw import FRAME_METHOD, frame, gone, method_payload, publish_frames
from harness import equal, require
from transport import authority, client_context, logged, over, tls_options, tls_socket

CLOSE = frame(FRAME_METHOD, 0, method_payload("connection.close", reply_code=200, reply_text="done"))
CLOSE_OK = frame(FRAME_METHOD, 0, method_payload("connection.close-ok"))
BURST = publish_frames("", "nowhere", b"x" * 1000) * 4000  # more than the kernel keeps for both sides


def answered(sock, timeout=10):
    """Waits until the node has said something, without reading it."""
    require(select.select([sock], [], [], timeout)[0], "the node says nothing")


def to_the_end(connection, timeout=10):
    """The methods of channel 0 that still come, until the node ends the stream in good order."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.pump(max(deadline - time.monotonic(), 0.001))
        except gone as end:
            equal(str(end), "end of stream", "how the node closes the socket")
            return [method.name for method in connection.inbox[0]]


def writes_on_after_its_close(connection, exclusive=False):
    channel = connection.channel()
    if exclusive:
        channel.queue(exclusive=True)
    connection.send_raw(CLOSE)
    answered(connection.sock)
    connection.send_raw(BURST)
    connection.wait(0, "connection.close-ok")
    connection.send_raw(CLOSE)
    connection.wait(0, "connection.close-ok")  # so all that came before it was read
    connection.drop()


def test_who_writes_on_after_its_close_hears_close_ok(t):
    writes_on_after_its_close(t.shared_node().connect())
    writes_on_after_its_close(t.shared_node().connect(), exclusive=True)


def test_each_close_is_answered(t):
    for exclusive in (False, True):
        connection = t.shared_node().connect()
        channel = connection.channel()
        if exclusive:
            channel.queue(exclusive=True)
        connection.send_raw(CLOSE * 3)  # of three threads
        for _ in range(3):
            connection.wait(0, "connection.close-ok")
        connection.send_raw(CLOSE)  # of a fourth, which is late
        connection.wait(0, "connection.close-ok")
        equal(list(connection.inbox[0]), [], "what else the client hears")
        connection.drop()


def test_a_close_that_crosses_one_of_ours_is_answered(t):
    connection = t.shared_node().connect()
    channel = connection.channel()
    channel.send("basic.qos", prefetch_size=1, prefetch_count=0)
    connection.wait(0, "connection.close")
    connection.send_raw(CLOSE * 2)
    connection.wait(0, "connection.close-ok")
    connection.wait(0, "connection.close-ok")
    connection.send_raw(CLOSE_OK)
    equal(to_the_end(connection), [], "what else the client hears")
    connection.drop()


def test_what_stands_behind_a_close_is_thrown_away(t):
    with t.shared_node().connect() as other:
        queue = other.channel().queue(t.unique("late"), exclusive=True).queue
        connection = t.shared_node().connect()
        connection.channel()
        connection.send_raw(CLOSE + publish_frames("", queue, b"late") + CLOSE)
        connection.wait(0, "connection.close-ok")
        connection.wait(0, "connection.close-ok")
        connection.drop()
        equal(other.channel(2).queue(queue, passive=True).message_count, 0, "what was published behind the close")


def test_who_writes_on_after_a_close_of_ours_is_not_reset(t):
    connection = t.shared_node().connect()
    channel = connection.channel()
    channel.send("basic.qos", prefetch_size=1, prefetch_count=0)
    answered(connection.sock)
    connection.send_raw(BURST + CLOSE_OK)
    equal(to_the_end(connection), ["connection.close"], "what the client hears")
    connection.send_raw(BURST)  # what another of its threads had to say
    connection.drop()


def test_who_writes_on_over_tls_hears_close_ok(t):
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node")))
    logged(node, "the node speaks TLS")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        writes_on_after_its_close(over(tls_socket(node.port, client_context(root, only=version))).open())


def test_who_never_stops_writing_is_cut_off(t):
    if t.suite.peer:
        return
    connection = t.shared_node().connect()
    connection.channel()
    connection.send_raw(CLOSE)
    answered(connection.sock)
    began = time.monotonic()
    try:
        while time.monotonic() - began < 20:
            connection.send_raw(BURST[:100_000])
            time.sleep(0.01)  # its pace; nobody waits for it
        raise AssertionError("the node reads for ever")
    except gone:
        pass
    finally:
        connection.drop()
    require(time.monotonic() - began > 2, "the node cuts off at once who still writes")


def test_who_leaves_with_words_unread_holds_nothing_up(t):
    """A hundred that say goodbye and stay: they count no more, and the node goes on."""
    node = t.shared_node()
    quiet = [node.connect() for _ in range(100)]
    for connection in quiet:
        t.on_exit(connection.drop)
        connection.send_raw(CLOSE)
    for connection in quiet:
        equal(to_the_end(connection), ["connection.close-ok"])
    with node.connect() as connection:
        connection.channel()
