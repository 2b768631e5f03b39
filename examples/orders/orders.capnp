@0xde5c51aa2c61a0f6;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("orders");

enum Step { new @0; placed @1; paid @2; reserved @3; shipped @4; failed @5; }

# order/17. The counts are there to be looked at afterwards: in the end, one of them is 1 and the other one 0.
struct Order {
  article @0 :Text;
  step @1 :Step;
  timesShipped @2 :UInt32;
  timesFailed @3 :UInt32;
  reason @4 :Text;        # why it failed, as its dead letter said
}

# What moves an order on.
struct Place { article @0 :Text; }  # from the customer
struct Pay {}                       # from the order to itself
struct Reserved {}                  # from the stock
struct SoldOut {}
struct Ship {}                      # from the shipping
struct Failed { reason @0 :Text; }  # from the complaints
struct AskOrder {}
struct OrderStatus { order @0 :Order; }

# Published to the exchange `orders` at each step, with the key order.placed, order.paid, …
struct Event { order @0 :Text; step @1 :Step; }

# stock/lamp: how many there ever were, and how many are taken.
struct Stock { supply @0 :UInt32; taken @1 :UInt32; }
struct Fill { supply @0 :UInt32; }
struct Reserve { order @0 :Text; }
struct AskStock {}
struct StockStatus { stock @0 :Stock; }

# shipping/desk and complaints/desk have nothing to remember.
struct Nothing {}

# board/all: how many orders came to each step.
struct Board { placed @0 :UInt32; paid @1 :UInt32; reserved @2 :UInt32; shipped @3 :UInt32; failed @4 :UInt32; }
struct AskBoard {}
struct BoardStatus { board @0 :Board; }
