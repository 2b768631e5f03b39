"""A full disk, a store that cannot be trusted, and starts that must fail: one clear sentence, and files untouched."""
import ctypes
import hashlib
import os
import random
import shutil
import subprocess
import time

import amqp_raw
import load
from harness import equal, poll, require, skip


def refused_start(node, timeout=20.0, also_in="", prefix=()):
    """The node must end by itself with an exit code and one sentence; returns the sentence."""
    command = node.command()
    command[command.index("--log-level") + 1] = "error"
    try:
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=timeout, check=False,
                              env={**os.environ, **node.environment})
    except subprocess.TimeoutExpired:
        raise AssertionError("the node started, or hangs, where it should have refused") from None
    require(done.returncode > 0, f"ended with {done.returncode}: {done.stderr}")
    lines = (done.stdout + done.stderr).strip().splitlines()
    equal(len(lines), 1, f"lines said: {lines}")
    for word in ("terminate called", "what():", "Assertion", "#0 ", "std::"):
        require(word not in lines[0], f"this is not a sentence for people: {lines[0]}")
    require(also_in in lines[0], f"{also_in!r} is not in {lines[0]!r}")
    return lines[0]


def store_file(node):
    """The store's data file, wherever it stands below the data directory."""
    for directory, _, names in os.walk(node.data_dir):
        if "data.mdb" in names:
            return os.path.join(directory, "data.mdb")
    raise AssertionError(f"no data.mdb below {node.data_dir}")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def filled(t, count, size, label="node"):
    """A stopped node whose store holds this many messages, deleted ones among them."""
    node = t.node(label=label)
    subprocess.run([t.suite.loader(), "fill", str(node.port), "q", str(count), str(size), "5000"], check=True, timeout=120,
                   stdout=subprocess.DEVNULL)
    equal(node.terminate()[0], 0)
    return node


def test_a_second_node_on_the_same_directory(t):
    node, second = t.node(), t.node(label="second", start=False)
    with node.connect() as connection:
        connection.channel().queue("q", durable=True)
        second.data_dir = node.data_dir
        before = digest(store_file(node))
        t.note(refused_start(second, also_in=node.data_dir))
        equal(digest(store_file(node)), before, "the store")
        connection.channel(2).queue("q", passive=True)
    node.kill()
    node.start()  # what a kill leaves behind locks nobody out


def test_a_port_in_use(t):
    node = t.node()
    for which in ("amqp", "http"):
        second = t.node(label=which, start=False)
        if which == "amqp":
            second.port = node.port
        else:
            second.http_port = node.port
        t.note(refused_start(second, also_in=str(node.port)))
    node.connect().close()


def test_a_directory_that_cannot_be_read(t):
    node = t.node(label="file", start=False)
    with open(node.data_dir, "w", encoding="ascii") as out:
        out.write("not a directory")
    t.note(refused_start(node, also_in=node.data_dir))
    with open(node.data_dir, encoding="ascii") as kept:
        equal(kept.read(), "not a directory")
    node = t.node(label="nowhere", start=False)
    node.data_dir = "/proc/nothing/here"
    t.note(refused_start(node, also_in=node.data_dir))


def test_a_directory_of_somebody_else(t):
    node = t.node()
    node.terminate()
    before = digest(store_file(node))
    for path in (t.directory, node.directory):
        os.chmod(path, 0o755)
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            raise skip("root reads everything, and there is no setpriv")
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        tried = subprocess.run([*prefix, node.binary, "--version"], capture_output=True, check=False)
        if tried.returncode != 0:
            raise skip("another user cannot run the program where it is installed")
    else:
        prefix = []
    os.chmod(node.data_dir, 0o700)
    if not prefix:
        os.chmod(node.data_dir, 0)
    t.note(refused_start(node, also_in=node.data_dir, prefix=prefix))
    os.chmod(node.data_dir, 0o755)  # readable, but not writable
    t.note(refused_start(node, also_in=node.data_dir, prefix=prefix) if prefix else "")
    os.chmod(node.data_dir, 0o700)
    equal(digest(store_file(node)), before, "the store")
    node.start()


def damage(path, at, size, chance):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(chance.randbytes(size))


def test_a_store_damaged_in_the_middle(t):
    for count, size in ((60_000, 1000), (8_000, 8000)):
        node = filled(t, count, size, f"damaged{size}")
        path = store_file(node)
        length = os.path.getsize(path)
        require(length > 50 << 20, f"the store has only {length} octets")
        damage(path, length // 2, 64 << 10, t.random)
        before = digest(path)
        verified = t.posthorn("verify", node.data_dir)
        require(verified.returncode > 0 and verified.stderr.strip(),
                f"verify of a damaged store: {verified.returncode} {verified.stdout!r} {verified.stderr!r}")
        equal(digest(path), before, "the store after verify")
        t.note(refused_start(node, also_in=node.data_dir))
        equal(digest(path), before, "the store after the refused start")


def test_a_store_cut_short(t):
    node = filled(t, 60_000, 1000)
    path = store_file(node)
    length = os.path.getsize(path)
    for left in (length // 2, 12_288, 4096, 100):
        os.truncate(path, left)
        before = digest(path)
        t.note(f"{left} octets left: {refused_start(node, also_in=node.data_dir)}")
        equal(digest(path), before, f"the store of {left} octets")
        verified = t.posthorn("verify", node.data_dir)
        require(verified.returncode > 0, f"verify of a store of {left} octets: {verified.stdout!r}")


def test_a_store_that_is_none(t):
    node = filled(t, 10, 10)
    path = store_file(node)
    for contents in (b"\x00" * 40_960, t.random.randbytes(40_960), b"hello\n"):
        with open(path, "wb") as out:
            out.write(contents)
        t.note(refused_start(node, also_in=node.data_dir))
        with open(path, "rb") as kept:
            require(kept.read() == contents, "the file was touched")


class lmdb:
    """As much of LMDB as it takes to change one value from outside."""

    class value(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("data", ctypes.c_void_p)]

    def __init__(self):
        try:
            self.library = ctypes.CDLL("liblmdb.so.0")
        except OSError:
            raise skip("no liblmdb to change the version with") from None

    def check(self, code):
        require(code == 0, f"LMDB says {code}")

    def put(self, path, table, key, data):
        """Puts `key`, which must be there already, into the table of the environment at `path`. Returns what it replaced."""
        library, environment = self.library, ctypes.c_void_p()
        self.check(library.mdb_env_create(ctypes.byref(environment)))
        self.check(library.mdb_env_set_maxdbs(environment, ctypes.c_uint(64)))
        self.check(library.mdb_env_set_mapsize(environment, ctypes.c_size_t(1 << 32)))
        flags = 0 if os.path.isdir(path) else 0x4000  # MDB_NOSUBDIR
        self.check(library.mdb_env_open(environment, path.encode(), ctypes.c_uint(flags), ctypes.c_uint(0o600)))
        transaction, handle = ctypes.c_void_p(), ctypes.c_uint()
        self.check(library.mdb_txn_begin(environment, None, ctypes.c_uint(0), ctypes.byref(transaction)))
        self.check(library.mdb_dbi_open(transaction, table, ctypes.c_uint(0), ctypes.byref(handle)))
        the_key, old = self.value(len(key), ctypes.cast(ctypes.c_char_p(key), ctypes.c_void_p)), self.value()
        self.check(library.mdb_get(transaction, handle, ctypes.byref(the_key), ctypes.byref(old)))
        before = ctypes.string_at(old.data, old.size)
        new = self.value(len(data), ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p))
        self.check(library.mdb_put(transaction, handle, ctypes.byref(the_key), ctypes.byref(new), ctypes.c_uint(0)))
        self.check(library.mdb_txn_commit(transaction))
        library.mdb_env_close(environment)
        return before


def test_a_store_of_a_newer_version(t):
    node, changer = filled(t, 1000, 100), lmdb()
    path = store_file(node)
    where = os.path.dirname(path)
    old = changer.put(where, b"meta", b"version", (1_000_000).to_bytes(4, "little"))
    equal(len(old), 4, "the version is 4 octets")
    before = digest(path)
    sentence = refused_start(node, also_in=node.data_dir)
    t.note(sentence)
    require("1000000" in sentence and "newer" in sentence, f"the sentence says what is wrong: {sentence}")
    equal(digest(path), before, "the store")
    verified = t.posthorn("verify", node.data_dir)
    require(verified.returncode > 0 and "1000000" in verified.stderr, f"verify: {verified.stderr!r}")
    equal(digest(path), before, "the store after verify")
    changer.put(where, b"meta", b"version", old)
    node.start()
    with node.connect() as connection:
        equal(connection.channel().count("q")[0], 1000)


def small_disk(t, node, size="24m"):
    os.makedirs(node.data_dir, exist_ok=True)
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "posthorn-e2e", node.data_dir], capture_output=True,
                           text=True, check=False)
    if tried.returncode != 0:
        raise skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    t.on_exit(lambda: subprocess.run(["umount", "-l", node.data_dir], check=False))


def take_space(path, size):
    """Fills `size` octets of the disk, or what there is of it."""
    with open(path, "wb", buffering=0) as out:
        try:
            while size > 0:
                size -= out.write(b"\xaa" * min(size, 65536))
        except OSError:
            pass


def publish_until_stopped(t, node, book, number):
    """A publisher that goes on until it is blocked or refused. Returns it, still running."""
    writer = load.producer(book, node.connect(), number, random.Random(t.random.random()), window=50, batch=5, transient=0,
                           routes=[("", "backlog", None, ("backlog",))])
    writer.start()
    state = {"confirmed": 0, "since": time.monotonic()}

    def stopped():
        confirmed = sum(each.confirmed for each in writer.mine)
        if confirmed != state["confirmed"]:
            state.update(confirmed=confirmed, since=time.monotonic())
        refused = len(writer.mine) - confirmed - len(writer.waiting)
        return writer.blocked or refused > 50 or node.exited() or not writer.is_alive() or (
            writer.waiting and time.monotonic() - state["since"] > 4)
    poll("the full disk stops the publisher", stopped, 60)
    require(not node.exited(), f"the full disk ended the node with {node.process.returncode}")
    require(writer.is_alive(), f"the publisher was thrown out instead of being blocked or refused: {book.problems}")
    return writer


def test_a_full_disk_and_space_again(t):
    node, book = t.node(start=False), load.ledger()
    small_disk(t, node)
    filler = os.path.join(node.data_dir, "filler")
    take_space(filler, 12 << 20)
    node.start()
    with node.connect() as connection:
        load.declare(connection)
    writer = publish_until_stopped(t, node, book, 1)
    stopped_at = sum(each.confirmed for each in writer.mine)
    t.note(f"{stopped_at} confirmed until the disk was full; the publisher was "
           f"{'told connection.blocked' if writer.blocked else 'refused, or waits for its confirms'}")
    require(stopped_at > 100, "something fitted on the disk")
    # Consumers go on, and what they acknowledge is gone for good.
    with node.connect() as connection:
        channel = connection.channel()
        for _ in range(50):
            message = channel.get("backlog")
            channel.send("basic.ack", delivery_tag=message.delivery_tag)
            book.settled["backlog"][load.read_body(message.body)] = time.monotonic()
        channel.count("backlog")
        # Whoever has not published is not blocked, and may read what there is.
        require(not any(each.name == "connection.blocked" for each in connection.inbox[0]), "a consumer was blocked")
    # Space returns.
    os.unlink(filler)
    poll("the publisher goes on", lambda: sum(each.confirmed for each in writer.mine) > stopped_at + 100, 30)
    writer.stopping = True
    writer.join(30)
    writer.connection.drop()
    require(not book.problems, "\n".join(book.problems[:10]))
    killed_at = time.monotonic()
    node.kill()
    node.start()
    load.check_all(book, node, killed_at, empty=True)
    require(not book.problems, "\n".join(book.problems[:10]))
    t.note(f"{book.confirmed_count()} confirmed in the end, none lost")


def test_a_disk_filled_to_the_last_octet(t):
    """No reserve helps when somebody else takes all of the space; still nothing confirmed is lost."""
    node, book = t.node(start=False), load.ledger()
    small_disk(t, node)
    node.start()
    with node.connect() as connection:
        load.declare(connection)
        channel = connection.channel(3)
        channel.call("confirm.select")
        book.producers[9] = []
        for number in range(300):
            book.producers[9].append(load.published(("backlog",), True))
            channel.publish("", "backlog", load.make_body(9, number, t.random), delivery_mode=2)
        channel.confirm()
        for each in book.producers[9]:
            each.confirmed = True
        filler = os.path.join(node.data_dir, "filler")
        take_space(filler, 1 << 30)
        writer = publish_until_stopped(t, node, book, 1)
        # Reading needs no space; a connection that has published is not read from, so another one asks.
        with node.connect() as reader:
            message = reader.channel().get("backlog")
            equal(load.read_body(message.body), (9, 0))
            reader.send(1, "basic.nack", delivery_tag=message.delivery_tag, requeue=True)
        os.unlink(filler)
        before = sum(each.confirmed for each in writer.mine)
        poll("the publisher goes on", lambda: sum(each.confirmed for each in writer.mine) > before + 20, 30)
        writer.stopping = True
        writer.join(30)
        writer.connection.drop()
    killed_at = time.monotonic()
    node.kill()
    node.start()
    load.check_all(book, node, killed_at, empty=True)
    require(not book.problems, "\n".join(book.problems[:10]))


def test_blocked_only_if_the_client_asked_75(t):
    """connection.blocked goes to clients that know it, when they publish; others are only held back."""
    node = t.node(start=False)
    small_disk(t, node)
    take_space(os.path.join(node.data_dir, "filler"), 8 << 20)
    node.start()
    with node.connect() as connection:
        connection.channel().queue("q", durable=True)
    knows, knows_not = node.connect(), node.connect(capabilities={"publisher_confirms": True})
    body = b"x" * 20_000
    told, deadline = None, time.monotonic() + 30
    knows.channel()
    while told is None and time.monotonic() < deadline:
        try:
            knows.sock.settimeout(1)
            knows.sock.sendall(amqp_raw.publish_frames("", "q", body, {"delivery_mode": 2}))
        except TimeoutError:
            pass
        try:
            knows.pump(0.01)
        except TimeoutError:
            pass
        told = next((each for each in knows.inbox[0] if each.name == "connection.blocked"), None)
    require(told is not None, "a publisher that knows connection.blocked was not told")
    equal(told.reason, "low on disk")
    knows_not.channel()
    try:
        knows_not.send_raw(amqp_raw.publish_frames("", "q", body, {"delivery_mode": 2}))
        knows_not.wait(0, "connection.blocked", timeout=1)
        raise AssertionError("a client that does not know connection.blocked was sent it")
    except TimeoutError:
        pass
    os.unlink(os.path.join(node.data_dir, "filler"))
    knows.inbox[0].clear()
    knows.wait(0, "connection.unblocked", timeout=20)
    for each in (knows, knows_not):
        each.drop()
