"""Random but valid AMQP 0-9-1 method sequences, each from its seed.

A sequence is a list of steps `[channel, method, arguments]`. Channels 1 to 8 belong to the first connection, 11 to 18 to the
second one. A name that starts with `~` is made unique by the player, and shown with `~` again; `$g1`, `$t1` and `$reply` stand
for what a server chose (a queue's name, a consumer's tag, an address for replies). A field value whose wire type matters is
`{"!": letter, "v": value}`. Delivery tags are not written down: a step says which of the outstanding deliveries it means.

The generator asks nothing that RabbitMQ leaves to chance. Its model knows which queue's dead letters may reach which other,
and no step is made whose messages could reach one queue on two ways at once: their order there would be the scheduler's.
Times to live are 0 or so far away that nothing expires while a sequence runs. The model is not a broker: it may be wrong about
what exists, and then the sequence asks for what is not there, which is valid, too.
"""
import random

FAR = 3_600_000

# How often a sequence is given a feature, in relation to the others. `--without NAME` leaves out all that use one.
FEATURES = {
    "ae": 6, "autodelete": 6, "cc": 7, "confirm": 10, "connection-errors": 5, "consumer-priority": 6, "dlx": 14, "e2e": 7,
    "errors": 14, "exclusive": 6, "exclusive-consumer": 4, "expiration": 7, "headers": 8, "internal": 2, "large": 3,
    "mandatory": 7, "maxlen": 10, "priority": 8, "properties": 8, "quorum": 4, "recover": 5, "replyto": 4, "sac": 7,
    "server-named": 5, "topic": 8, "ttl": 8, "tx": 8, "two-connections": 6, "other-exchanges": 3,
}

DIRECT_KEYS = ["a", "b", "c", ""]
TOPIC_KEYS = ["a", "b", "a.b", "a.b.c", "", "a..b", "b.c", "x.a.b.y", ".", "a."]
TOPIC_PATTERNS = ["a", "#", "*", "a.*", "*.b", "a.#", "#.b", "*.*", "a.#.c", "#.#", "*.#", "", "a.*.b", "a.b", "#.a.#", "a.*.#"]

# Sequences with seeds from here on use policies, which a broker must have been given before (`run.py --ctl`). A policy takes
# the queues whose names end like its own; of two that take one queue, the priority decides.
POLICY_SEEDS = 50_000
POLICIES = {
    "ttl0": [("policy", 0, {"message-ttl": 0})],
    "max2": [("policy", 0, {"max-length": 2})],
    "refuse1": [("policy", 0, {"max-length": 1, "overflow": "reject-publish"})],
    "bytes10": [("policy", 0, {"max-length-bytes": 10})],
    "dead": [("policy", 0, {"dead-letter-exchange": "amq.direct"})],
    "dead1": [("policy", 0, {"dead-letter-exchange": "amq.direct", "max-length": 1})],
    "both": [("policy", 1, {"max-length": 3}), ("policy", 2, {"message-ttl": 0})],
    "operator": [("policy", 0, {"max-length": 3}), ("operator_policy", 0, {"max-length": 1})],
    "capped": [("operator_policy", 0, {"max-length": 2, "message-ttl": FAR})],
    "ha": [("policy", 0, {"expires": FAR, "max-length": 3})],
}


def wire(letter, value):
    return {"!": letter, "v": value}


class model_queue:
    def __init__(self, name, arguments, connection=None, auto_delete=False, durable=True):
        self.name, self.arguments, self.connection = name, arguments, connection
        self.auto_delete, self.durable, self.consumers, self.had_consumer = auto_delete, durable, set(), False

    @property
    def quorum(self):
        return self.arguments.get("x-queue-type") == "quorum"


class model_channel:
    def __init__(self):
        self.mode, self.consumers, self.holds, self.tx_queues, self.replies = None, {}, set(), set(), False


class generator:
    def __init__(self, seed):
        self.random = random.Random(f"posthorn-differential/{seed}")
        self.steps, self.used = [], set()
        self.queues, self.exchanges, self.bindings = {}, {}, []
        self.channels = {}
        self.counts = {}
        chosen = min(len(FEATURES), 1 + int(self.random.expovariate(0.45)))
        names, weights = list(FEATURES), list(FEATURES.values())
        self.features = set()
        while len(self.features) < min(chosen, 6):
            self.features.add(self.random.choices(names, weights)[0])
        if seed >= POLICY_SEEDS:
            allowed = {"maxlen", "ttl", "dlx", "confirm", "priority", "expiration", "topic", "sac", "recover", "cc", "mandatory"}
            self.features = self.features & allowed | {"policy"}

    # Chance and names.

    def maybe(self, share):
        return self.random.random() < share

    def pick(self, values):
        return self.random.choice(list(values))

    def fresh(self, stem):
        self.counts[stem] = self.counts.get(stem, 0) + 1
        return f"{stem}{self.counts[stem]}"

    def has(self, feature, share=1.0):
        """Whether the sequence may use the feature here, and does; it then belongs to the sequence's features."""
        if feature in self.features and self.maybe(share):
            self.used.add(feature)
            return True
        return False

    def number(self, value):
        """The value in one of the wire types that can hold it."""
        if self.maybe(0.7):
            return value
        letters = "IlL"
        if 0 <= value < 128:
            letters += "bBsui"
        elif 0 <= value < 32768:
            letters += "sui"
        return wire(self.pick(letters), value)

    def emit(self, channel, method, **arguments):
        self.steps.append([channel, method, arguments])

    def channel_ids(self):
        ids = [1, 1, 2, 3]
        if "two-connections" in self.features or "exclusive" in self.features or "exclusive-consumer" in self.features:
            ids += [11, 12]
        return ids

    def any_channel(self, queue=None):
        """A channel for this queue: an exclusive queue is only used on its own connection."""
        ids = self.channel_ids()
        if queue is not None and queue.connection is not None:
            ids = [c for c in ids if c // 10 == queue.connection]
        channel = self.pick(ids)
        for mode, share in (("tx", 0.5), ("confirm", 0.3)):
            in_mode = [c for c in ids if c in self.channels and self.channels[c].mode == mode]
            if in_mode and self.maybe(share):
                channel = self.pick(in_mode)
        if channel > 10 and "two-connections" in self.features:
            self.used.add("two-connections")
        return channel

    def channel(self, channel_id):
        return self.channels.setdefault(channel_id, model_channel())

    def forget_channel(self, channel_id):
        """The channel ends: its consumers go, and with the last consumer an auto-delete queue."""
        channel = self.channels.pop(channel_id, None)
        if channel:
            for tag, queue in channel.consumers.items():
                self.consumer_gone(queue, (channel_id, tag))

    def consumer_gone(self, name, consumer):
        queue = self.queues.get(name)
        if queue:
            queue.consumers.discard(consumer)
            if queue.auto_delete and not queue.consumers:
                self.forget_queue(name)

    def forget_queue(self, name):
        self.queues.pop(name, None)
        self.bindings = [b for b in self.bindings if b[1] != ("queue", name)]
        for channel in self.channels.values():
            channel.consumers = {t: q for t, q in channel.consumers.items() if q != name}

    def forget_connection(self, connection):
        for channel_id in [c for c in self.channels if c // 10 == connection]:
            self.forget_channel(channel_id)
        for name in [n for n, q in self.queues.items() if q.connection == connection]:
            self.forget_queue(name)

    # Which queues a message may reach: more of them rather than fewer.

    def targets(self, exchange, key=None, seen=None):
        if exchange == "":
            return {key} & set(self.queues)
        seen = set() if seen is None else seen
        if exchange in seen or exchange not in [*self.exchanges, "amq.direct"]:
            return set()
        seen.add(exchange)
        found = set()
        for source, (kind, name), _, _ in self.bindings:
            if source == exchange:
                found |= {name} if kind == "queue" else self.targets(name, key, seen)
        alternate = self.exchanges[exchange]["arguments"].get("alternate-exchange") if exchange in self.exchanges else None
        if alternate is not None:
            found |= self.targets(alternate, key, seen)
        return found & set(self.queues)

    def dead_letter_targets(self, name):
        arguments = self.queues[name].arguments
        exchange = arguments.get("x-dead-letter-exchange", "amq.direct" if "-p.dead" in name else None)
        if not isinstance(exchange, str):
            return set()
        return self.targets(exchange, arguments.get("x-dead-letter-routing-key"))

    def chancy(self, sources, burst=False):
        """Whether what happens in these queues at once could reach one queue on two ways, in an order left to chance."""
        reached, todo, edges = set(sources), list(sources), {}
        while todo:
            name = todo.pop()
            for target in self.dead_letter_targets(name) if name in self.queues else ():
                edges.setdefault(target, set()).add(name)
                if target not in reached:
                    reached.add(target)
                    todo.append(target)
        for name in reached:
            inputs = len(edges.get(name, ()))
            if name in sources and inputs and (burst or len(sources) > 1):
                inputs += 1
            if inputs > 1:
                return True
        return False

    # The topology.

    def queue_arguments(self):
        arguments = {}
        quorum = self.has("quorum", 0.7)
        if quorum:
            arguments["x-queue-type"] = "quorum"
            if self.maybe(0.4):
                arguments["x-delivery-limit"] = self.pick([0, 1, 2, -1, 5])
        elif self.maybe(0.1):
            arguments["x-queue-type"] = "classic"
        if self.has("ttl", 0.5):
            arguments["x-message-ttl"] = self.number(FAR if quorum else self.pick([0, 0, 0, FAR]))
        if self.has("ttl", 0.15):
            arguments["x-expires"] = self.number(FAR)
        if self.has("maxlen", 0.6):
            arguments["x-max-length"] = self.number(self.pick([0, 1, 2, 2, 3, 4]))
            if self.maybe(0.25):
                arguments["x-max-length-bytes"] = self.number(self.pick([0, 3, 10, 100]))
        elif self.has("maxlen", 0.3):
            arguments["x-max-length-bytes"] = self.number(self.pick([0, 2, 6, 10, 40]))
        if "maxlen" in self.used and self.maybe(0.6):
            arguments["x-overflow"] = self.pick(["drop-head", "reject-publish"] + (["reject-publish-dlx"] * (not quorum)))
        if not quorum and self.has("priority", 0.7):
            arguments["x-max-priority"] = self.number(self.pick([1, 2, 5, 9, 10]))
        if self.has("sac", 0.7):
            arguments["x-single-active-consumer"] = self.maybe(0.9)
        if self.has("dlx", 0.75):
            kind = self.random.random()
            if kind < 0.25 and self.queues:
                arguments["x-dead-letter-exchange"] = ""
                arguments["x-dead-letter-routing-key"] = self.pick(list(self.queues) + [f"~q{self.counts.get('~q', 0) + 1}"])
            else:
                exchange = self.pick(self.exchanges) if self.exchanges and kind < 0.9 else "~x-missing"
                arguments["x-dead-letter-exchange"] = exchange
                if self.maybe(0.4):
                    arguments["x-dead-letter-routing-key"] = self.pick(["a", "dead", "a.b"])
        if not quorum and self.maybe(0.04):
            arguments["x-queue-mode"] = self.pick(["lazy", "default"])
        if not quorum and self.maybe(0.04):
            arguments["x-queue-version"] = 2
        if self.maybe(0.04):
            arguments[self.pick(["x-unheard-of", "unheard-of"])] = self.pick([1, "text", True, None])
        return arguments

    def declare_queue(self):
        arguments = self.queue_arguments()
        quorum = arguments.get("x-queue-type") == "quorum"
        channel_id = self.any_channel()
        exclusive = not quorum and self.has("exclusive", 0.6)
        auto_delete = not quorum and self.has("autodelete", 0.5)
        durable = not exclusive or self.maybe(0.5)
        more = {}
        if not quorum and self.has("server-named", 0.5):
            name = self.fresh("$g")
            more = {"as": name}
            self.emit(channel_id, "queue.declare", queue="", durable=durable, exclusive=exclusive,
                      auto_delete=auto_delete, arguments=arguments, **more)
        else:
            name = self.fresh("~q")
            if self.has("policy", 0.7):
                name += "-p." + self.pick(POLICIES)
            self.emit(channel_id, "queue.declare", queue=name, durable=durable, exclusive=exclusive,
                      auto_delete=auto_delete, arguments=arguments)
        self.queues[name] = model_queue(name, arguments, channel_id // 10 if exclusive else None, auto_delete, durable)
        other = self.pick(self.queues) if "policy" in self.features else ""
        if "-p.dead" in other and other != name:  # its dead letters come back by its own name, which nobody else binds
            self.emit(channel_id, "queue.bind", queue=name, exchange="amq.direct", routing_key=other)
            self.bindings.append(("amq.direct", ("queue", name), other, {}))
        sources = [n for n, row in self.exchanges.items() if row["type"] in ("direct", "fanout", "topic")]
        if sources and self.maybe(0.08):
            source = self.pick(sources)  # the last queue of the channel, by its name
            self.emit(channel_id, "queue.bind", queue="", exchange=source, routing_key="")
            self.bindings.append((source, ("queue", name), "", {}))

    def declare_exchange(self):
        kinds = ["direct", "direct", "fanout"]
        if self.has("topic"):
            kinds += ["topic"] * 4
        if self.has("headers"):
            kinds += ["headers"] * 4
        if self.has("other-exchanges"):
            kinds += ["x-modulus-hash", "x-local-random"] * 2
        kind, arguments = self.pick(kinds), {}
        if self.exchanges and self.has("ae", 0.6):
            arguments["alternate-exchange"] = self.pick(list(self.exchanges) + ["~x-missing", "amq.fanout"])
            if arguments["alternate-exchange"] == "amq.fanout":
                arguments["alternate-exchange"] = "~x-missing"
        name = self.fresh("~x")
        internal, auto_delete = self.has("internal", 0.5), self.has("autodelete", 0.4)
        durable = self.maybe(0.7)
        self.emit(self.any_channel(), "exchange.declare", exchange=name, type=kind, durable=durable, internal=internal,
                  auto_delete=auto_delete, arguments=arguments)
        self.exchanges[name] = {"type": kind, "arguments": arguments, "internal": internal, "durable": durable,
                                "auto_delete": auto_delete}

    def header_value(self):
        return self.pick([1, 2, "1", "x", True, False, None, wire("l", 1), wire("s", 1), wire("b", 1), wire("d", 1.0),
                          wire("f", 1.0), wire("T", 1), wire("x", "78"), wire("D", [1, 10]), [1, "a"], {"n": 1}, ""])

    def binding_key(self, exchange):
        kind = self.exchanges[exchange]["type"]
        if kind == "topic":
            return self.pick(TOPIC_PATTERNS), {}
        if kind == "headers":
            table = {}
            for name in self.random.sample(["h1", "h2", "x-h3", "x-"], self.random.randrange(0, 3)):
                table[name] = self.header_value()
            if self.maybe(0.85):
                table["x-match"] = self.pick(["all", "any", "all-with-x", "any-with-x"])
            return self.pick(["", "", "a"]), table
        key = "" if kind == "x-local-random" and self.maybe(0.8) else self.pick(DIRECT_KEYS)
        return key, ({"note": self.pick([1, "text"])} if self.maybe(0.08) else {})

    def bind(self):
        if not self.exchanges:
            return self.declare_exchange()
        source = self.pick(self.exchanges)
        single = self.exchanges[source]["type"] in ("x-modulus-hash", "x-local-random")
        if single and any(b[0] == source for b in self.bindings):
            return None
        key, arguments = self.binding_key(source)
        if self.maybe(0.12) and self.bindings and not single:
            source, (kind, name), key, arguments = self.pick(self.bindings)  # the same once more
            if kind == "exchange":
                return self.emit(self.any_channel(), "exchange.bind", destination=name, source=source, routing_key=key,
                                 arguments=arguments)
        elif not single and self.has("e2e", 0.5):
            name = self.pick(self.exchanges)
            self.emit(self.any_channel(), "exchange.bind", destination=name, source=source, routing_key=key,
                      arguments=arguments)
            self.bindings.append((source, ("exchange", name), key, arguments))
            return None
        else:
            if not self.queues:
                return self.declare_queue()
            name = self.pick(self.queues)
        queue = self.queues.get(name)
        self.emit(self.any_channel(queue), "queue.bind", queue=name, exchange=source, routing_key=key, arguments=arguments)
        if queue:
            self.bindings.append((source, ("queue", name), key, arguments))
        return None

    def unbind(self):
        if not self.bindings:
            return
        binding = self.pick(self.bindings)
        source, (kind, name), key, arguments = binding
        if self.maybe(0.15):
            key = "not-bound"  # unbinding what is not there succeeds
        else:
            self.bindings = [b for b in self.bindings if b != binding]
        if kind == "queue":
            self.emit(self.any_channel(self.queues.get(name)), "queue.unbind", queue=name, exchange=source, routing_key=key,
                      arguments=arguments)
        else:
            self.emit(self.any_channel(), "exchange.unbind", destination=name, source=source, routing_key=key,
                      arguments=arguments)
        row = self.exchanges.get(source)
        if row and row["auto_delete"] and key != "not-bound" and not any(b[0] == source for b in self.bindings):
            self.forget_exchange(source)

    def forget_exchange(self, name):
        self.exchanges.pop(name, None)
        self.bindings = [b for b in self.bindings if b[0] != name and b[1] != ("exchange", name)]

    def declare_again(self):
        """The same declaration once more, or a passive one with whatever else."""
        if self.queues and self.maybe(0.6):
            queue = self.pick(self.queues.values())
            channel_id = self.any_channel(queue)
            if self.maybe(0.5):
                self.emit(channel_id, "queue.declare", queue=queue.name, passive=True, durable=self.maybe(0.5),
                          auto_delete=self.maybe(0.5), arguments={"x-message-ttl": -5} if self.maybe(0.3) else {})
            else:
                arguments = dict(queue.arguments)
                for key, value in arguments.items():
                    if isinstance(value, int) and not isinstance(value, bool) and value >= 0 and self.maybe(0.3):
                        arguments[key] = wire("l", value)
                self.emit(channel_id, "queue.declare", queue=queue.name, durable=queue.durable,
                          exclusive=queue.connection is not None, auto_delete=queue.auto_delete, arguments=arguments)
        elif self.exchanges:
            name = self.pick(self.exchanges)
            row = self.exchanges[name]
            self.emit(self.any_channel(), "exchange.declare", exchange=name, type=row["type"], durable=row["durable"],
                      internal=row["internal"], auto_delete=row["auto_delete"], arguments=row["arguments"],
                      passive=self.maybe(0.4))

    def delete(self):
        if self.queues and self.maybe(0.6):
            queue = self.pick(self.queues.values())
            channel_id = self.any_channel(queue)
            flags = {}
            if "errors" in self.features:
                flags = {"if_unused": self.maybe(0.3), "if_empty": self.maybe(0.3)}
            self.emit(channel_id, "queue.delete", queue=queue.name, **flags)
            if not any(flags.values()):
                self.forget_queue(queue.name)
        elif self.exchanges:
            name = self.pick(self.exchanges)
            unused = "errors" in self.features and self.maybe(0.4)
            self.emit(self.any_channel(), "exchange.delete", exchange=name, if_unused=unused)
            if not unused:
                self.forget_exchange(name)

    # Messages.

    def headers(self):
        table = {}
        for name in self.random.sample(["h1", "h2", "x-h3", "x-", "deep"], self.random.randrange(0, 4)):
            table[name] = self.header_value()
        return table

    def properties(self):
        properties = {}
        if self.maybe(0.5):
            properties["delivery_mode"] = self.pick([1, 2, 2])
        if self.has("priority", 0.7):
            properties["priority"] = self.pick([0, 0, 1, 2, 3, 5, 9, 10, 200])
        if self.has("expiration", 0.5):
            properties["expiration"] = self.pick(["0", "0", str(FAR), str(FAR * 3)])
        if self.has("properties", 0.6):
            for name, values in {"content_type": ["text/plain", ""], "content_encoding": ["utf-8", "gzip"],
                                 "correlation_id": ["c-1", ""], "reply_to": ["~q1", "somewhere"], "message_id": ["id-1"],
                                 "timestamp": [0, 1, 1700000000, 2**63, 2**64 - 1], "type": ["order"], "app_id": ["app"],
                                 "user_id": ["guest"], "cluster_id": ["cluster"]}.items():
                if self.maybe(0.3):
                    properties[name] = self.pick(values)
            if self.maybe(0.5):
                properties["headers"] = self.headers()
        if self.has("headers", 0.8):
            properties["headers"] = self.headers()
        if self.has("dlx", 0.05):
            properties["headers"] = {"x-death": [{"queue": "~q1", "reason": "rejected", "count": wire("l", 3)}],
                                     "x-first-death-queue": "mine"}
        return properties

    def routing(self):
        """An exchange and a key, and all the queues that may be reached."""
        open_exchanges = [n for n, row in self.exchanges.items() if not row["internal"]]
        if open_exchanges and self.maybe(0.6):
            exchange = self.pick(open_exchanges)
            kind = self.exchanges[exchange]["type"]
            key = self.pick(TOPIC_KEYS if kind == "topic" else DIRECT_KEYS)
            return exchange, key, self.targets(exchange)
        key = self.pick(self.queues) if self.queues and self.maybe(0.93) else "nobody"
        return "", key, {key} & set(self.queues)

    def message(self):
        exchange, key, reached = self.routing()
        properties = self.properties()
        if self.has("cc", 0.6):
            headers = dict(properties.get("headers") or {})
            for name in self.random.sample(["CC", "BCC"], self.random.randrange(1, 3)):
                names = list(self.queues) if exchange == "" else DIRECT_KEYS[:3] + ["a.b"]
                headers[name] = [self.pick(names or ["nobody"]) for _ in range(self.random.randrange(0, 3))]
                if exchange == "":
                    reached |= set(headers[name]) & set(self.queues)
            properties["headers"] = headers
        size = self.random.randrange(3, 12)
        if self.has("large", 0.3):
            size = self.pick([0, 1000, 131064, 131065, 300000])
        message = {"exchange": exchange, "routing_key": key, "properties": properties, "size": size}
        if self.has("mandatory", 0.6):
            message["mandatory"] = True
        return message, reached

    def publish(self):
        count = self.pick([1, 1, 1, 1, 2, 3, 5])
        channel_id = self.any_channel()
        channel = self.channel(channel_id)
        messages, reached = [], set()
        for _ in range(count):
            message, more = self.message()
            reached |= more
            messages.append(message)
        sources = reached | channel.tx_queues if channel.mode == "tx" else reached
        if self.chancy(sources, burst=count > 1 or channel.mode == "tx"):
            return
        if any(self.queues[q].quorum for q in reached) and channel.mode != "confirm":
            if channel.mode == "tx":
                return
            self.emit(channel_id, "confirm.select")  # the confirm tells when the queue has it
            channel.mode = "confirm"
            self.used.add("confirm")
        if channel.mode == "tx":
            channel.tx_queues = sources
        for message in messages:
            message["body"] = self.fresh("m")
        self.emit(channel_id, "publish", messages=messages)

    def select_mode(self):
        channel_id = self.any_channel()
        channel = self.channel(channel_id)
        if channel.mode is None:
            if self.has("confirm"):
                channel.mode = "confirm"
                return self.emit(channel_id, "confirm.select")
            if self.has("tx"):
                channel.mode = "tx"
                return self.emit(channel_id, "tx.select")
        elif channel.mode == "tx":
            channel.tx_queues = set()
            return self.emit(channel_id, self.pick(["tx.commit", "tx.commit", "tx.commit", "tx.rollback"]))
        return None

    def get(self):
        if not self.queues:
            return
        queue = self.pick(self.queues.values())
        if self.chancy({queue.name}):
            return
        if queue.arguments.get("x-single-active-consumer") is True and "errors" not in self.features:
            return
        channel_id = self.any_channel(queue)
        no_ack = self.maybe(0.35)
        self.emit(channel_id, "basic.get", queue=queue.name, no_ack=no_ack)
        if not no_ack:
            self.channel(channel_id).holds.add(queue.name)

    def consume(self):
        if not self.queues:
            return
        queue = self.pick(self.queues.values())
        if self.chancy({queue.name}):
            return
        channel_id = self.any_channel(queue)
        channel = self.channel(channel_id)
        if len(channel.consumers) > 3:
            return
        if self.maybe(0.6):
            self.emit(channel_id, "basic.qos", prefetch_count=self.pick([0, 1, 1, 2, 3, 10]),
                      **{"global": self.maybe(0.1)})
        arguments = {}
        if self.has("consumer-priority", 0.7):
            arguments["x-priority"] = self.number(self.pick([0, 1, 5, 10])) if self.maybe(0.8) else -1
        flags = {"no_ack": self.maybe(0.25), "arguments": arguments}
        if self.has("exclusive-consumer", 0.5) and not queue.consumers:
            flags["exclusive"] = True
        if self.has("server-named", 0.3):
            tag = self.fresh("$t")
            self.emit(channel_id, "basic.consume", queue=queue.name, consumer_tag="", **{"as": tag}, **flags)
        else:
            tag = self.fresh("c")
            self.emit(channel_id, "basic.consume", queue=queue.name, consumer_tag=tag, **flags)
        queue.consumers.add((channel_id, tag))
        channel.consumers[tag] = queue.name
        if not flags["no_ack"]:
            channel.holds.add(queue.name)

    def cancel(self):
        busy = [(c, tag) for c, channel in self.channels.items() for tag in channel.consumers]
        if not busy or self.maybe(0.05):
            return self.emit(self.any_channel(), "basic.cancel", consumer_tag="never-seen")
        channel_id, tag = self.pick(busy)
        self.emit(channel_id, "basic.cancel", consumer_tag=tag)
        queue = self.channels[channel_id].consumers.pop(tag)
        return self.consumer_gone(queue, (channel_id, tag))

    def settle(self):
        """ack, nack or reject of what a channel holds."""
        holding = [c for c, channel in self.channels.items() if channel.holds]
        if not holding:
            return
        channel_id = self.pick(holding)
        channel = self.channels[channel_id]
        kind = self.pick(["ack", "ack", "ack", "nack", "nack", "reject"])
        if "dlx" in self.features and self.maybe(0.4):
            kind = self.pick(["nack", "reject"])
        requeue = kind != "ack" and self.maybe(0.25 if "dlx" in self.features else 0.5)
        multiple = kind != "reject" and self.maybe(0.3)
        if multiple and self.chancy(channel.holds):
            return
        if any(self.chancy({q}) for q in channel.holds):
            return
        if channel.mode == "tx":
            sources = channel.tx_queues | channel.holds
            if self.chancy(sources, burst=True):
                return
            channel.tx_queues = sources
        arguments = {"pick": self.random.randrange(0, 100)}
        if multiple:
            arguments["multiple"] = True
            if self.maybe(0.4):
                arguments["pick"] = "all"  # delivery tag 0
                if channel.mode != "tx":
                    channel.holds = set(channel.consumers.values())
        if kind != "ack":
            arguments["requeue"] = requeue
        self.emit(channel_id, "settle." + kind, **arguments)

    def recover(self):
        holding = [c for c, channel in self.channels.items() if channel.holds and not self.chancy(channel.holds)]
        if holding:
            self.has("recover")
            self.emit(self.pick(holding), self.pick(["basic.recover", "basic.recover", "basic.recover-async"]), requeue=True)

    def close_channel(self):
        closable = [c for c, channel in self.channels.items() if not self.chancy(channel.holds)]
        if closable:
            channel_id = self.pick(closable)
            self.emit(channel_id, "channel.close", reply_code=200, reply_text="done")
            self.forget_channel(channel_id)

    def purge(self):
        if self.queues:
            queue = self.pick(self.queues.values())
            self.emit(self.any_channel(queue), "queue.purge", queue=queue.name)

    def replies(self):
        """Direct reply-to: a question, its taking, and the answer, as three steps."""
        usual = [q for q in self.queues.values() if q.connection is None and not q.arguments and not q.consumers]
        if not usual:
            name = self.fresh("~q")
            self.emit(1, "queue.declare", queue=name, durable=True)
            usual = [self.queues.setdefault(name, model_queue(name, {}))]
        self.has("replyto")
        queue = self.pick(usual)
        asker = self.pick([1, 2])
        if not self.channel(asker).replies:
            self.emit(asker, "basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag=self.fresh("r"), no_ack=True)
            self.channel(asker).replies = True
        if self.channel(asker).mode == "tx":
            return
        self.emit(asker, "publish", messages=[{
            "exchange": "", "routing_key": queue.name, "size": 5, "body": self.fresh("m"),
            "properties": {"reply_to": "amq.rabbitmq.reply-to", "correlation_id": "7"}}])
        self.emit(3, "basic.get", queue=queue.name, no_ack=True)
        if self.maybe(0.3):
            self.emit(3, "queue.declare", queue="$reply", passive=self.maybe(0.7))
        self.emit(3, "publish", messages=[{"exchange": "", "routing_key": "$reply", "size": 5, "body": self.fresh("m"),
                                           "properties": {"correlation_id": "7"}, "mandatory": self.maybe(0.5)}])

    # What is wrong on purpose. Each closes a channel or, below, a connection.

    def wrong(self):
        channel_id = self.any_channel()
        if self.chancy(self.channel(channel_id).holds):
            return
        queue = self.pick(self.queues) if self.queues else "~q-missing"
        exchange = self.pick(self.exchanges) if self.exchanges else "~x-missing"
        bad = self.fresh("~q-bad")
        one = {"exchange": "", "routing_key": queue, "size": 3, "properties": {}}

        def declare(arguments, **flags):
            return "queue.declare", {"queue": bad, "durable": True, "arguments": arguments, **flags}

        def publish(**changes):
            return "publish", {"messages": [{**one, "body": self.fresh("m"), **changes}]}

        number = self.pick([-1, 0, 256, 2**40, "text", True, wire("d", 1.5), None, [1]])
        arguments = self.pick([
            {"x-message-ttl": number}, {"x-expires": number}, {"x-max-length": number}, {"x-max-length-bytes": number},
            {"x-max-priority": number}, {"x-overflow": self.pick(["foo", 1])}, {"x-queue-type": self.pick(["foo", 5])},
            {"x-dead-letter-routing-key": "a"}, {"x-dead-letter-exchange": self.pick([5, True])},
            {"x-dead-letter-exchange": "a", "x-dead-letter-routing-key": 7}, {"x-single-active-consumer": "yes"},
            {"x-queue-mode": "foo"}, {"x-queue-version": 3}, {"x-queue-type": "quorum", "x-max-priority": 5},
            {"x-queue-type": "quorum", "x-delivery-limit": "x"}, {"x-queue-type": "quorum", "x-overflow": "reject-publish-dlx"},
            {"x-queue-type": "classic", "x-quorum-initial-group-size": 3}])
        method, details = self.pick([
            lambda: declare(arguments), lambda: declare(arguments), lambda: declare(arguments), lambda: declare(arguments),
            lambda: declare({"x-queue-type": "quorum"}, auto_delete=True),
            lambda: declare({"x-queue-type": "quorum"}, exclusive=True),
            lambda: declare({"x-queue-type": "quorum"}, durable=False),
            lambda: ("queue.declare", {"queue": "~q-missing", "passive": True}),
            lambda: ("queue.declare", {"queue": "amq.mine", "durable": True}),
            lambda: ("queue.declare", {"queue": "amq.mine", "passive": True}),
            lambda: ("queue.declare", {"queue": queue, "durable": True, "auto_delete": self.maybe(0.5),
                                       "arguments": self.pick([{}, {"x-max-length": 77}, {"x-message-ttl": wire("l", 7)},
                                                               {"x-dead-letter-exchange": "other"}])}),
            lambda: ("basic.get", {"queue": "~q-missing"}),
            lambda: ("basic.get", {"queue": "", "no_ack": True}),
            lambda: ("basic.consume", {"queue": "~q-missing", "consumer_tag": "w"}),
            lambda: ("basic.consume", {"queue": queue, "consumer_tag": "w", "arguments": {"x-priority": "high"}}),
            lambda: ("queue.bind", {"queue": "~q-missing", "exchange": exchange, "routing_key": "a"}),
            lambda: ("queue.bind", {"queue": queue, "exchange": "~x-missing", "routing_key": "a"}),
            lambda: ("queue.bind", {"queue": queue, "exchange": "", "routing_key": "a"}),
            lambda: ("queue.bind", {"queue": queue, "exchange": "amq.headers", "routing_key": "",
                                    "arguments": {"x-match": self.pick(["some", 1])}}),
            lambda: ("queue.unbind", {"queue": "~q-missing", "exchange": "~x-missing", "routing_key": "a"}),
            lambda: ("queue.unbind", {"queue": queue, "exchange": "", "routing_key": queue}),
            lambda: ("exchange.bind", {"destination": "~x-missing", "source": exchange, "routing_key": "a"}),
            lambda: ("exchange.bind", {"destination": exchange, "source": "", "routing_key": "a"}),
            lambda: ("exchange.declare", {"exchange": self.fresh("~x-bad"), "type": "no-such-type"}),
            lambda: ("exchange.declare", {"exchange": "", "type": "direct"}),
            lambda: ("exchange.declare", {"exchange": "amq.mine", "type": "direct"}),
            lambda: ("exchange.declare", {"exchange": "amq.direct", "type": "direct", "durable": self.maybe(0.5)}),
            lambda: ("exchange.declare", {"exchange": "~x-missing", "type": "direct", "passive": True}),
            lambda: ("exchange.declare", {"exchange": exchange, "type": self.pick(["fanout", "topic"]), "durable": True,
                                          "internal": self.maybe(0.5)}),
            lambda: ("exchange.declare", {"exchange": self.fresh("~x-bad"), "type": "direct",
                                          "arguments": {"alternate-exchange": self.pick([5, "~x-missing"])}}),
            lambda: ("exchange.delete", {"exchange": self.pick(["amq.direct", "", "amq.topic"])}),
            lambda: ("exchange.delete", {"exchange": exchange, "if_unused": True}),
            lambda: ("queue.delete", {"queue": queue, "if_unused": True}),
            lambda: ("queue.delete", {"queue": queue, "if_empty": True}),
            lambda: ("queue.delete", {"queue": "~q-missing", "if_unused": True}),
            lambda: ("queue.purge", {"queue": "~q-missing"}),
            lambda: publish(exchange="~x-missing"),
            lambda: publish(exchange=exchange),
            lambda: publish(properties={"expiration": self.pick(["abc", "-1", "", "1.5", "99999999999"])}),
            lambda: publish(properties={"user_id": self.pick(["somebody", ""])}),
            lambda: publish(properties={"headers": {self.pick(["CC", "BCC"]): self.pick(["text", 5, [1], [True, "a"]])}}),
            lambda: publish(routing_key="amq.rabbitmq.reply-to.none"),
            lambda: ("basic.consume", {"queue": "amq.rabbitmq.reply-to", "consumer_tag": "w", "no_ack": False}),
            lambda: ("basic.ack", {"delivery_tag": 999, "multiple": self.maybe(0.5)}),
            lambda: ("basic.nack", {"delivery_tag": 999, "multiple": self.maybe(0.5)}),
            lambda: ("basic.reject", {"delivery_tag": self.pick([0, 999])}),
            lambda: ("basic.ack", {"delivery_tag": 0, "multiple": self.maybe(0.8)}),
            lambda: (self.pick(["tx.commit", "tx.rollback"]), {}),
            lambda: (self.pick(["tx.select", "confirm.select"]), {}),
        ])()
        self.has("errors")
        if method == "publish" and details["messages"][0]["exchange"] == exchange:
            if self.chancy(self.targets(exchange)):
                return
        elif method == "publish" and self.chancy({queue} & set(self.queues)):
            return
        if method == "publish" and self.channel(channel_id).mode == "tx":
            return
        if "tx." in method or "confirm." in method:
            self.used.add(method.split(".")[0])
            if self.channel(channel_id).mode == "tx":
                return
            if method == "tx.select":
                self.channel(channel_id).mode = "tx"
            if method == "confirm.select":
                self.channel(channel_id).mode = self.channel(channel_id).mode or "confirm"
        if any("quorum" in str(v) for v in details.get("arguments", {}).values()):
            self.used.add("quorum")
        if "replyto" not in self.used and "reply-to" in str(details):
            self.used.add("replyto")
        if method == "publish" and "CC" in str(details):
            self.used.add("cc")
        self.emit(channel_id, method, **details)

    def may_close(self, connection):
        """Whether the connection can end in one way only: its channels end in any order. So no queue may get messages back
        from two of them, or hand what it got back from one of them to another one."""
        channels = {i: c for i, c in self.channels.items() if i // 10 == connection}
        held = set()
        for channel_id, channel in channels.items():
            if channel.holds & held:
                return False
            held |= channel.holds
            for other_id, other in channels.items():
                if other_id != channel_id and channel.holds & set(other.consumers.values()):
                    return False
        return not self.chancy(held) and not any(q in self.queues and self.queues[q].quorum for q in held)

    def wrong_connection(self):
        """An error that ends the connection."""
        ids = self.channel_ids()
        channel_id = self.pick(ids)
        connection = channel_id // 10
        if not self.may_close(connection):
            return
        queue = self.pick(self.queues) if self.queues else "~q-missing"
        details = self.pick([
            ("publish", {"messages": [{"exchange": "", "routing_key": queue, "size": 3, "properties": {}, "immediate": True,
                                       "body": self.fresh("m")}]}),
            ("basic.recover", {"requeue": False}),
            ("basic.qos", {"prefetch_size": 10}),
            ("channel.flow", {"active": False}),
            ("channel.open", {}),
            ("twice", {"queue": queue, "consumer_tag": "twice"}),
        ])
        self.has("connection-errors")
        if details[0] == "twice":
            for _ in range(2):
                self.emit(channel_id, "basic.consume", no_ack=False, **details[1])
        else:
            self.emit(channel_id, details[0], **details[1])
        self.forget_connection(connection)

    def other_connection(self):
        """An exclusive queue, touched from the other connection."""
        locked = [q for q in self.queues.values() if q.connection is not None]
        if not locked:
            return
        queue = self.pick(locked)
        channel_id = 11 if queue.connection == 0 else 1
        if self.chancy(self.channel(channel_id).holds):
            return
        method, details = self.pick([
            ("queue.declare", {"queue": queue.name, "passive": True}),
            ("queue.declare", {"queue": queue.name, "durable": queue.durable, "exclusive": True}),
            ("queue.delete", {"queue": queue.name}), ("queue.purge", {"queue": queue.name}),
            ("basic.get", {"queue": queue.name}), ("basic.consume", {"queue": queue.name, "consumer_tag": "w"}),
            ("queue.bind", {"queue": queue.name, "exchange": "amq.direct", "routing_key": "a"})])
        self.has("exclusive")
        self.emit(channel_id, method, **details)
        self.forget_channel(channel_id)

    def close_connection(self):
        if self.maybe(0.5):
            return
        connection = self.pick([0, 1])
        if self.may_close(connection):
            self.emit(connection * 10 + 1, "connection.close", reply_code=200, reply_text="done")
            self.forget_connection(connection)

    def second_exclusive(self):
        busy = [q for q in self.queues.values() if q.consumers]
        if not busy:
            return
        queue = self.pick(busy)
        channel_id = self.any_channel(queue)
        if self.chancy(self.channel(channel_id).holds):
            return
        self.has("exclusive-consumer")
        self.emit(channel_id, "basic.consume", queue=queue.name, consumer_tag="w", exclusive=self.maybe(0.6))
        self.forget_channel(channel_id)

    def make(self):
        for _ in range(self.random.randrange(0, 3) + bool(self.features & {"topic", "headers", "e2e", "ae", "internal", "dlx",
                                                                          "other-exchanges"})):
            self.declare_exchange()
        for _ in range(self.random.randrange(1, 4)):
            self.declare_queue()
        for _ in range(self.random.randrange(0, 2 + 2 * len(self.exchanges))):
            self.bind()
        if self.features & {"confirm", "tx"}:
            self.select_mode()
        ways = [(self.publish, 30), (self.get, 12), (self.consume, 10), (self.settle, 18), (self.cancel, 3), (self.purge, 1.5),
                (self.declare_again, 3), (self.declare_queue, 1.5), (self.declare_exchange, 1), (self.bind, 4),
                (self.unbind, 2), (self.delete, 1.5), (self.close_channel, 1.5)]
        for feature, way, weight in [("confirm", self.select_mode, 4), ("tx", self.select_mode, 12),
                                     ("recover", self.recover, 8), ("dlx", self.settle, 12), ("dlx", self.get, 6), ("dlx", self.bind, 4),
                                     ("e2e", self.bind, 8), ("e2e", self.unbind, 4),
                                     ("e2e", self.publish, 8), ("errors", self.wrong, 10),
                                     ("connection-errors", self.wrong_connection, 4), ("replyto", self.replies, 8),
                                     ("exclusive", self.other_connection, 5), ("two-connections", self.close_connection, 2),
                                     ("exclusive", self.close_connection, 2), ("autodelete", self.cancel, 5),
                                     ("autodelete", self.unbind, 5), ("exclusive-consumer", self.second_exclusive, 5),
                                     ("sac", self.consume, 8), ("sac", self.cancel, 3), ("consumer-priority", self.consume, 8)]:
            if feature in self.features:
                ways.append((way, weight))
        actions, weights = zip(*ways)
        size = len(self.steps) + self.random.randrange(10, 30)
        for _ in range(200):
            if len(self.steps) >= size:
                break
            self.random.choices(actions, weights)[0]()
        self.take_stock()
        return {"features": sorted(self.used), "steps": self.steps}

    def take_stock(self):
        """What was held goes back, and each queue is read to its end: the last comparison is of all that is left."""
        for channel_id in sorted(self.channels):
            if not self.chancy(self.channels[channel_id].holds):
                self.emit(channel_id, "channel.close", reply_code=200, reply_text="done")
                self.forget_channel(channel_id)
        for name, queue in list(self.queues.items()):
            if not self.chancy({name}) and queue.arguments.get("x-single-active-consumer") is not True:
                self.emit(5 if queue.connection in (None, 0) else 15, "drain", queue=name)


def sequence(seed):
    """The sequence of this seed: its features, and its steps."""
    return {"seed": seed, **generator(seed).make()}
