@0xb7d3e1f2a4c69580;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("telemetry");

# A device, as the node remembers it.
struct Device {
  count @0 :UInt64;     # readings so far
  sum @1 :Float64;
  highest @2 :Float64;
  silent @3 :Bool;      # it has not been heard of for a while
}

struct Reading {
  celsius @0 :Float64;
}

struct AskSummary {}

struct Summary {
  count @0 :UInt64;
  mean @1 :Float64;
  highest @2 :Float64;
  silent @3 :Bool;
}

# From a device to itself, when no reading came for some time.
struct Silence {}
