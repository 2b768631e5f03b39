"""What the tests of the numbered behaviours stand on: channels and names that go with the test, and answers as text.

An answer is compared as one line, `ok` or `channel.close 406 PRECONDITION_FAILED - … (50, 10)`: kind, code, text, and
class and method of the offending method. So a table of requests can be judged as a whole, and a failure shows every line
that differs.
"""
import contextlib
import time

import amqp_raw
from amqp_raw import closed, gone
from harness import equal, poll

NAMES = {311: "CONTENT_TOO_LARGE", 312: "NO_ROUTE", 313: "NO_CONSUMERS", 320: "CONNECTION_FORCED", 402: "INVALID_PATH",
         403: "ACCESS_REFUSED", 404: "NOT_FOUND", 405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED", 501: "FRAME_ERROR",
         502: "SYNTAX_ERROR", 503: "COMMAND_INVALID", 504: "CHANNEL_ERROR", 505: "UNEXPECTED_FRAME", 506: "RESOURCE_ERROR",
         530: "NOT_ALLOWED", 540: "NOT_IMPLEMENTED", 541: "INTERNAL_ERROR"}
CONNECTION_ERRORS = {320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541}

# Methods that the raw client does not have.
for _name, _class, _method, _fields in (("tx.rollback", 90, 30, []), ("tx.rollback-ok", 90, 31, []),
                                        ("connection.update-secret", 10, 70, [("longstr", "new_secret"),
                                                                              ("shortstr", "reason")]),
                                        ("connection.update-secret-ok", 10, 71, [])):
    amqp_raw.METHODS[_name] = (_class, _method, _fields)
    amqp_raw.NAMES[(_class, _method)] = _name


def reply_text(code, explanation):
    """`NAME - explanation`; beyond 255 octets, the end is cut off and replaced by three dots."""
    text = f"{NAMES[code]} - {explanation}"
    return text if len(text) <= 255 else text[:252] + "..."


def refusal(code, explanation, within, kind=None):
    """The line of a close. `within`: class and method of the offending method."""
    kind = kind or ("connection" if code in CONNECTION_ERRORS else "channel")
    return f"{kind}.close {code} {reply_text(code, explanation)} {within}"


def line(close):
    return f"{close.name} {close.code} {close.text} ({close.class_id}, {close.method_id})"


def same(pairs):
    """Pairs of (what, actual, expected); one failure names all that differ."""
    wrong = [f"{what}\n    expected {expected!r}\n    got      {actual!r}"
             for what, actual, expected in pairs if actual != expected]
    if wrong:
        raise AssertionError("\n".join(["", *wrong]))


@contextlib.contextmanager
def refused(code, explanation, within, kind=None):
    """The body must end with exactly this close."""
    try:
        yield
    except closed as close:
        equal(line(close), refusal(code, explanation, within, kind))
        return
    raise AssertionError(f"nothing was closed; expected {refusal(code, explanation, within, kind)}")


def connect(t, node=None, **arguments):
    """A connection that ends with the test."""
    connection = (node or t.shared_node()).connect(**arguments)
    t.on_exit(connection.drop)
    return connection


def open_channel(t, node=None, **arguments):
    return connect(t, node, **arguments).channel()


class asker:
    """A channel to ask with: it is opened again after each refusal, on a new connection if need be."""

    def __init__(self, t, node=None, **login):
        self.t, self.node, self.login = t, node, login
        self.channel = open_channel(t, node, **login)

    def __call__(self, method, **arguments):
        return self.judge(lambda: self.channel.call(method, **arguments))

    def judge(self, action):
        """Runs what may be refused; returns its line, or `ok`."""
        try:
            action()
            return "ok"
        except closed as close:
            if close.name == "channel.close":
                self.channel = self.channel.owner.channel(self.channel.id)
            else:
                self.channel.owner.drop()
                self.channel = open_channel(self.t, self.node, **self.login)
            return line(close)
        except gone as end:
            self.channel = open_channel(self.t, self.node, **self.login)
            return f"gone: {end}"

    def publish(self, exchange, key, body=b"x", **properties):
        """Publishes, and waits for what comes of it: `ok` means that the channel lived on."""
        def action():
            self.channel.publish(exchange, key, body, **properties)
            self.channel.call("basic.qos")
        return self.judge(action)


def later(t, method, vhost="/", node=None, **arguments):
    """A request that is made when the test ends, whatever comes of it."""
    def action():
        with contextlib.suppress(closed, gone, TimeoutError):
            connection = (node or t.shared_node()).connect(vhost=vhost)
            try:
                connection.channel().call(method, timeout=5, **arguments)
            finally:
                connection.drop()
    t.on_exit(action)


def kept_queue(t, channel, stem="q", vhost="/", node=None, **arguments):
    """A durable queue with these arguments, deleted when the test ends; returns its name."""
    name = t.unique(stem)
    later(t, "queue.delete", vhost, node, queue=name)
    channel.queue(name, durable=True, arguments=arguments)
    return name


def own_queue(t, channel, stem="q", **arguments):
    """An exclusive queue with these arguments; returns its name."""
    return channel.queue(t.unique(stem), exclusive=True, arguments=arguments).queue


def quorum_queue(t, channel, stem="quorum", **arguments):
    return kept_queue(t, channel, stem, **{"x-queue-type": "quorum", **arguments})


def kept_exchange(t, channel, kind="direct", stem="x", vhost="/", arguments=None, **flags):
    name = t.unique(stem)
    later(t, "exchange.delete", vhost, exchange=name)
    channel.exchange(name, kind, arguments=arguments, **flags)
    return name


def confirming(channel):
    """The channel, with confirms from here on."""
    if not getattr(channel, "confirms", False):
        channel.call("confirm.select")
        channel.confirms, channel.published, channel.confirmed_up_to = True, 0, 0
    return channel


def publish(channel, queue, *publishes, **properties):
    """Publishes to a queue, and waits until the queue has it all."""
    confirming(channel)
    for body in publishes:
        channel.publish("", queue, body, **properties)
    channel.confirm()


def outcome(channel, count=1):
    """The answers to so many publishes of a confirming channel: `ack` or `nack` by number, as they stand in the end."""
    answers, before = {}, getattr(channel, "judged", 0)
    while len(answers) < count:
        answer = channel.wait("basic.ack", "basic.nack")
        for tag in range(before + 1 if answer.multiple else answer.delivery_tag, answer.delivery_tag + 1):
            if not answer.multiple and tag in answers:
                raise AssertionError(f"publish {tag} was answered twice")
            answers.setdefault(tag, answer.name[6:])
    channel.judged = before + count
    return [answers[tag] for tag in sorted(answers)]


def got(channel, queue):
    """Every ready message, taken for good."""
    out = []
    while (answer := channel.get(queue, no_ack=True)).name == "basic.get-ok":
        out.append(answer)
    return out


def bodies(messages):
    return [each.body for each in messages]


def wait_for(channel, queue, ready, consumers=None):
    """Polls until so many messages are ready."""
    seen = []

    def there():
        seen[:] = channel.count(queue)
        return seen[0] == ready and consumers in (None, seen[1])
    try:
        poll("", there)
    except AssertionError:
        raise AssertionError(f"{queue}: expected {ready} ready messages, has (messages, consumers) {tuple(seen)}") from None


def empty_for(channel, seconds, *queues):
    """Whether nothing was ready in any of them for so long; says so as soon as something was."""
    since = time.monotonic()
    while elapsed(since) < seconds:
        if any(channel.count(queue)[0] for queue in queues):
            return False
    return True


def get_soon(channel, queue, no_ack=True, timeout=10.0):
    """The next message, as soon as there is one."""
    def there():
        answer = channel.get(queue, no_ack=no_ack)
        return answer if answer.name == "basic.get-ok" else None
    return poll(f"a message in {queue}", there, timeout)


def silent(channel, *names, seconds=0.2):
    """Nothing of these names arrives for a while: for what no answer can stand for."""
    try:
        answer = channel.wait(*names, timeout=seconds)
    except TimeoutError:
        return
    raise AssertionError(f"unexpected {answer!r} {answer.body!r}")


def is_gone(channel, queue):
    try:
        channel.queue(queue, passive=True)
        return False
    except closed as close:
        equal(close.code, 404)
        channel.open()
        return True


def long(value):
    return amqp_raw.typed("l", value)


def integer(value):
    return amqp_raw.typed("I", value)


def elapsed(since):
    return time.monotonic() - since
