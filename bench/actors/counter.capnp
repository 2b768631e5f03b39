@0x9b1d2c7ae04f6358;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("counter");

struct Counter { count @0 :UInt64; }
# `pass` 1: the one who gets it sends it on.
struct Tick { pass @0 :Bool; }
struct Ask {}
struct Answer { count @0 :UInt64; }
