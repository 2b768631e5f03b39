#!/bin/sh
# Prints the test sources of one floor, one per line, sorted, as seen from tests/.
cd "$(dirname "$0")" && find "$1" -name '*_test.cpp' | LC_ALL=C sort
