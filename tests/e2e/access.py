"""Users, permissions and virtual hosts over the life of a node: restarts, crashes, the log, many logins at once."""
import concurrent.futures as futures
import http.client
import json
import os
import threading
import time

from harness import closes, equal, poll, require


def order(t, node, *words, code=0, environment=None):
    done = t.posthorn("--url", f"http://127.0.0.1:{node.http_port}", *words, environment=environment)
    require(done.returncode == code, f"posthorn {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def lay_down(t, node):
    """A virtual host, a user with permissions in it, and a limit."""
    order(t, node, "vhosts", "add", "team")
    order(t, node, "users", "add", "alice", "wonder.land", "--tags", "monitoring")
    order(t, node, "permissions", "set", "--vhost", "team", "alice", "^a", ".*", "^a")
    order(t, node, "limits", "set", "--vhost", "team", "max-queues", "1")


def check_laid_down(node):
    connection = node.connect(user="alice", password="wonder.land", vhost="team")
    channel = connection.channel()
    channel.queue("a1", durable=True)
    with closes(406, "PRECONDITION_FAILED - cannot declare queue 'a2': queue limit in vhost 'team' (1) is reached"):
        channel.queue("a2", durable=True)
    connection.close()
    connection = node.connect(user="alice", password="wonder.land", vhost="team")
    with closes(403, "ACCESS_REFUSED - configure access to queue 'b' in vhost 'team' refused for user 'alice'"):
        connection.channel().queue("b")
    connection.close()


def test_what_was_laid_down_survives_a_restart(t):
    node = t.node()
    lay_down(t, node)
    check_laid_down(node)
    node.terminate()
    node.start()
    check_laid_down(node)


def test_what_was_answered_survives_kill_9(t):
    node = t.node()
    lay_down(t, node)
    node.kill()
    node.start()
    check_laid_down(node)
    order(t, node, "vhosts", "delete", "team")
    node.kill()
    node.start()
    with closes(530, "NOT_ALLOWED - vhost team not found", "connection"):
        node.connect(vhost="team")
    order(t, node, "vhosts", "add", "team")
    order(t, node, "permissions", "set", "--vhost", "team", "guest", ".*", ".*", ".*")
    with node.connect(vhost="team") as connection, closes(404, "NOT_FOUND - no queue 'a1' in vhost 'team'"):
        connection.channel().queue("a1", passive=True)


def test_a_deletion_that_a_crash_cut_off_goes_on(t):
    node = t.node()
    order(t, node, "vhosts", "add", "team")
    order(t, node, "permissions", "set", "--vhost", "team", "guest", ".*", ".*", ".*")
    with node.connect(vhost="team") as connection:
        channel = connection.channel()
        for number in range(500):
            channel.queue(f"q{number}", durable=True)
    killer = threading.Timer(0.02, node.kill)
    killer.start()
    t.posthorn("--url", f"http://127.0.0.1:{node.http_port}", "vhosts", "delete", "team")
    killer.join()
    node.start()

    def is_whole():
        listed = json.loads(order(t, node, "--json", "list", "queues"))
        there = len([each for each in listed if each["vhost"] == "team"])
        named = "team" in order(t, node, "vhosts", "list")
        return (there, named) in ((500, True), (0, False)) or None
    poll("the virtual host is as it was, or gone with all that was in it", is_whole, 20)


def test_no_password_is_written_anywhere(t):
    node = t.node(options=["--log-level", "debug"])
    secrets = ["a.secret.word", "another.secret.word", "a.wrong.word"]
    order(t, node, "users", "add", "alice", secrets[0])
    order(t, node, "permissions", "set", "alice", ".*", ".*", ".*")
    node.connect(user="alice", password=secrets[0]).close()
    order(t, node, "users", "password", "alice", secrets[1])
    with closes(403, "ACCESS_REFUSED - Login was refused…", "connection"):
        node.connect(user="alice", password=secrets[2])
    node.connect(user="alice", password=secrets[1]).close()
    exported = order(t, node, "definitions", "export")
    node.terminate()
    with open(node.log_path, "rb") as log:
        written = log.read()
    for name in os.listdir(node.data_dir):
        with open(os.path.join(node.data_dir, name), "rb") as stored:
            written += stored.read()
    for word in secrets:
        require(word.encode() not in written and word not in exported, f"{word} was written")


def test_many_come_back_at_once(t):
    """One slow check for a user, not one for each of its connections."""
    node = t.node()
    since = time.monotonic()

    def come():
        node.connect().close()
    with futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: come(), range(400)))
    require(time.monotonic() - since < 20, "400 logins of one user")


def test_only_administrators_administrate(t):
    node = t.node()
    order(t, node, "users", "add", "bob", "builder", "--tags", "management")
    order(t, node, "users", "add", "carol", "christmas")
    said = order(t, node, "--user", "bob", "--password", "builder", "users", "list", code=1)
    require("administrator" in said, said)
    said = order(t, node, "--user", "carol", "--password", "christmas", "vhosts", "list", code=1)
    require("management" in said, said)
    said = order(t, node, "--user", "bob", "--password", "wrong", "vhosts", "list", code=1)
    require("wrong user or password" in said, said)
    order(t, node, "users", "add", "bob", "again", code=1)
    order(t, node, "users", "delete", "nobody", code=1)
    for words in (("tags", "nobody", "management"), ("password", "nobody", "secret")):
        said = order(t, node, "users", *words, code=1)
        require("there is no user 'nobody'" in said, said)
    require("nobody" not in order(t, node, "users", "list"), "a user that is not there is not made")
    order(t, node, "permissions", "set", "bob", "(", ".*", ".*", code=1)
    order(t, node, "vhosts", "delete", "/", code=1)


def test_a_deleted_user_goes(t):
    node = t.node()
    order(t, node, "users", "add", "bob", "builder")
    order(t, node, "permissions", "set", "bob", ".*", ".*", ".*")
    channel = node.connect(user="bob", password="builder").channel()
    order(t, node, "users", "delete", "bob")
    with closes(320, "CONNECTION_FORCED - user 'bob' is deleted", "connection"):
        channel.wait("nothing")


def test_definitions_move_from_node_to_node(t):
    first, second = t.node("first"), t.node("second")
    lay_down(t, first)
    path = os.path.join(t.directory, "definitions.json")
    order(t, first, "definitions", "export", path)
    order(t, second, "definitions", "import", path)
    check_laid_down(second)


def test_permissions_hold_at_once(t):
    node = t.node()
    order(t, node, "users", "add", "bob", "builder")
    order(t, node, "permissions", "set", "bob", ".*", ".*", ".*")
    connection = node.connect(user="bob", password="builder")
    channel = connection.channel()
    queue = channel.queue(exclusive=True).queue
    channel.publish("", queue, b"taken")
    poll("it is there", lambda: channel.count(queue)[0] == 1 or None)
    order(t, node, "permissions", "set", "bob", ".*", "", ".*")
    with closes(403, "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'bob'"):
        channel.publish("", queue, b"refused")
        channel.wait("nothing")


def test_the_management_api_is_that_of_rabbitmq(t):
    node = t.node()

    def ask(method, path, body=None, user="guest:guest"):
        import base64
        client = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=10)
        headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
        client.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = client.getresponse()
        text = answer.read().decode()
        client.close()
        return answer.status, json.loads(text) if text else None
    equal(ask("PUT", "/api/vhosts/team", {})[0], 201)
    equal(ask("PUT", "/api/vhosts/team", {"description": "ours"})[0], 204)
    equal(ask("GET", "/api/vhosts/team")[1]["description"], "ours")
    equal(ask("PUT", "/api/users/bob", {"password": "builder", "tags": "monitoring,management"})[0], 201)
    equal(ask("GET", "/api/users/bob")[1]["tags"], ["monitoring", "management"])
    # What a field means that holds something else, nobody knows: nothing is done, and nothing taken for not given.
    for path, fields in (("/api/users/bob", {"password": 5}), ("/api/users/bob", {"password": "other", "tags": 5}),
                         ("/api/users/bob", {"password": "other", "tags": ["monitoring", 5]}),
                         ("/api/users/eve", {"password": {"a": 1}, "tags": ""}),
                         ("/api/users/eve", {"password_hash": 5, "tags": ""}), ("/api/vhosts/team", {"description": 5}),
                         ("/api/vhosts/team", {"default_queue_type": 5}), ("/api/vhosts/team", {"tags": {"a": 1}})):
        status, answer = ask("PUT", path, fields)
        equal(status, 400, f"{path} {fields}: {answer}")
    equal(ask("GET", "/api/users/bob")[1]["tags"], ["monitoring", "management"])
    equal(ask("GET", "/api/whoami", user="bob:builder")[0], 200)
    equal(ask("GET", "/api/users/eve")[0], 404)
    equal(ask("PUT", "/api/permissions/team/bob", {"configure": "", "write": ".*", "read": ".*"})[0], 201)
    equal(ask("GET", "/api/permissions/team/bob")[1],
          {"user": "bob", "vhost": "team", "configure": "", "write": ".*", "read": ".*"})
    equal(ask("PUT", "/api/vhost-limits/team/max-queues", {"value": 3})[0], 204)
    equal(ask("GET", "/api/vhost-limits/team")[1], [{"vhost": "team", "value": {"max-queues": 3}}])
    equal(ask("GET", "/api/whoami", user="bob:builder")[1]["name"], "bob")
    equal(ask("GET", "/api/users", user="bob:builder")[0], 401)
    equal(ask("GET", "/api/users", user="bob:wrong")[0], 401)
    equal(ask("DELETE", "/api/users/bob")[0], 204)
    equal(ask("DELETE", "/api/users/bob")[0], 404)
    equal(ask("DELETE", "/api/vhosts/team")[0], 204)
    equal(ask("GET", "/api/vhosts/team")[0], 404)
