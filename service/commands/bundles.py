"""`triggerscope bundle`: evidence bundles."""

import argparse
from pathlib import Path

from service.commands.parser import Arguments, Commands, group, offline_command, read_file

FAULTS_FOUND = 3


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = offline_command(group(commands, "bundle", "evidence bundles"), "verify", _verify, "check one, offline")
    parser.add_argument("file", type=Path)
    parser.add_argument("--public-key", type=Path, help="default: the one in the bundle")


def _verify(arguments: Arguments) -> int:
    from service.ledger import bundles
    from service.ledger.signing import UnusableKey

    public_pem = read_file(arguments.public_key, UnusableKey).decode() if arguments.public_key else None
    report = bundles.verify(read_file(arguments.file, bundles.UnreadableBundle), public_pem)
    for line in report.faults + report.notes:
        print(line)
    print(f"{len(report.audits)} audits, made {report.made_at}, signed by key {report.key}: ", end="")
    print(f"{len(report.faults)} faults" if report.faults else "sound")
    if public_pem is None:
        print("the key came with the bundle: compare its fingerprint with the service's (`triggerscope log key`)")
    return FAULTS_FOUND if report.faults else 0
