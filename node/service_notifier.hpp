// Tells the service manager (systemd, or what speaks its sd_notify protocol) how far the node is.
//
// Threads   any.
#pragma once

#include "mailbox/result.hpp"

#include <string_view>

namespace posthorn {

// "READY=1", "STOPPING=1", "STATUS=…": one datagram to the socket that NOTIFY_SOCKET names. Nothing happens, and
// nothing is wrong, when no service manager asked for it.
result<void> notify_service(std::string_view state);

}  // namespace posthorn
