@0xc4d6f1a09be35872;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bank");

# What an account remembers. The marks are sums, modulo 2^64, of one number for each transfer (see `mark_of` in bank.cpp):
# two sums are equal only if the same transfers are in both, each as often. So an outsider can find a transfer that is
# missing or there twice, while an account remembers the same few bytes for ever.
struct Account {
  open @0 :Bool;
  balance @1 :Int64;
  sent @2 :UInt64;          # transfers that left here
  received @3 :UInt64;      # and that came in
  refused @4 :UInt64;       # for want of money
  repeated @5 :UInt64;      # orders that were here before
  sentMark @6 :UInt64;
  receivedMark @7 :UInt64;
  refusedMark @8 :UInt64;
  lastOrders @9 :List(UInt64);  # the number of each client's last order; 0: none
}

# Gives the account its first money, once.
struct Open { balance @0 :Int64; }

# An order of a client, whose orders are numbered from 1. An order that comes again is known by its number.
struct Transfer {
  client @0 :UInt32;
  number @1 :UInt64;
  to @2 :UInt32;
  amount @3 :Int64;
}
struct Receipt { accepted @0 :Bool; balance @1 :Int64; }

# From account to account.
struct Deposit { client @0 :UInt32; number @1 :UInt64; amount @2 :Int64; }

struct Inquiry {}
struct Statement { account @0 :Account; }
