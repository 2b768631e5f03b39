#!/usr/bin/env bash
# Makes the documentation of the library's interface, as HTML. Fails, and says why, when something has no comment.
#
# usage: make.sh OUTPUT_FOLDER
set -euo pipefail
DOCS_OUTPUT=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
DOCS_VERSION=$(sed -n "s/^  version: '\(.*\)',\$/\1/p" meson.build)
export DOCS_OUTPUT DOCS_VERSION
mkdir -p "$DOCS_OUTPUT"
exec doxygen docs/doxygen/Doxyfile
