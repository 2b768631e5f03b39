"""AMQP 0-9-1 from bare sockets: every octet is ours, so that a test can also send wrong ones.

A `connection` owns its socket and sorts what arrives by channel. A `channel` sends methods and waits for answers. A close
that the node sends while something else is awaited is raised, with its code and text, so that no test waits in vain.
"""
import collections
import socket
import struct
import time

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
DEADLINE = 10.0

SPEC = """
connection.start         10 10  octet:version_major octet:version_minor table:server_properties longstr:mechanisms longstr:locales
connection.start-ok      10 11  table:client_properties shortstr:mechanism longstr:response shortstr:locale
connection.secure        10 20  longstr:challenge
connection.secure-ok     10 21  longstr:response
connection.tune          10 30  short:channel_max long:frame_max short:heartbeat
connection.tune-ok       10 31  short:channel_max long:frame_max short:heartbeat
connection.open          10 40  shortstr:virtual_host shortstr:reserved_1 bit:reserved_2
connection.open-ok       10 41  shortstr:reserved_1
connection.close         10 50  short:reply_code shortstr:reply_text short:class_id short:method_id
connection.close-ok      10 51
connection.blocked       10 60  shortstr:reason
connection.unblocked     10 61
channel.open             20 10  shortstr:reserved_1
channel.open-ok          20 11  longstr:reserved_1
channel.flow             20 20  bit:active
channel.flow-ok          20 21  bit:active
channel.close            20 40  short:reply_code shortstr:reply_text short:class_id short:method_id
channel.close-ok         20 41
access.request           30 10  shortstr:realm bit:exclusive bit:passive bit:active bit:write bit:read
access.request-ok        30 11  short:ticket
exchange.declare         40 10  short:ticket shortstr:exchange shortstr:type bit:passive bit:durable bit:auto_delete bit:internal bit:nowait table:arguments
exchange.declare-ok      40 11
exchange.delete          40 20  short:ticket shortstr:exchange bit:if_unused bit:nowait
exchange.delete-ok       40 21
exchange.bind            40 30  short:ticket shortstr:destination shortstr:source shortstr:routing_key bit:nowait table:arguments
exchange.bind-ok         40 31
exchange.unbind          40 40  short:ticket shortstr:destination shortstr:source shortstr:routing_key bit:nowait table:arguments
exchange.unbind-ok       40 51
queue.declare            50 10  short:ticket shortstr:queue bit:passive bit:durable bit:exclusive bit:auto_delete bit:nowait table:arguments
queue.declare-ok         50 11  shortstr:queue long:message_count long:consumer_count
queue.bind               50 20  short:ticket shortstr:queue shortstr:exchange shortstr:routing_key bit:nowait table:arguments
queue.bind-ok            50 21
queue.purge              50 30  short:ticket shortstr:queue bit:nowait
queue.purge-ok           50 31  long:message_count
queue.delete             50 40  short:ticket shortstr:queue bit:if_unused bit:if_empty bit:nowait
queue.delete-ok          50 41  long:message_count
queue.unbind             50 50  short:ticket shortstr:queue shortstr:exchange shortstr:routing_key table:arguments
queue.unbind-ok          50 51
basic.qos                60 10  long:prefetch_size short:prefetch_count bit:global
basic.qos-ok             60 11
basic.consume            60 20  short:ticket shortstr:queue shortstr:consumer_tag bit:no_local bit:no_ack bit:exclusive bit:nowait table:arguments
basic.consume-ok         60 21  shortstr:consumer_tag
basic.cancel             60 30  shortstr:consumer_tag bit:nowait
basic.cancel-ok          60 31  shortstr:consumer_tag
basic.publish            60 40  short:ticket shortstr:exchange shortstr:routing_key bit:mandatory bit:immediate
basic.return             60 50  short:reply_code shortstr:reply_text shortstr:exchange shortstr:routing_key
basic.deliver            60 60  shortstr:consumer_tag longlong:delivery_tag bit:redelivered shortstr:exchange shortstr:routing_key
basic.get                60 70  short:ticket shortstr:queue bit:no_ack
basic.get-ok             60 71  longlong:delivery_tag bit:redelivered shortstr:exchange shortstr:routing_key long:message_count
basic.get-empty          60 72  shortstr:reserved_1
basic.ack                60 80  longlong:delivery_tag bit:multiple
basic.reject             60 90  longlong:delivery_tag bit:requeue
basic.recover-async      60 100 bit:requeue
basic.recover            60 110 bit:requeue
basic.recover-ok         60 111
basic.nack               60 120 longlong:delivery_tag bit:multiple bit:requeue
tx.select                90 10
tx.select-ok             90 11
tx.commit                90 20
tx.commit-ok             90 21
confirm.select           85 10  bit:nowait
confirm.select-ok        85 11
"""

METHODS, NAMES = {}, {}
for _line in SPEC.strip().splitlines():
    _name, _class, _method, *_fields = _line.split()
    METHODS[_name] = (int(_class), int(_method), [tuple(f.split(":")) for f in _fields])
    NAMES[(int(_class), int(_method))] = _name
WITH_CONTENT = {"basic.deliver", "basic.return", "basic.get-ok"}

PROPERTIES = [("content_type", "shortstr"), ("content_encoding", "shortstr"), ("headers", "table"),
              ("delivery_mode", "octet"), ("priority", "octet"), ("correlation_id", "shortstr"),
              ("reply_to", "shortstr"), ("expiration", "shortstr"), ("message_id", "shortstr"),
              ("timestamp", "longlong"), ("type", "shortstr"), ("user_id", "shortstr"), ("app_id", "shortstr"),
              ("cluster_id", "shortstr")]

PACKED = {"octet": ">B", "short": ">H", "long": ">I", "longlong": ">Q"}
FIELD_PACKED = {"b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">q", "f": ">f",
                "d": ">d", "T": ">Q"}


class typed(collections.namedtuple("typed", "letter value")):
    """A field value whose wire type the test chooses itself."""


class gone(Exception):
    """The socket ended: end of stream or reset."""


class closed(Exception):
    """The node sent connection.close or channel.close."""

    def __init__(self, method):
        self.name, self.code, self.text = method.name, method.reply_code, method.reply_text
        self.class_id, self.method_id = method.class_id, method.method_id
        super().__init__(f"{self.name} {self.code} {self.text} ({self.class_id}, {self.method_id})")


class received:
    """A method, with its properties and body when it carries content."""

    def __init__(self, name, arguments):
        self.name, self.arguments, self.properties, self.body = name, arguments, {}, b""

    def __getattr__(self, name):
        try:
            return self.__dict__["arguments"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self):
        return f"{self.name}{self.arguments}"


def shortstr(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">B", len(data)) + data


def longstr(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(data)) + data


def field(value):
    if isinstance(value, typed):
        letter, value = value
        if letter in FIELD_PACKED:
            return letter.encode() + struct.pack(FIELD_PACKED[letter], value)
        if letter == "D":
            return b"D" + struct.pack(">Bi", *value)
        if letter == "t":
            return b"t" + struct.pack(">B", value)
        if letter in "xS":
            return letter.encode() + longstr(value)
        return letter.encode() + value
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t" + struct.pack(">B", value)
    if isinstance(value, int):
        return b"I" + struct.pack(">i", value) if -2**31 <= value < 2**31 else b"l" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, dict):
        return b"F" + table(value)
    if isinstance(value, (list, tuple)):
        return b"A" + longstr(b"".join(field(v) for v in value))
    return b"S" + longstr(value)


def table(values):
    return longstr(b"".join(shortstr(k) + field(v) for k, v in values.items()))


class reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise ValueError("the node sent a method that ends too early")
        self.at += size
        return self.data[self.at - size:self.at]

    def unpack(self, code):
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def shortstr(self):
        return self.take(self.unpack(">B")).decode("utf-8", "surrogateescape")

    def longstr(self):
        return self.take(self.unpack(">I"))

    def field(self):
        letter = self.take(1).decode("latin-1")
        if letter in FIELD_PACKED:
            return typed(letter, self.unpack(FIELD_PACKED[letter]))
        if letter == "t":
            return bool(self.unpack(">B"))
        if letter == "S":
            return self.longstr().decode("utf-8", "surrogateescape")
        if letter == "x":
            return typed("x", self.longstr())
        if letter == "F":
            return self.table()
        if letter == "A":
            inner, values = reader(self.longstr()), []
            while inner.at < len(inner.data):
                values.append(inner.field())
            return values
        if letter == "D":
            return typed("D", (self.unpack(">B"), self.unpack(">i")))
        if letter == "V":
            return None
        raise ValueError(f"the node sent a field of unknown type {letter!r}")

    def table(self):
        inner, values = reader(self.longstr()), {}
        while inner.at < len(inner.data):
            name = inner.shortstr()
            values[name] = inner.field()
        return values


def frame(kind, channel_id, payload):
    return struct.pack(">BHI", kind, channel_id, len(payload)) + payload + FRAME_END


def method_payload(name, **arguments):
    class_id, method_id, fields = METHODS[name]
    out, bits, bit_count = struct.pack(">HH", class_id, method_id), 0, 0
    known = {field_name for _, field_name in fields}
    if set(arguments) - known:
        raise ValueError(f"{name} has no {set(arguments) - known}")
    for kind, field_name in fields:
        value = arguments.get(field_name)
        if kind == "bit":
            bits |= bool(value) << bit_count
            bit_count += 1
            continue
        if bit_count:
            out, bits, bit_count = out + struct.pack(">B", bits), 0, 0
        if kind in PACKED:
            out += struct.pack(PACKED[kind], value or 0)
        elif kind == "shortstr":
            out += shortstr(value or "")
        elif kind == "longstr":
            out += longstr(value or "")
        else:
            out += table(value or {})
    return out + struct.pack(">B", bits) if bit_count else out


def decode_method(payload):
    data = reader(payload)
    name = NAMES[(data.unpack(">H"), data.unpack(">H"))]
    values, bit_at, bits = {}, 8, 0
    for kind, field_name in METHODS[name][2]:
        if kind == "bit":
            if bit_at == 8:
                bits, bit_at = data.unpack(">B"), 0
            values[field_name] = bool(bits >> bit_at & 1)
            bit_at += 1
            continue
        bit_at = 8
        if kind in PACKED:
            values[field_name] = data.unpack(PACKED[kind])
        elif kind == "shortstr":
            values[field_name] = data.shortstr()
        elif kind == "longstr":
            values[field_name] = data.longstr()
        else:
            values[field_name] = data.table()
    return received(name, values)


def header_payload(size, properties=None, class_id=60):
    flags, out = 0, b""
    for index, (name, kind) in enumerate(PROPERTIES):
        value = (properties or {}).get(name)
        if value is None:
            continue
        flags |= 1 << (15 - index)
        if kind in PACKED:
            out += struct.pack(PACKED[kind], value)
        else:
            out += shortstr(value) if kind == "shortstr" else table(value)
    return struct.pack(">HHQH", class_id, 0, size, flags) + out


def decode_header(payload):
    data = reader(payload)
    data.take(4)
    size, flags, values = data.unpack(">Q"), data.unpack(">H"), {}
    for index, (name, kind) in enumerate(PROPERTIES):
        if flags >> (15 - index) & 1:
            if kind in PACKED:
                values[name] = data.unpack(PACKED[kind])
            else:
                values[name] = data.shortstr() if kind == "shortstr" else data.table()
    return size, values


def publish_frames(exchange, routing_key, body, properties=None, channel_id=1, frame_max=131072, mandatory=False,
                   immediate=False):
    out = frame(FRAME_METHOD, channel_id, method_payload("basic.publish", exchange=exchange, routing_key=routing_key,
                                                         mandatory=mandatory, immediate=immediate))
    out += frame(FRAME_HEADER, channel_id, header_payload(len(body), properties))
    for at in range(0, len(body), frame_max - 8):
        out += frame(FRAME_BODY, channel_id, body[at:at + frame_max - 8])
    return out


class connection:
    def __init__(self, port, host="127.0.0.1", timeout=DEADLINE):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.inbox = collections.defaultdict(collections.deque)
        self.partial = {}
        self.frame_max = 131072
        self.heartbeats = 0
        self.start = self.tune = None

    def send_raw(self, data):
        try:
            self.sock.settimeout(DEADLINE)
            self.sock.sendall(data)
        except (ConnectionError, BrokenPipeError) as error:
            raise gone(str(error)) from None

    def send(self, channel_id, name, **arguments):
        self.send_raw(frame(FRAME_METHOD, channel_id, method_payload(name, **arguments)))

    def read_some(self, timeout):
        self.sock.settimeout(max(timeout, 0.001))
        try:
            data = self.sock.recv(1 << 18)
        except socket.timeout:
            raise TimeoutError("the node did not answer in time") from None
        except ConnectionError as error:
            raise gone(str(error)) from None
        if not data:
            raise gone("end of stream")
        self.buffer += data

    def read_frame(self, timeout=DEADLINE):
        deadline = time.monotonic() + timeout
        while True:
            if len(self.buffer) >= 7:
                kind, channel_id, size = struct.unpack_from(">BHI", self.buffer)
                if len(self.buffer) >= size + 8:
                    payload, end = bytes(self.buffer[7:7 + size]), self.buffer[7 + size]
                    del self.buffer[:size + 8]
                    if end != 0xCE:
                        raise ValueError("the node sent a frame with a wrong end")
                    return kind, channel_id, payload
            self.read_some(deadline - time.monotonic())

    def pump(self, timeout=DEADLINE):
        """Reads one frame and puts what it completes into its channel's inbox."""
        kind, channel_id, payload = self.read_frame(timeout)
        if kind == FRAME_HEARTBEAT:
            self.heartbeats += 1
            return
        if kind == FRAME_METHOD:
            method = decode_method(payload)
            if method.name in WITH_CONTENT:
                self.partial[channel_id] = [method, None]
            else:
                self.inbox[channel_id].append(method)
            return
        method, left = self.partial[channel_id]
        if kind == FRAME_HEADER:
            left, method.properties = decode_header(payload)
            method.body = bytearray()
        else:
            method.body += payload
            left -= len(payload)
        if left > 0:
            self.partial[channel_id] = [method, left]
        else:
            method.body = bytes(method.body)
            del self.partial[channel_id]
            self.inbox[channel_id].append(method)

    def check_closed(self):
        for method in self.inbox[0]:
            if method.name == "connection.close":
                self.inbox[0].remove(method)
                try:
                    self.send(0, "connection.close-ok")
                except gone:
                    pass
                raise closed(method)

    def wait(self, channel_id, *names, timeout=DEADLINE):
        """The first method that arrived on the channel and has one of these names; others stay, in order."""
        deadline = time.monotonic() + timeout
        while True:
            for method in self.inbox[channel_id]:
                if method.name in names:
                    self.inbox[channel_id].remove(method)
                    return method
                if method.name == "channel.close" and channel_id:
                    self.inbox[channel_id].remove(method)
                    self.send(channel_id, "channel.close-ok")
                    raise closed(method)
            if "connection.close" not in names:
                self.check_closed()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"none of {names} arrived on channel {channel_id}")
            try:
                self.pump(left)
            except TimeoutError:
                raise TimeoutError(f"none of {names} arrived on channel {channel_id}") from None

    def open(self, user="guest", password="guest", vhost="/", heartbeat=0, channel_max=None, frame_max=None,
             mechanism="PLAIN", capabilities=None, response=None):
        self.send_raw(PROTOCOL_HEADER)
        self.start = self.wait(0, "connection.start")
        if response is None:
            if mechanism == "PLAIN":
                response = f"\0{user}\0{password}"
            else:
                response = table({"LOGIN": user, "PASSWORD": password})[4:]
        properties = {"product": "e2e", "capabilities": {
            "authentication_failure_close": True, "consumer_cancel_notify": True, "connection.blocked": True,
            "basic.nack": True, "publisher_confirms": True} if capabilities is None else capabilities}
        self.send(0, "connection.start-ok", client_properties=properties, mechanism=mechanism, response=response,
                  locale="en_US")
        self.tune = self.wait(0, "connection.tune")
        self.frame_max = self.tune.frame_max if frame_max is None else frame_max
        self.send(0, "connection.tune-ok", heartbeat=heartbeat, frame_max=self.frame_max,
                  channel_max=self.tune.channel_max if channel_max is None else channel_max)
        self.send(0, "connection.open", virtual_host=vhost)
        self.wait(0, "connection.open-ok")
        return self

    def channel(self, channel_id=1):
        return channel(self, channel_id).open()

    def close(self):
        """Says goodbye and waits for the answer, so that what was sent before has been handled."""
        try:
            self.send(0, "connection.close", reply_code=200, reply_text="done")
            self.wait(0, "connection.close-ok", timeout=5)
        except (gone, closed, TimeoutError, OSError):
            pass
        self.drop()

    def drop(self):
        self.sock.close()

    def wait_gone(self, timeout=DEADLINE):
        """Reads until the node ends the stream."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.read_some(deadline - time.monotonic())
            except gone:
                return

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.drop()


class channel:
    def __init__(self, owner, channel_id):
        self.owner, self.id, self.published = owner, channel_id, 0

    def open(self):
        self.call("channel.open")
        return self

    def send(self, name, **arguments):
        self.owner.send(self.id, name, **arguments)

    def wait(self, *names, timeout=DEADLINE):
        return self.owner.wait(self.id, *names, timeout=timeout)

    def call(self, name, timeout=DEADLINE, **arguments):
        self.send(name, **arguments)
        if name == "basic.get":
            return self.wait("basic.get-ok", "basic.get-empty", timeout=timeout)
        return self.wait(name + "-ok", timeout=timeout)

    def publish(self, exchange, routing_key, body, mandatory=False, immediate=False, **properties):
        self.published += 1
        self.owner.send_raw(publish_frames(exchange, routing_key, body.encode() if isinstance(body, str) else body,
                                           properties, self.id, self.owner.frame_max, mandatory, immediate))

    def confirm(self, up_to=None, timeout=DEADLINE):
        """Waits until every publish on this channel is confirmed; fails on a nack."""
        missing = set(range(getattr(self, "confirmed_up_to", 0) + 1, (up_to or self.published) + 1))
        while missing:
            answer = self.wait("basic.ack", "basic.nack", timeout=timeout)
            if answer.name == "basic.nack":
                raise AssertionError(f"publish {answer.delivery_tag} was refused")
            if answer.multiple:
                missing = {n for n in missing if n > answer.delivery_tag}
            else:
                missing.discard(answer.delivery_tag)
        self.confirmed_up_to = up_to or self.published

    # What nearly every test needs, with the defaults that it needs.
    def queue(self, name="", **arguments):
        return self.call("queue.declare", queue=name, **arguments)

    def exchange(self, name, kind, **arguments):
        return self.call("exchange.declare", exchange=name, type=kind, **arguments)

    def bind(self, queue, exchange, key="", **arguments):
        return self.call("queue.bind", queue=queue, exchange=exchange, routing_key=key, arguments=arguments)

    def get(self, queue, no_ack=False):
        return self.call("basic.get", queue=queue, no_ack=no_ack)

    def consume(self, queue, tag="", **arguments):
        return self.call("basic.consume", queue=queue, consumer_tag=tag, **arguments).consumer_tag

    def deliveries(self, count, timeout=DEADLINE):
        deadline = time.monotonic() + timeout
        return [self.wait("basic.deliver", timeout=deadline - time.monotonic()) for _ in range(count)]

    def count(self, queue):
        """Ready messages, and consumers, as a passive declare tells them."""
        answer = self.queue(queue, passive=True)
        return answer.message_count, answer.consumer_count
