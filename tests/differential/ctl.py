#!/usr/bin/env python3
"""Gives a Posthorn its policies with the arguments of rabbitmqctl, for `run.py --policies --ctl 'ctl.py POSTHORN {}'`.

POSTHORN is the program `posthorn`, which finds its node by POSTHORN_URL, POSTHORN_USER and POSTHORN_PASSWORD.
"""
import subprocess
import sys

COMMANDS = {"set_policy": ("set", ()), "set_operator_policy": ("set", ("--operator",)),
            "clear_policy": ("clear", ()), "clear_operator_policy": ("clear", ("--operator",))}

if __name__ == "__main__":
    program, command, *rest = sys.argv[1:]
    verb, more = COMMANDS[command]
    sys.exit(subprocess.run([program, "policies", verb, "--vhost", "/", *rest, *more], check=False).returncode)
