"""Policies, default queue types and files of definitions: on a node that runs, over a crash, and from RabbitMQ."""
import base64
import http.client
import json
import os
import time

from access import order
from behaviours_stage import bodies, confirming, got, outcome, publish, wait_for
from harness import closes, equal, poll, require


class api:
    """The management API of a node."""

    def __init__(self, node, user="guest:guest"):
        self.node, self.user = node, user

    def ask(self, method, path, body=None, raw=None):
        client = http.client.HTTPConnection("127.0.0.1", self.node.http_port, timeout=60)
        headers = {"Authorization": "Basic " + base64.b64encode(self.user.encode()).decode()}
        client.request(method, path, raw if raw is not None else json.dumps(body) if body is not None else None, headers)
        answer = client.getresponse()
        text = answer.read().decode()
        warnings = answer.headers.get_all("Warning") or []
        client.close()
        return answer.status, json.loads(text) if text else None, warnings

    def policy(self, name, pattern, definition, apply_to="all", priority=0, operator=False, vhost="%2F"):
        group = "operator-policies" if operator else "policies"
        return self.ask("PUT", f"/api/{group}/{vhost}/{name}",
                        {"pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": priority})

    def clear(self, name, operator=False, vhost="%2F"):
        status, _, _ = self.ask("DELETE", f"/api/{'operator-policies' if operator else 'policies'}/{vhost}/{name}")
        equal(status, 204, f"clearing {name}")

    def queue(self, name, vhost="%2F"):
        return self.ask("GET", f"/api/queues/{vhost}/{name}")[1]


def ten(channel, queue):
    publish(channel, queue, *[b"%d" % n for n in range(10)])


def test_a_policy_survives_kill_9(t):
    node = t.node()
    with node.connect() as connection:
        connection.channel().queue("orders", durable=True)
    order(t, node, "policies", "set", "few", "^orders", '{"max-length": 3}', "--apply-to", "queues", "--priority", "2")
    order(t, node, "policies", "set", "cap", "^orders", '{"max-length": 2}', "--operator")
    node.kill()
    node.start()
    channel = node.connect().channel()
    shown = api(node).queue("orders")
    equal((shown["policy"], shown["operator_policy"], shown["effective_policy_definition"]), ("few", "cap", {"max-length": 2}))
    ten(channel, "orders")
    equal(bodies(got(channel, "orders")), [b"8", b"9"])
    order(t, node, "policies", "clear", "cap", "--operator")
    node.kill()
    node.start()
    channel = node.connect().channel()
    ten(channel, "orders")
    equal(bodies(got(channel, "orders")), [b"7", b"8", b"9"])
    listed = order(t, node, "list", "queues", "--policies")
    require("few" in listed and "POLICY" in listed, listed)
    require("few" in order(t, node, "policies", "list") and "cap" not in order(t, node, "policies", "list", "--operator"),
            "what is listed is what is there")


def test_a_policy_holds_when_it_is_answered(t):
    """No client that sends after the answer meets what was before: neither queues that run nor queues that nobody has used."""
    node = t.node()
    ask, channel = api(node), node.connect().channel()
    channel.queue("runs", durable=True)
    channel.queue("rests", durable=True)
    publish(channel, "runs", b"1")
    got(channel, "runs")
    for round_number in range(20):
        length = round_number % 5 + 1
        ask.policy("length", "^r", {"max-length": length})
        for queue in ("runs", "rests"):
            ten(channel, queue)
            equal(len(got(channel, queue)), length, f"{queue}, round {round_number}")
    ask.clear("length")
    ten(channel, "runs")
    equal(len(got(channel, "runs")), 10, "without it")


def test_every_rule_changes_on_a_queue_that_runs(t):
    node = t.node()
    ask, channel = api(node), confirming(node.connect().channel())
    channel.queue("q", durable=True)
    channel.queue("dead", durable=True)

    def rules(**definition):
        status, answer, _ = ask.policy("rules", "^q$", {key.replace("_", "-"): value for key, value in definition.items()})
        require(status in (201, 204), f"{definition}: {status} {answer}")
    ten(channel, "q")
    rules(max_length=4)
    equal(bodies(got(channel, "q")), [b"6", b"7", b"8", b"9"], "what is too many goes at once")
    rules(max_length_bytes=3)
    ten(channel, "q")
    equal(bodies(got(channel, "q")), [b"7", b"8", b"9"])
    rules(max_length=1, overflow="reject-publish")
    channel.judged = 20
    for _ in range(2):
        channel.publish("", "q", b"x")
    equal(outcome(channel, 2), ["ack", "nack"])
    rules(max_length=1, overflow="reject-publish-dlx", dead_letter_exchange="", dead_letter_routing_key="dead")
    channel.publish("", "q", b"refused")
    equal(outcome(channel), ["nack"])
    wait_for(channel, "dead", 1)
    rules(dead_letter_exchange="", dead_letter_routing_key="dead")
    require(bodies(got(channel, "dead")) == [b"refused"] and len(got(channel, "q")) == 1, "what was refused")
    # What is there when a time to live comes has none; what comes then, has.
    plain = node.connect().channel()
    publish(plain, "q", b"stays")
    rules(message_ttl=1, dead_letter_exchange="", dead_letter_routing_key="dead")
    publish(plain, "q", b"expires")
    equal(plain.get("q", no_ack=True).body, b"stays")
    wait_for(plain, "dead", 1)
    equal(plain.get("dead", no_ack=True).properties.get("expiration"), None)
    ask.clear("rules")
    publish(plain, "q", b"lives on")
    time.sleep(0.05)  # many times as long as it had to live before
    equal(bodies(got(plain, "q")), [b"lives on"], "without the time to live")
    # A message goes when it has failed more often than the limit of now.
    status, answer, _ = ask.policy("rules", "^q$", {"delivery-limit": 1}, apply_to="classic_queues")
    equal(status, 201, answer)
    publish(plain, "q", b"fails")
    reject(plain, "q")
    reject(plain, "q")
    equal(plain.get("q").name, "basic.get-empty", "it has failed twice")
    rules(expires=300)
    poll("it expires", lambda: ask.ask("GET", "/api/queues/%2F/q")[0] == 404 or None)


def delivered(channel, queue):
    answer = channel.get(queue)
    return answer.delivery_tag if answer.name == "basic.get-ok" else None


def reject(channel, queue):
    channel.send("basic.reject", delivery_tag=poll("it is there", lambda: delivered(channel, queue)), requeue=True)


def test_an_alternate_exchange_by_policy(t):
    node = t.node()
    ask, channel = api(node), node.connect().channel()
    channel.queue("stray", durable=True)
    channel.exchange("lost", "fanout", durable=True)
    channel.call("queue.bind", queue="stray", exchange="lost", routing_key="")
    channel.exchange("x.old", "direct", durable=True)

    def strays(exchange):
        confirming(channel)
        channel.publish(exchange, "nowhere", b"s")
        channel.confirm()
        return len(got(channel, "stray"))
    equal(strays("x.old"), 0)
    equal(ask.policy("ae", "^x[.]", {"alternate-exchange": "lost"}, "exchanges")[0], 201)
    equal(strays("x.old"), 1, "an exchange that was there")
    channel.exchange("x.new", "direct", durable=True)
    equal(strays("x.new"), 1, "a new one")
    channel.exchange("x.own", "direct", durable=True, arguments={"alternate-exchange": "amq.fanout"})
    equal(strays("x.own"), 0, "its argument counts more")
    node.kill()
    node.start()
    channel = node.connect().channel()
    equal(strays("x.old"), 1, "after a crash")
    ask.clear("ae")
    equal(strays("x.old"), 0, "without it")


def test_dispatch_by_policy(t):
    """One key goes to one consumer, from when the policy says so."""
    node = t.node()
    ask, channel = api(node), node.connect().channel()
    channel.queue("work", durable=True)
    consumers = [node.connect().channel() for _ in range(3)]
    for each in consumers:
        each.consume("work", no_ack=True)

    def shares(count):
        for _ in range(count):
            channel.publish("", "work", b"x")
        taken = [0, 0, 0]

        def all_there():
            for number, each in enumerate(consumers):
                try:
                    while True:
                        each.wait("basic.deliver", timeout=0.02)
                        taken[number] += 1
                except TimeoutError:
                    pass
            return sum(taken) == count or None
        poll("all were delivered", all_there)
        return sorted(taken)
    equal(shares(30), [10, 10, 10], "in turn")
    ask.policy("hash", "^work$", {"dispatch": "hash"})
    equal(shares(30), [0, 0, 30], "by the key")
    ask.clear("hash")
    equal(shares(30), [10, 10, 10], "in turn again")


def test_keys_that_do_nothing_are_answered_with_a_warning(t):
    node = t.node()
    ask = api(node)
    for definition in ({"ha-mode": "all", "ha-sync-mode": "automatic"}, {"ha-mode": "exactly", "ha-params": 2},
                       {"queue-mode": "lazy"}, {"queue-version": 2}):
        status, answer, warnings = ask.policy("old", "^", definition)
        require(status in (201, 204), f"{definition}: {status} {answer}")
        equal(len(warnings), len([key for key in definition]), f"{definition}: {warnings}")
        require(all("does nothing" in each for each in warnings), warnings)
    said = order(t, node, "policies", "set", "old", "^", '{"ha-mode": "all"}')
    require("there are no mirrored queues" in said, said)


def test_a_wrong_policy_is_refused_with_what_is_wrong(t):
    node = t.node()
    ask = api(node)
    for body, text in (
            ({"pattern": "(", "definition": {"max-length": 1}}, "pattern should be regular expression but is invalid"),
            ({"pattern": "a", "definition": {"max-length": -1}}, "-1 is not a valid maximum length"),
            ({"pattern": "a", "definition": {"max-lenght": 1}}, "are not recognised policy settings"),
            ({"pattern": "a", "definition": {}}, "no policy provided"),
            ({"pattern": "a", "definition": {"max-length": 1}, "apply-to": "queue"}, "unrecognised; should be one of"),
            ({"pattern": "a", "definition": {"max-length": 1}, "priority": "high"}, "priority should be a number"),
            ({"definition": {"max-length": 1}}, "pattern should be a binary but was undefined")):
        status, answer, _ = ask.ask("PUT", "/api/policies/%2F/wrong", body)
        equal(status, 400, body)
        require("Validation failed" in answer["reason"] and text in answer["reason"], answer)
    equal(ask.ask("PUT", "/api/policies/nowhere/p", {"pattern": "a", "definition": {"max-length": 1}})[0], 404)
    equal(ask.ask("DELETE", "/api/policies/%2F/p")[0], 404)
    equal(ask.ask("PUT", "/api/policies/%2F/p", raw="[1")[0], 400)
    equal(ask.ask("POST", "/api/policies/%2F/p", {})[0], 405)
    require("is a JSON object" in order(t, node, "policies", "set", "p", "^", "max-length=1", code=2), "the text of the command")
    equal(ask.ask("GET", "/api/policies")[1], [])


def test_who_may_make_policies(t):
    node = t.node()
    order(t, node, "users", "add", "rulemaker", "secret", "--tags", "policymaker")
    order(t, node, "vhosts", "add", "theirs")
    order(t, node, "permissions", "set", "--vhost", "theirs", "rulemaker", ".*", ".*", ".*")
    theirs = api(node, "rulemaker:secret")
    equal(theirs.policy("p", "^", {"max-length": 1}, vhost="theirs")[0], 201)
    equal(theirs.policy("p", "^", {"max-length": 1})[0], 401, "no permissions there")
    equal(theirs.policy("p", "^", {"max-length": 1}, vhost="theirs", operator=True)[0], 401)
    equal([each["vhost"] for each in theirs.ask("GET", "/api/policies")[1]], ["theirs"])
    equal(theirs.ask("GET", "/api/policies/theirs/p")[1],
          {"vhost": "theirs", "name": "p", "pattern": "^", "apply-to": "all", "definition": {"max-length": 1}, "priority": 0})
    order(t, node, "users", "add", "watcher", "secret", "--tags", "monitoring")
    equal(api(node, "watcher:secret").policy("p", "^", {"max-length": 1}, vhost="theirs")[0], 401)


def test_the_default_queue_type_of_a_virtual_host(t):
    node = t.node()
    order(t, node, "vhosts", "add", "safe", "--default-queue-type", "quorum")
    order(t, node, "permissions", "set", "--vhost", "safe", "guest", ".*", ".*", ".*")

    def type_of(name):
        shown = api(node).queue(name, "safe")
        return shown["type"], shown["arguments"].get("x-queue-type")
    channel = node.connect(vhost="safe").channel()
    channel.queue("by.default", durable=True)
    equal(type_of("by.default"), ("quorum", "quorum"))
    channel.queue("by.default", durable=True)
    channel.queue("by.default", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue("own", durable=True, arguments={"x-queue-type": "classic"})
    equal(type_of("own"), ("classic", "classic"))
    channel.queue("mine", exclusive=True)
    equal(type_of("mine"), ("classic", None), "what no quorum queue can be")
    channel.queue("passing", durable=True, auto_delete=True)
    equal(type_of("passing"), ("classic", None))
    node.kill()
    node.start()
    channel = node.connect(vhost="safe").channel()
    equal(type_of("by.default"), ("quorum", "quorum"))
    channel.queue("by.default", durable=True)
    with closes(406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'by.default' in vhost 'safe': "
                     "received 'classic' but current is 'quorum'"):
        channel.queue("by.default", durable=True, arguments={"x-queue-type": "classic"})


# As RabbitMQ 3.12 and 4.3 write them.
OF_RABBITMQ_3 = {
    "rabbit_version": "3.12.14", "rabbitmq_version": "3.12.14", "product_name": "RabbitMQ", "product_version": "3.12.14",
    "users": [{"name": "carol", "password_hash": "4Nxqb5UMrPTmVQXkTaEQK7LhLSJ+3CXvKLb3HhGDBqUkSQ2U",
               "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["management"], "limits": {}}],
    "vhosts": [{"name": "shop", "description": "", "tags": [], "default_queue_type": "undefined",
                "metadata": {"description": "", "tags": []}}],
    "permissions": [{"user": "carol", "vhost": "shop", "configure": ".*", "write": ".*", "read": ".*"}],
    "topic_permissions": [],
    "parameters": [{"value": {"max-queues": 100}, "vhost": "shop", "component": "vhost-limits", "name": "limits"},
                   {"value": {"apply-to": "queues", "definition": {"max-length": 50}, "pattern": ".*", "priority": 0},
                    "vhost": "shop", "component": "operator_policy", "name": "cap"}],
    "global_parameters": [{"name": "cluster_name", "value": "rabbit@shop"}],
    "policies": [{"vhost": "shop", "name": "ha", "pattern": "^orders", "apply-to": "queues", "priority": 0,
                  "definition": {"ha-mode": "exactly", "ha-params": 2, "ha-sync-mode": "automatic", "queue-mode": "lazy",
                                 "message-ttl": 60000}}],
    "queues": [{"name": "orders", "vhost": "shop", "durable": True, "auto_delete": False,
                "arguments": {"x-queue-type": "classic", "x-queue-mode": "lazy", "x-dead-letter-exchange": "dead"}},
               {"name": "orders.safe", "vhost": "shop", "durable": True, "auto_delete": False,
                "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 5}},
               {"name": "old", "vhost": "shop", "durable": True, "auto_delete": False,
                "arguments": {"x-queue-master-locator": "min-masters"}}],
    "exchanges": [{"name": "shop.events", "vhost": "shop", "type": "topic", "durable": True, "auto_delete": False,
                   "internal": False, "arguments": {"alternate-exchange": "lost"}},
                  {"name": "dead", "vhost": "shop", "type": "fanout", "durable": True, "auto_delete": False,
                   "internal": True, "arguments": {}},
                  {"name": "by.headers", "vhost": "shop", "type": "headers", "durable": True, "auto_delete": False,
                   "internal": False, "arguments": {}}],
    "bindings": [{"source": "shop.events", "vhost": "shop", "destination": "orders", "destination_type": "queue",
                  "routing_key": "order.#", "arguments": {}},
                 {"source": "shop.events", "vhost": "shop", "destination": "by.headers", "destination_type": "exchange",
                  "routing_key": "#", "arguments": {}},
                 {"source": "by.headers", "vhost": "shop", "destination": "orders.safe", "destination_type": "queue",
                  "routing_key": "", "arguments": {"x-match": "all", "n": 1, "f": 1.5, "t": True, "s": "text"}}],
}
OF_RABBITMQ_4 = {
    **OF_RABBITMQ_3, "rabbit_version": "4.3.6", "rabbitmq_version": "4.3.6",
    "original_cluster_name": "rabbit@shop", "explanation": "Definitions of cluster 'rabbit@shop'",
    "vhosts": [{"name": "shop", "description": "", "tags": [], "default_queue_type": "classic",
                "limits": [], "metadata": {"description": "", "tags": [], "default_queue_type": "classic"}}],
    "policies": [{"vhost": "shop", "name": "p", "pattern": "^orders", "apply-to": "classic_queues", "priority": 0,
                  "definition": {"message-ttl": 60000}}],
    "queues": [{**each, "type": each["arguments"].get("x-queue-type", "classic")} for each in OF_RABBITMQ_3["queues"][:2]],
}


def test_a_file_of_rabbitmq_is_imported(t):
    for number, (definitions, policy) in enumerate(((OF_RABBITMQ_3, "ha"), (OF_RABBITMQ_4, "p"))):
        node = t.node(f"node{number}")
        path = os.path.join(t.directory, f"definitions{number}.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump(definitions, out)
        said = order(t, node, "definitions", "import", path)
        equal("does nothing" in said, policy == "ha", said)
        node.kill()
        node.start()
        ask = api(node)
        order(t, node, "permissions", "set", "--vhost", "shop", "guest", ".*", ".*", ".*")
        shown = ask.queue("orders", "shop")
        equal((shown["policy"], shown["operator_policy"]), (policy, "cap"))
        equal(shown["effective_policy_definition"]["max-length"], 50)
        equal(ask.queue("orders.safe", "shop")["type"], "quorum")
        channel = node.connect(vhost="shop").channel()
        # What was imported is equal to what a client declares.
        channel.queue("orders", durable=True, arguments={"x-queue-mode": "lazy", "x-dead-letter-exchange": "dead"})
        channel.queue("orders.safe", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 5})
        channel.exchange("shop.events", "topic", durable=True, arguments={"alternate-exchange": "lost"})
        confirming(channel)
        channel.publish("shop.events", "order.new", b"all", headers={"n": 1, "f": 1.5, "t": True, "s": "text"})
        channel.confirm()
        equal((bodies(got(channel, "orders")), bodies(got(channel, "orders.safe"))), ([b"all"], [b"all"]))
        again = json.loads(order(t, node, "definitions", "export"))
        for kind in ("exchanges", "bindings"):
            by_text = lambda each: json.dumps(each, sort_keys=True)  # noqa: E731
            equal(sorted(again[kind], key=by_text), sorted(definitions[kind], key=by_text), kind)
        equal(sorted(each["name"] for each in again["queues"]), sorted(each["name"] for each in definitions["queues"]))
        equal(again["policies"], definitions["policies"])
        require(any(each["component"] == "operator_policy" for each in again["parameters"]), again["parameters"])


def test_a_virtual_host_moves_to_another(t):
    node = t.node()
    ask = api(node)
    equal(ask.ask("POST", "/api/definitions", OF_RABBITMQ_4)[0], 204)
    order(t, node, "vhosts", "add", "copy")
    status, exported, _ = ask.ask("GET", "/api/definitions/shop")
    equal(status, 200)
    require("shop" not in json.dumps([exported[kind] for kind in ("queues", "bindings", "policies")]).replace("shop.events", ""),
            "a file of one virtual host names none")
    equal(ask.ask("POST", "/api/definitions/copy", exported)[0], 204)
    equal(ask.ask("GET", "/api/definitions/copy")[1], exported)
    # Once more changes nothing.
    equal(ask.ask("POST", "/api/definitions/copy", exported)[0], 204)
    equal(ask.ask("GET", "/api/definitions/copy")[1], exported)


def test_a_large_file_of_definitions(t):
    """Far beyond what other requests may send; and only for those who may."""
    node = t.node()
    queues = [{"name": f"queue {number:05}", "vhost": "/", "durable": True, "auto_delete": False,
               "arguments": {"x-max-length": number}} for number in range(3000)]
    large = json.dumps({"queues": queues})
    require(len(large) > 256 << 10, len(large))
    order(t, node, "users", "add", "watcher", "secret", "--tags", "monitoring")
    equal(api(node, "watcher:secret").ask("POST", "/api/definitions", raw=large)[0], 413)
    equal(api(node).ask("PUT", "/api/policies/%2F/p", raw=large)[0], 413)
    equal(api(node).ask("POST", "/api/definitions", raw=large)[0], 204)
    equal(len(api(node).ask("GET", "/api/queues")[1]), 3000)
    node.kill()
    node.start()
    equal(api(node).queue("queue%2002999")["arguments"], {"x-max-length": 2999})
    small = t.node("small", options=["--http-definitions-size-max", "128 KiB"])
    equal(api(small).ask("POST", "/api/definitions", raw=large)[0], 413)
    equal(api(small).ask("GET", "/api/queues")[1], [])


def test_what_cannot_be_imported_is_said(t):
    node = t.node()
    ask = api(node)

    def refused(definitions, text):
        status, answer, _ = ask.ask("POST", "/api/definitions", definitions)
        equal(status, 400, definitions)
        require(text in answer["reason"], answer)
    refused({"queues": [{"name": "q", "vhost": "/"}, {"vhost": "/"}]}, "queues[1]: the field 'name' is missing")
    refused({"queues": [{"name": "q", "vhost": "/", "arguments": 1}]}, "queues[0]: the field 'arguments' is not an object")
    refused({"queues": [{"name": "q", "vhost": "nowhere"}]}, "there is no virtual host 'nowhere'")
    refused({"bindings": [{"source": "x", "vhost": "/", "destination": "q", "destination_type": "actor"}]},
            "bindings[0]: the field 'destination_type' is neither 'queue' nor 'exchange'")
    refused({"exchanges": [{"name": "e", "vhost": "/"}]}, "exchanges[0]: the field 'type' is missing")
    equal(ask.ask("GET", "/api/queues")[1], [], "a file with a mistake is refused as a whole")
    refused({"queues": [{"name": "good", "vhost": "/"},
                        {"name": "bad", "vhost": "/", "arguments": {"x-max-length": -1}}],
             "bindings": [{"source": "nothing", "vhost": "/", "destination": "good", "destination_type": "queue"}]},
            "all was imported but for 2: queue 'bad': invalid arg 'x-max-length'")
    equal([each["name"] for each in ask.ask("GET", "/api/queues")[1]], ["good"])


def test_policies_while_messages_flow(t):
    """Policies come and go under load: nothing is lost that was confirmed, and nobody is cut off."""
    node = t.node()
    ask = api(node)
    channel, consumer = confirming(node.connect().channel()), node.connect().channel()
    channel.queue("flow", durable=True)
    consumer.consume("flow", no_ack=True)
    count, taken = 2000, 0
    for number in range(count):
        channel.publish("", "flow", b"%d" % number, delivery_mode=2)
        if number % 100 == 50:
            ask.policy("p", "^flow$", [{"message-ttl": 600000}, {"dispatch": "random"}, {"max-length": 1000000},
                                       {"delivery-limit": 3}][number // 100 % 4], "classic_queues")
        if number % 400 == 399:
            ask.clear("p")
    channel.confirm()
    while taken < count:
        equal(consumer.wait("basic.deliver").body, b"%d" % taken)
        taken += 1
