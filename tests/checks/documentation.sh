#!/usr/bin/env bash
# Checks that the library's interface has a comment everywhere, and that Doxygen reads all of it without a warning.
#
# usage: documentation.sh [--self-test]    the self-test adds a function without a comment, which must be found
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scratch=$(mktemp -d "${TMPDIR:-/tmp}/posthorn-docs.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

if [[ ${1:-} != --self-test ]]; then
  docs/doxygen/make.sh "$scratch"
  # Without a warning, but about nothing: the filter has to have made comments of the comments.
  grep -q 'must be in the pages' docs/doxygen/Doxyfile
  sed -n 's/^# must be in the pages: //p' docs/doxygen/Doxyfile | while read -r text; do
    grep -rqF "$text" "$scratch/html" || { echo "not in the pages: $text"; exit 1; }
  done
  exit
fi

mkdir "$scratch/tree"
cp -R meson.build docs actors gateway mailbox posthorn "$scratch/tree/"
cat >>"$scratch/tree/posthorn/turn.hpp" <<'TEXT'
namespace posthorn {
// This one has a comment.
int said();

int never_said();
}
TEXT
if output=$("$scratch/tree/docs/doxygen/make.sh" "$scratch/html" 2>&1); then
  echo 'a function without a comment was not found'
  exit 1
fi
# Nothing but that one: a check that is always red finds nothing.
if [[ $(grep -c . <<<"$output") != 1 || $output != *'never_said() (function)'* ]]; then
  printf '%s\n' "$output"
  exit 1
fi
