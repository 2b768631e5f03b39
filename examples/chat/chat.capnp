@0xbff166b02bc06089;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("chat");

# member/anna: what she sees, the newest last. Not more than `lines_max` of chat.cpp.
struct Member { lines @0 :List(Said); }

# To a member, who then says it in the room.
struct Say { room @0 :Text; text @1 :Text; }
struct Spoken {}

# To all who are in the room, as JSON, so that every AMQP client can read along.
struct Said { room @0 :Text; from @1 :Text; text @2 :Text; }

struct AskScreen {}
struct Screen { lines @0 :List(Said); }
struct ClearScreen {}
