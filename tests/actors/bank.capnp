@0xe7a1c3f5d9b82640;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bank");

# A small bank, for the tests of durable actors.

struct Account {
  balance @0 :Int64;
  transfers @1 :UInt64;
}

struct Deposit { amount @0 :Int64; }
struct Transfer { to @0 :Text; amount @1 :Int64; }
struct Ask {}
struct Balance { amount @0 :Int64; transfers @1 :UInt64; }
struct Fail { times @0 :UInt32; }
struct Remind { after @0 :UInt32; period @1 :UInt32; amount @2 :Int64; }
struct Announce { exchange @0 :Text; key @1 :Text; }
