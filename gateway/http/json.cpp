// Boost.JSON, compiled into us once: Debian's library of it belongs to another version of Boost.
#include <boost/json/src.hpp>
