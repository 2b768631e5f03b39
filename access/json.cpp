// Boost.JSON, compiled here once for all floors above.
#include <boost/json/src.hpp>
