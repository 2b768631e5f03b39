#!/usr/bin/env bash
# Checks an installed tree: that all is there, and that a program can be built against the library and runs.
#
# usage: check.sh PREFIX    (may be moved from where it was installed to)
set -euo pipefail
prefix=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
status=0

for name in bin/posthornd bin/posthorn etc/posthorn/posthorn.toml lib/systemd/system/posthorn.service \
  include/posthorn/mailbox/envelope.hpp include/posthorn/mailbox/envelope.capnp.h include/posthorn/actors/queue.hpp include/posthorn/posthorn/node.hpp; do
  if [[ ! -s $prefix/$name ]]; then
    echo "not installed: $name"
    status=1
  fi
done

if command -v systemd-analyze >/dev/null; then
  # The program in the unit is where it would be after the installation.
  sed "s|^ExecStart=.*/bin/posthornd|ExecStart=$prefix/bin/posthornd|" "$prefix/lib/systemd/system/posthorn.service" \
    >"$prefix/posthorn.service"
  systemd-analyze verify --man=no "$prefix/posthorn.service" || status=1
fi

pc=$(find "$prefix" -name posthorn.pc -print -quit)
if [[ -z $pc ]]; then
  echo 'not installed: posthorn.pc'
  exit 1
fi
read -ra flags < <(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$prefix" --cflags --libs posthorn)
library=$(dirname "$(find "$prefix" -name libposthorn.so -print -quit)")
"${CXX:-c++}" -std=c++20 -w -o "$prefix/embedded" "$here/embedded.cpp" "${flags[@]}" -pthread
LD_LIBRARY_PATH=$library "$prefix/embedded" >/dev/null || { echo 'the program against libposthorn fails'; status=1; }
exit "$status"
