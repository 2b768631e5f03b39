@0x9d1c5b0e7a3f4e26;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("posthorn::wire");

# What the store knows of a virtual host. Only what is durable stands here. An ordinal is never reused or given another
# type; a field is added at the end. docs/store.md has the tables and their keys.

struct ExchangeRecord {
  vhost @0 :Text;
  name @1 :Data;
  type @2 :Text;
  autoDelete @3 :Bool;
  internal @4 :Bool;
  arguments @5 :Data;  # AMQP field table as it came, without its length
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
