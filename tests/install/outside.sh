#!/usr/bin/env bash
# Checks that a project outside of the tree, with a schema of its own, can use an installed tree: built with CMake and with
# Meson, as docs/building.md says, and run.
#
# usage: outside.sh PREFIX    (may be moved from where it was installed to)
set -euo pipefail
prefix=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/posthorn-outside.XXXXXX")
trap 'rm -rf "$work"' EXIT
status=0

found() {
  local path
  path=$(find "$prefix" -name "$1" -print -quit)
  [[ -n $path ]] || { echo "not installed: $1" >&2; return 1; }
  echo "$path"
}

pc=$(found posthorn.pc)
library=$(dirname "$(found libposthorn.so)")
version=$(found posthorn-config-version.cmake)
found posthorn-config.cmake >/dev/null
# What CMake reads finds the rest from where it lies; what pkg-config reads has to be told.
sed "s|^prefix=.*|prefix=$prefix|" "$pc" >"$work/posthorn.pc"
export LD_LIBRARY_PATH=$library

# Adds 40 and 2 to a durable actor, each in a node of its own.
run() { [[ $("$work/$1/tally" "$work/$1.data") == '40 42' ]]; }

with_cmake() {
  cmake -S "$here/outside" -B "$work/cmake" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" &&
    ninja -C "$work/cmake" && run cmake
}

with_meson() {
  PKG_CONFIG_PATH=$work meson setup "$work/meson" "$here/outside" --buildtype plain && ninja -C "$work/meson" && run meson
}

# Wants an error that says which schema is not there.
a_missing_schema() {
  mkdir "$work/wrong"
  sed 's/tally tally\.capnp/tally no_such.capnp/' "$here/outside/CMakeLists.txt" >"$work/wrong/CMakeLists.txt"
  cp "$here/outside/tally.cpp" "$work/wrong/"
  if cmake -S "$work/wrong" -B "$work/wrong/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >"$work/wrong.log" 2>&1 ||
    ! tr -s ' \n' ' ' <"$work/wrong.log" | grep "there is no schema '[^']*/no_such\.capnp'" >/dev/null; then
    cat "$work/wrong.log"
    return 1
  fi
}

# Wants Posthorn taken for a version that it replaces, and for no other.
the_version() {
  local of major minor patch asked wanted
  of=$(sed -n 's/^set(PACKAGE_VERSION "\(.*\)")$/\1/p' "$version")
  IFS=. read -r major minor patch <<<"$of"
  cat >"$work/version.cmake" <<'CMAKE'
string(REPLACE "." ";" parts "${PACKAGE_FIND_VERSION}")
list(LENGTH parts PACKAGE_FIND_VERSION_COUNT)
list(APPEND parts 0 0)
list(GET parts 0 PACKAGE_FIND_VERSION_MAJOR)
list(GET parts 1 PACKAGE_FIND_VERSION_MINOR)
include("${FILE}")
if((PACKAGE_VERSION_COMPATIBLE AND WANTED STREQUAL "no") OR (NOT PACKAGE_VERSION_COMPATIBLE AND WANTED STREQUAL "yes"))
  message(FATAL_ERROR "${PACKAGE_VERSION} is wrong about ${PACKAGE_FIND_VERSION}")
endif()
CMAKE
  while read -r asked wanted; do
    cmake -DPACKAGE_FIND_VERSION="$asked" -DWANTED="$wanted" -DFILE="$version" -P "$work/version.cmake" || return 1
  done <<<"$of yes
$major.$minor yes
$major.$minor.$((patch + 1)) no
$major.$((minor + 1)) no
$((major + 1)).0 no"
}

# At the same time: most of it is two compilers, each with one file.
with_cmake >"$work/cmake.log" 2>&1 </dev/null &
cmake_pid=$!
with_meson >"$work/meson.log" 2>&1 </dev/null &
meson_pid=$!
wait "$cmake_pid" || { cat "$work/cmake.log"; echo 'the project that is built with CMake fails'; status=1; }
wait "$meson_pid" || { cat "$work/meson.log"; echo 'the project that is built with Meson fails'; status=1; }
a_missing_schema || { echo 'a schema that is not there is no clear error'; status=1; }
the_version || { echo 'the version file for CMake is wrong'; status=1; }
exit "$status"
