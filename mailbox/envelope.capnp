@0xb2a6f1d93c5e7a10;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("posthorn::wire");

# One message as it travels: in memory, in the store and between nodes, always in one segment and in the order of its
# fields. Written once, where the message enters; nobody changes it afterwards. An ordinal is never reused.
struct Envelope {
  exchange @0 :Data;    # the exchange that it was published to; empty for the default exchange
  routingKey @1 :Data;
  properties @2 :Data;  # AMQP 0-9-1 property flags and property list, byte for byte as they came
  body @3 :Data;
  persistent @4 :Bool;  # delivery-mode 2: survives a restart in a durable queue
  deadLettered @5 :Bool;  # a queue gave it up: its x-death headers are ours, not a client's
  deliveredBefore @6 :Bool;  # and somebody had it in his hands before that
  byKeyAlone @7 :Bool;  # its keys were replaced by one: what CC and BCC name does not count any more
}
