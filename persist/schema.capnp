@0x9d1c5b0e7a3f4e26;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("posthorn::wire");

# What the store knows of virtual hosts and of actors. Only what is durable stands here. An ordinal is never reused or
# given another type; a field is added at the end. docs/store.md has the tables and their keys.

struct ExchangeRecord {
  vhost @0 :Text;
  name @1 :Data;
  type @2 :Text;
  autoDelete @3 :Bool;
  internal @4 :Bool;
  arguments @5 :Data;  # AMQP field table as it came, without its length
  id @6 :UInt64;  # under which stands what it keeps: messages that wait, and what it has seen; 0: it keeps nothing
}

struct QueueRecord {  # stands under the id of its mailbox
  vhost @0 :Text;
  name @1 :Data;
  autoDelete @2 :Bool;
  arguments @3 :Data;
}

struct BindingRecord {  # stands under its id
  vhost @0 :Text;
  source @1 :Data;
  destination @2 :Data;
  toExchange @3 :Bool;
  routingKey @4 :Data;
  arguments @5 :Data;
}

struct StateRecord {  # a durable actor after its last turn; stands under its path
  mailbox @0 :UInt64;
  used @1 :UInt64;  # the last sequence of its mailbox that was ever used
  schemaVersion @2 :UInt64;
  turn @3 :UInt64;  # how many turns were committed
  state @4 :Data;  # a flat message of the actor's own schema; empty while it has none
  lastEvent @5 :UInt64;  # the last event of its journal that the state has in it; 0: none
}

struct TimerRecord {  # stands under when it is due, the actor's path and the timer's name
  period @0 :Int64;  # milliseconds; 0: it is due once
  message @1 :Data;  # an Envelope; empty: none
}

struct TreeEventRecord {  # something happened in the tree of actors; stands under its number
  at @0 :Int64;  # milliseconds since 1970
  path @1 :Data;
  kind @2 :Data;
  reason @3 :Data;
  restarts @4 :UInt64;
}
