#!/usr/bin/env python3
"""Installs libposthorn's headers, in their folders, under PREFIX/INCLUDEDIR/posthorn, as Meson's install script.

usage: install_headers.py INCLUDEDIR ROOT FOLDER...

Each FOLDER below ROOT is copied under its own name: "actors" gives posthorn/actors/. Written as ROOT:FOLDER, it comes from
another root. Headers are found, not listed: what a floor declares is what its users may include.
"""
import os
import shutil
import sys

SUFFIXES = (".hpp", ".capnp.h", ".capnp")


def main():
    includedir, root, *folders = sys.argv[1:]
    target = os.environ["MESON_INSTALL_DESTDIR_PREFIX"] + "/" + includedir + "/posthorn"
    count = 0
    for folder in folders:
        from_root, _, name = folder.rpartition(":")
        top = os.path.join(from_root or root, name)
        for directory, _, names in os.walk(top):
            for each in sorted(names):
                if each.endswith(SUFFIXES):
                    path = os.path.join(target, name, os.path.relpath(os.path.join(directory, each), top))
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    shutil.copy(os.path.join(directory, each), path)
                    os.chmod(path, 0o644)
                    count += 1
    if "MESON_INSTALL_QUIET" not in os.environ:
        print(f"Installed {count} headers to {target}")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
