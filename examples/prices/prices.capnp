@0xe0d413b10f3fc87d;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("prices");

# Who asked, to be answered in a later turn.
struct Asker { replyTo @0 :Text; correlationId @1 :Text; }

# till/1: the baskets whose prices it does not have all of.
struct Till { lastTicket @0 :UInt64; open @1 :List(Ticket); }
struct Ticket { number @0 :UInt64; asker @1 :Asker; waitsFor @2 :UInt32; total @3 :Int64; }

# To a till. All amounts are in cents.
struct AskTotal { items @0 :List(Item); }
struct Item { article @0 :Text; count @1 :UInt32; }
struct Total { amount @0 :Int64; }

# price/apple. `slow` makes it think before each answer, in milliseconds.
struct Price { amount @0 :Int64; slow @1 :UInt32; }
struct SetPrice { amount @0 :Int64; slow @1 :UInt32; }
struct AskPrice { count @0 :UInt32; }
struct Amount { amount @0 :Int64; }
struct ThoughtAbout { asker @0 :Asker; count @1 :UInt32; }  # from a price to itself
