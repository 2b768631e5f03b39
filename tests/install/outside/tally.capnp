@0xd0a7c9b15d5be231;

using Cxx = import "/capnp/c++.capnp";
using Posthorn = import "/mailbox/envelope.capnp";  # somebody else's schema may import Posthorn's

$Cxx.namespace("outside");

struct Tally {
  total @0 :Int64;
  last @1 :Posthorn.Envelope;  # of nobody's interest: it shows that the import works
}

struct Add {
  number @0 :Int64;
}
