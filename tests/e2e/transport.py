"""What comes before AMQP: TLS and client certificates, proxies, HTTP on the port of AMQP, and whoever never gets to AMQP;
and the alarm that publishers get when memory runs out.

Certificates are made for each test by the openssl command.
"""
import contextlib
import http.client
import os
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import pika

import amqp_raw
from amqp_raw import PROTOCOL_HEADER, closed, gone
from harness import equal, free_port, poll, require, skip

V2 = b"\r\n\r\n\0\r\nQUIT\n"


class authority:
    """Makes certificates in a directory, and signs them."""

    def __init__(self, directory, name="authority"):
        self.directory, self.name = directory, name
        os.makedirs(directory, exist_ok=True)
        self.key, self.certificate = self.path(name, "key"), self.path(name, "pem")
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                     "-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={name}")

    def path(self, name, kind):
        return os.path.join(self.directory, f"{name}.{kind}")

    @staticmethod
    def openssl(*arguments):
        try:
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
        except FileNotFoundError:
            raise skip("there is no openssl command") from None
        except subprocess.CalledProcessError as failure:
            raise AssertionError(f"openssl {arguments[0]}: {failure.stderr.decode()}") from None

    def issue(self, name, subject=None, names="DNS:localhost,IP:127.0.0.1", days=2):
        """Returns the paths of a certificate and its key."""
        key, request, certificate, more = (self.path(name, kind) for kind in ("key", "csr", "pem", "ext"))
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
                     "-out", request, "-subj", subject or f"/CN={name}")
        with open(more, "w", encoding="ascii") as out:
            out.write(f"subjectAltName={names}\n")
        self.openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days",
                     str(days), "-out", certificate, "-extfile", more)
        return certificate, key


class over(amqp_raw.connection):
    """The raw client, over a socket that is there."""

    def __init__(self, sock):  # pylint: disable=super-init-not-called
        self.sock = sock
        self.buffer = bytearray()
        self.inbox = amqp_raw.collections.defaultdict(amqp_raw.collections.deque)
        self.partial = {}
        self.frame_max = 131072
        self.heartbeats = 0
        self.start = self.tune = None


def tls_options(own, verify="none", ca=None, *more):
    certificate, key = own
    return ["--tls-certificate", certificate, "--tls-key", key, "--tls-verify", verify,
            *(["--tls-ca", ca] if ca else []), *more]


def client_context(root, pair=None, only=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(root.certificate)
    if pair:
        context.load_cert_chain(*pair)
    if only:
        context.minimum_version = context.maximum_version = only
    return context


def tls_socket(port, context, before=b""):
    """`before` goes ahead of TLS, in the plain."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    if before:
        plain.sendall(before)
    try:
        return context.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise


def logged(node, text):
    poll(f"the log says: {text}", lambda: text in node.log_tail(400))


def ended(sock, timeout=10):
    """All that still comes until the other side closes."""
    sock.settimeout(timeout)
    out = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := sock.recv(65536):
            out += data
    sock.close()
    return out


def descriptors(node):
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def through_pika(port, context, **more):
    parameters = pika.ConnectionParameters("127.0.0.1", port, heartbeat=0, socket_timeout=10, **more,
                                           ssl_options=pika.SSLOptions(context, "localhost") if context else None)
    return pika.BlockingConnection(parameters)


def round_trip(t, connection, size=300_000):
    channel, queue = connection.channel(), t.unique("tls")
    body = bytes(n & 0xff for n in range(size))
    channel.queue_declare(queue, exclusive=True)
    channel.confirm_delivery()
    channel.basic_publish("", queue, body)
    equal(channel.basic_get(queue, auto_ack=True)[2], body, "a body that came back")
    connection.close()


# --- TLS -----------------------------------------------------------------------------------------------------------

def test_tls_on_both_ports(t):
    root = authority(t.directory)
    port = free_port()
    node = t.node(options=tls_options(root.issue("node"), "none", None, "--amqps", f"127.0.0.1:{port}"))
    logged(node, "the node speaks TLS")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for at in (port, node.port):
            round_trip(t, through_pika(at, client_context(root, only=version)))
    round_trip(t, through_pika(node.port, None))  # and as ever
    plain = socket.create_connection(("127.0.0.1", port), 10)
    plain.sendall(PROTOCOL_HEADER)
    equal(ended(plain), b"", "who does not speak TLS is not answered on its port")
    logged(node, "it does not speak TLS")
    round_trip(t, through_pika(port, client_context(root)))


def test_tls_under_load(t):
    """Many large messages both ways, with a reader who rests: every octet, in order, and no one else waits."""
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "none", None))
    publisher, reader = (over(tls_socket(node.port, client_context(root))).open() for _ in range(2))
    queue = t.unique("load")
    channel = publisher.channel()
    channel.queue(queue)
    channel.call("confirm.select")
    reading = reader.channel()
    reading.call("basic.consume", queue=queue, no_ack=True)
    bodies = [os.urandom(1 << 20) for _ in range(24)]

    def publish():
        for body in bodies:
            publisher.send_raw(amqp_raw.publish_frames("", queue, body))

    sending = threading.Thread(target=publish)
    sending.start()
    sending.join(60)
    require(not sending.is_alive(), "the publisher still waits")
    # The node cannot send to who does not read; it serves others all the same.
    other = over(tls_socket(node.port, client_context(root))).open()
    other.channel().queue(t.unique("other"), exclusive=True)
    for n, body in enumerate(bodies):
        require(reading.wait("basic.deliver", timeout=30).body == body, f"message {n} differs")
    for each in (publisher, reader, other):
        each.drop()


def test_tls_begins_in_pieces(t):
    """A ClientHello octet by octet, and an AMQP header that comes with the end of the handshake."""
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "none", None))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(root).wrap_bio(incoming, outgoing, server_hostname="localhost")
    sock = socket.create_connection(("127.0.0.1", node.port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            data = outgoing.read()
            for at in range(0, min(len(data), 40)):
                sock.sendall(data[at:at + 1])
            sock.sendall(data[40:])
            incoming.write(sock.recv(65536))
    tls.write(PROTOCOL_HEADER)
    sock.sendall(outgoing.read())  # the last of the handshake, and the first of AMQP

    def answer():
        try:
            return tls.read(4096)
        except ssl.SSLWantReadError:
            incoming.write(sock.recv(65536))
            return b""
    require(b"PLAIN" in poll("connection.start comes", answer), "no connection.start")
    sock.close()


def test_client_certificates(t):
    root, stranger = authority(t.directory), authority(t.directory, "stranger")
    node = t.node(options=tls_options(root.issue("node"), "required", root.certificate))
    guest = client_context(root, root.issue("guest"))
    round_trip(t, through_pika(node.port, guest))  # a password will do, too
    external = through_pika(node.port, guest, credentials=pika.credentials.ExternalCredentials())
    round_trip(t, external)

    def refused(context, reason):
        """The client may learn of it only with its first read: TLS 1.3 lets it go ahead."""
        with contextlib.suppress(OSError):
            sock = tls_socket(node.port, context)
            sock.sendall(PROTOCOL_HEADER)
            equal(ended(sock), b"", "nothing of AMQP is said to who is refused")
        logged(node, reason)

    refused(client_context(root, root.issue("late", days=-1)), "certificate has expired ('CN=late', issued by 'CN=authority')")
    refused(client_context(root, stranger.issue("guest2", "/CN=guest")),
            "('CN=guest', issued by 'CN=stranger')")
    refused(client_context(root), "peer did not return a certificate")
    require("PRIVATE" not in node.log_tail(400), "a key is in the log")


def test_external_needs_a_certificate(t):
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "peer", root.certificate, "--tls-login-from", "san_uri"))

    def mechanisms(context):
        sock = tls_socket(node.port, context) if context else socket.create_connection(("127.0.0.1", node.port), 10)
        connection = over(sock)
        connection.send_raw(PROTOCOL_HEADER)
        offered = connection.wait(0, "connection.start").mechanisms
        connection.drop()
        return set(offered.split())

    known = client_context(root, root.issue("device", names="URI:guest"))
    nameless = client_context(root, root.issue("guest"))  # there is no URI in it
    equal(mechanisms(None), {b"PLAIN", b"AMQPLAIN"}, "in the plain")
    equal(mechanisms(client_context(root)), {b"PLAIN", b"AMQPLAIN"}, "without a certificate")
    equal(mechanisms(nameless), {b"PLAIN", b"AMQPLAIN"}, "with a certificate that names nobody")
    equal(mechanisms(known), {b"PLAIN", b"AMQPLAIN", b"EXTERNAL"}, "with a certificate")
    over(tls_socket(node.port, known)).open(mechanism="EXTERNAL", response=b"").drop()
    for context in (None, nameless):
        connection = node.raw() if context is None else over(tls_socket(node.port, context))
        try:
            connection.open(mechanism="EXTERNAL", response=b"")
            raise AssertionError("EXTERNAL without a certificate was let in")
        except closed as close:
            equal((close.code, close.text), (503, "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'"))
    unknown = client_context(root, root.issue("device2", names="URI:nobody"))
    try:
        over(tls_socket(node.port, unknown)).open(mechanism="EXTERNAL", response=b"",
                                                  capabilities={"authentication_failure_close": True})
        raise AssertionError("an unknown user was let in")
    except closed as close:
        equal((close.code, close.text), (403, "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL. "
                                              "For details see the broker logfile."))
    logged(node, "login refused for user 'nobody'")


def test_old_tls_is_refused(t):
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "none", None))
    context = client_context(root)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    try:
        tls_socket(node.port, context)
        raise AssertionError("TLS 1.1 was taken")
    except (ssl.SSLError, ConnectionError):
        pass
    logged(node, "the TLS handshake failed: unsupported protocol")


def test_without_a_certificate_tls_is_refused(t):
    root = authority(t.directory)
    node = t.node()
    try:
        tls_socket(node.port, client_context(root))
        raise AssertionError("TLS was spoken without a certificate")
    except ssl.SSLError as failure:
        require("HANDSHAKE_FAILURE" in str(failure).upper(), f"the client is told what is wrong: {failure}")
    logged(node, "for which this node has no certificate: set tls.certificate and tls.key")


def test_certificates_are_reloaded(t):
    root = authority(t.directory)
    own = root.issue("node", "/CN=first")
    node = t.node(options=tls_options(own, "none", None))

    def shown():
        sock = tls_socket(node.port, client_context(root))
        name = dict(pair[0] for pair in sock.getpeercert()["subject"])["commonName"]
        sock.close()
        return name
    equal(shown(), "first")
    before = over(tls_socket(node.port, client_context(root))).open()
    root.issue("node", "/CN=second")
    equal(shown(), "first", "until it is told")
    node.process.send_signal(signal.SIGHUP)
    poll("new connections get the new certificate", lambda: shown() == "second")
    with open(own[0], "w", encoding="ascii") as out:
        out.write("not a certificate\n")
    node.process.send_signal(signal.SIGHUP)
    logged(node, "the certificate in use stays: the certificate")
    equal(shown(), "second", "a broken file changes nothing")
    root.issue("third")
    os.replace(root.path("third", "pem"), own[0])
    node.process.send_signal(signal.SIGHUP)
    logged(node, f"the key {own[1]} (tls.key) does not belong to the certificate")
    equal(shown(), "second", "a key of another certificate changes nothing")
    before.channel().queue(t.unique("kept"), exclusive=True)  # who was connected stays so
    before.drop()


def test_mistakes_of_tls_settings_are_named(t):
    root = authority(t.directory)
    certificate, key = root.issue("node")
    secret = root.path("secret", "key")
    root.openssl("ec", "-in", key, "-aes128", "-passout", "pass:word", "-out", secret)
    for options, parts in (
            (["--tls-certificate", certificate], ["there is no key", "tls.key"]),
            (["--tls-certificate", certificate + "x", "--tls-key", key], ["cannot read the certificate", "No such file"]),
            (["--tls-certificate", certificate, "--tls-key", certificate], ["the key", "is none in PEM"]),
            (["--tls-certificate", certificate, "--tls-key", root.key], ["does not belong to the certificate"]),
            (["--tls-certificate", certificate, "--tls-key", secret], ["passphrase"]),
            (["--tls-certificate", certificate, "--tls-key", key, "--tls-verify", "peer"], ["tls.ca"]),
            (["--amqps", "127.0.0.1:0"], ["no certificate", "tls.certificate"])):
        node = t.node("bad", start=False, options=options).spawn()
        poll("the node ends", node.exited)
        require(node.process.returncode in (69, 78), f"exit {node.process.returncode}")
        for part in parts:
            require(part in node.log_tail(3), f"{part!r} is not in {node.log_tail(3)!r}")


# --- proxies -------------------------------------------------------------------------------------------------------

def v1(source, family="TCP4"):
    return f"PROXY {family} {source} 198.51.100.1 4711 5672\r\n".encode()


def v2(source, command=0x21):
    return V2 + bytes([command, 0x11]) + struct.pack(">H", 12) + socket.inet_aton(source) + socket.inet_aton(
        "198.51.100.1") + struct.pack(">HH", 4711, 5672)


def proxied(node, header):
    sock = socket.create_connection(("127.0.0.1", node.port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(header)
    return sock


def test_proxy_protocol(t):
    node = t.node(options=["--amqp-proxy-trusted", "10.0.0.0/8, 127.0.0.1", "--log-level", "debug"])
    for header in (v1("127.0.0.9"), v2("127.0.0.9"), v2("0.0.0.0", 0x20), V2 + b"\x20\0\0\0",
                   V2 + b"\x21\x11\0\x13" + v2("127.0.0.9")[16:] + b"\x04\0\x04more"):
        connection = over(proxied(node, header)).open()
        connection.channel().queue(t.unique("proxied"), exclusive=True)
        connection.drop()
    # In pieces, and together with what follows.
    for header in (v1("127.0.0.9"), v2("127.0.0.9")):
        sock = proxied(node, header[:1])
        for at in range(1, len(header)):
            sock.sendall(header[at:at + 1])
        over(sock).open().drop()
        sock = proxied(node, header + PROTOCOL_HEADER)
        over(sock).wait(0, "connection.start")
        sock.close()
    logged(node, "connection 127.0.0.9:4711 opened by user 'guest'")


def test_two_clients_of_one_address_behind_proxies(t):
    node = t.node(options=["--amqp-proxy-trusted", "127.0.0.1"])
    both = [over(proxied(node, v1("127.0.0.9"))).open() for _ in range(2)]
    for each in both:
        each.channel().queue(t.unique("same"), exclusive=True)
        each.drop()


def test_guest_behind_a_proxy_is_where_the_client_is(t):
    node = t.node(options=["--amqp-proxy-trusted", "127.0.0.1"])
    for header, name in ((v1("192.0.2.7"), "192.0.2.7:4711"), (v2("192.0.2.7"), "192.0.2.7:4711"),
                         (b"PROXY UNKNOWN\r\n", "(for an unknown client)"),
                         (V2 + b"\x21\x00\0\0", "(for an unknown client)")):
        try:
            over(proxied(node, header)).open(capabilities={"authentication_failure_close": True})
            raise AssertionError(f"guest came in from {name}")
        except closed as close:
            equal(close.code, 403)
        logged(node, f"{name}: login refused for user 'guest', who may come in from this machine only")
        sock = proxied(node, header)
        sock.sendall(b"GET /api/overview HTTP/1.1\r\nHost: h\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\n\r\n")
        require(ended(sock).startswith(b"HTTP/1.1 401"), f"guest asked over HTTP from {name}")


def test_proxies_that_are_not_trusted_or_wrong(t):
    node = t.node(options=["--amqp-proxy-trusted", "10.0.0.0/8"])
    for header in (v1("127.0.0.1"), v2("127.0.0.1"), b"PROXY "):
        equal(ended(proxied(node, header)), b"")
    logged(node, "it begins with a header of the PROXY protocol, which 127.0.0.1 is not trusted to send: if it is a proxy of "
                 "yours, add it to amqp.proxy_trusted")
    trusting = t.node("trusting", options=["--amqp-proxy-trusted", "127.0.0.0/8"])
    for header, reason in ((b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "a port in it is none"),
                           (b"PROXY TCP4 " + b"1" * 200, "no end within 107 octets"),
                           (V2 + b"\x31\x11\0\0", "its version is not 2"),
                           (V2 + b"\x21\x11\xff\xff", "longer than 4096 octets"),
                           (V2 + b"\x21\x11\0\x05" + bytes(5), "too short for its addresses")):
        equal(ended(proxied(trusting, header)), b"", header)
        logged(trusting, reason)
    # A second header is nothing that is known here.
    equal(ended(proxied(trusting, v1("127.0.0.1") + v1("127.0.0.1"))), PROTOCOL_HEADER)


def test_tls_and_http_behind_a_proxy(t):
    root = authority(t.directory)
    port = free_port()
    node = t.node(options=tls_options(root.issue("node"), "peer", root.certificate, "--amqp-proxy-trusted", "127.0.0.1", "--amqps",
                                      f"127.0.0.1:{port}"))
    for at in (node.port, port):
        for header in (v1("127.0.0.9"), v2("127.0.0.9")):
            over(tls_socket(at, client_context(root, root.issue("guest")), header)).open(mechanism="EXTERNAL",
                                                                                         response=b"").drop()
    sock = proxied(node, v1("127.0.0.9") + b"GET /healthz HTTP/1.0\r\n\r\n")
    require(b" 200 OK\r\n" in ended(sock), "no answer over HTTP")


# --- HTTP ----------------------------------------------------------------------------------------------------------

def test_http_on_the_port_of_amqp(t):
    node = t.shared_node()
    if t.suite.peer:
        raise skip("needs a node of its own")
    client = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    client.request("GET", "/healthz")
    answer = client.getresponse()
    equal((answer.status, answer.read()), (200, b"ok\n"))
    client.request("GET", "/metrics")  # the connection is kept
    answer = client.getresponse()
    require(answer.status == 200 and b"\nposthorn_up 1\n" in answer.read(), "no metrics")
    client.request("HEAD", "/healthz")
    answer = client.getresponse()
    equal((answer.status, answer.read()), (200, b""))
    client.close()
    for method, status in (("POST", 405), ("PUT", 405), ("DELETE", 405), ("OPTIONS", 405), ("PATCH", 405)):
        client = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
        client.request(method, "/healthz")
        equal(client.getresponse().status, status, method)
        client.close()
    done = t.posthorn("--url", f"http://127.0.0.1:{node.port}", "status")
    equal(done.returncode, 0, done.stderr)


# --- who never gets to AMQP ----------------------------------------------------------------------------------------

def test_garbage_is_answered_as_a_wrong_header(t):
    node = t.node()
    before = descriptors(node)
    for octets in (b"XYZ", b"\0" * 8, b"SSH-2.0-x\r\n", b"\x80\x2e\x01\0\x02", b"GETx", b"\x16\x02\0", bytes(range(256)),
                   b"AMQP\0\0\x09\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        sock = socket.create_connection(("127.0.0.1", node.port), 10)
        sock.sendall(octets)
        equal(ended(sock), PROTOCOL_HEADER, octets)
    poll("all sockets are closed", lambda: descriptors(node) <= before)
    node.connect().drop()


def test_slow_handshakes_end(t):
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "none", None, "--amqp-handshake-timeout", "700 ms",
                                      "--amqp-proxy-trusted", "127.0.0.1"))
    before = descriptors(node)
    tls = client_context(root)
    begins = [b"", b"A", b"AMQP\0\0", b"\x16", b"\x16\x03\x01\x02\0", b"P", b"PROXY TCP4 1.2.3.4", V2, V2 + b"\x21\x11\x0f\0" + bytes(99),
              v1("127.0.0.1"), v1("127.0.0.1") + b"\x16\x03\x01", PROTOCOL_HEADER]
    since = time.monotonic()
    waiting = []
    for octets in begins:
        sock = socket.create_connection(("127.0.0.1", node.port), 10)
        sock.sendall(octets)
        waiting.append((octets, sock))
    waiting.append(("after the handshake of TLS", tls_socket(node.port, tls)))
    for octets, sock in waiting:
        ended(sock)
        took = time.monotonic() - since
        require(took < 6, f"{octets!r} was waited for {took:.1f} s")
    poll("all sockets are closed", lambda: descriptors(node) <= before)
    over(tls_socket(node.port, tls)).open().drop()


def test_clients_that_vanish_in_the_handshake_leave_nothing(t):
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "none", None, "--amqp-proxy-trusted", "127.0.0.1"))
    tls = client_context(root)
    for _ in range(3):
        over(tls_socket(node.port, tls)).open().drop()
    poll("no connection is left", lambda: "posthorn_connections_opened_total 3" in node.http_get("/metrics")[1])
    before = descriptors(node)

    def vanish(sock):
        """With a reset, as of a process that was killed with unread octets."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    for n in range(200):
        octets = (b"", b"A", hello[:50], hello, v1("127.0.0.1"), v2("127.0.0.1") + hello, b"GET /hea", b"PROXY")[n % 8]
        sock = socket.create_connection(("127.0.0.1", node.port), 10)
        sock.sendall(octets)
        vanish(sock)
    poll("all sockets are closed", lambda: descriptors(node) <= before)
    equal([line for line in node.log_tail(400).splitlines() if " error " in line], [])
    over(tls_socket(node.port, tls)).open().drop()


def test_a_node_stops_with_clients_in_the_handshake(t):
    root = authority(t.directory)
    node = t.node(options=tls_options(root.issue("node"), "none", None))
    waiting = [socket.create_connection(("127.0.0.1", node.port), 10) for _ in range(4)]
    waiting[1].sendall(b"P")
    waiting[2].sendall(b"\x16\x03\x01\x02\0\x01")
    connected = over(tls_socket(node.port, client_context(root))).open()
    code, took = node.terminate()
    equal(code, 0, f"after {took:.1f} s")
    for sock in waiting:
        ended(sock)
    try:
        connected.wait(0, "nothing")
    except closed as close:
        equal(close.code, 320)
    except (gone, OSError):
        pass


# --- memory --------------------------------------------------------------------------------------------------------

def test_publishers_wait_while_memory_is_low(t):
    node = t.node(options=["--memory-high-watermark", "96 MiB", "--memory-messages-max", "1 GiB"])
    idle, publisher = node.connect().channel(), node.connect(capabilities={"connection.blocked": True})
    queue = t.unique("memory")
    idle.queue(queue, durable=True)
    channel = publisher.channel()
    body = bytes(256 << 10)

    def told():
        publisher.send_raw(amqp_raw.publish_frames("", queue, body))
        with contextlib.suppress(TimeoutError):
            return publisher.wait(0, "connection.blocked", timeout=0.001)
    deadline = time.monotonic() + 60
    blocked = None
    publisher.sock.settimeout(5)
    while blocked is None and time.monotonic() < deadline:
        try:
            blocked = told()
        except (socket.timeout, TimeoutError):
            blocked = publisher.wait(0, "connection.blocked")
    require(blocked is not None, "publishers were never told to wait")
    equal(blocked.reason, "low on memory")
    logged(node, "the memory is nearly used up: publishers wait")
    require("posthorn_memory_alarm 1\n" in node.http_get("/metrics")[1], "no metric")
    listed = t.posthorn("--url", f"http://127.0.0.1:{node.http_port}", "alarms", "list")
    require("memory" in listed.stdout and "raised" in listed.stdout, listed.stdout + listed.stderr)
    refused = t.posthorn("--url", f"http://127.0.0.1:{node.http_port}", "alarms", "clear", "memory")
    require(refused.returncode == 1 and "it goes when there is room again" in refused.stderr, refused.stderr)
    # Consumers go on, and make room.
    idle.call("queue.purge", queue=queue)
    publisher.wait(0, "connection.unblocked", timeout=30)
    logged(node, "there is memory again: publishers go on")
    require("posthorn_memory_alarm 0\n" in node.http_get("/metrics")[1], "the metric stays")
    channel.call("confirm.select")
    channel.publish("", queue, b"goes on")
    channel.wait("basic.ack")


def test_alarms_over_the_command_line(t):
    node = t.node()
    url = ["--url", f"http://127.0.0.1:{node.http_port}"]
    done = t.posthorn(*url, "alarms", "raise", "memory")
    equal((done.returncode, done.stderr), (0, ""))
    require("raised by hand" in t.posthorn(*url, "alarms", "list").stdout, "it is listed")
    equal(t.posthorn(*url, "alarms", "raise", "cpu").returncode, 1)
    publisher = node.connect(capabilities={"connection.blocked": True})
    channel = publisher.channel()
    queue = t.unique("drill")
    channel.queue(queue, exclusive=True)
    publisher.send_raw(amqp_raw.publish_frames("", queue, b"x"))
    equal(publisher.wait(0, "connection.blocked").reason, "low on memory")
    equal(t.posthorn(*url, "alarms", "clear", "memory").returncode, 0)
    publisher.wait(0, "connection.unblocked")
    logged(node, "an operator has cleared the alarm for memory")
