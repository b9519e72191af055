"""Commands of the auditor's desk: the log, evidence bundles and accounts."""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from service import accounts, audit_log, bundles, forwarding, logs, pruning
from service.app import open_database
from service.audit.errors import TriggerscopeError
from service.db import account_queries
from service.settings import Settings
from service.signing import Signer, UnusableKey
from service.stopping import stop_signal
from service.storage import write_durably

ACTOR = "command-line"
FAULTS_FOUND, NOT_SENT = 3, 2
Arguments = argparse.Namespace
Commands = argparse._SubParsersAction  # noqa: SLF001  # argparse names this type only so
Command = Callable[
    ["Commands[argparse.ArgumentParser]", str, Callable[[Settings, Arguments], int], str], argparse.ArgumentParser
]
Group = Callable[["Commands[argparse.ArgumentParser]", str, str], "Commands[argparse.ArgumentParser]"]


def log_verify(settings: Settings, arguments: Arguments) -> int:
    kept = [audit_log.read_checkpoint(_read(path, audit_log.UnreadableCheckpoint)) for path in arguments.checkpoint]
    if arguments.archive:
        return _verify_archive(settings, arguments, kept)
    with open_database(settings) as database:
        report = audit_log.verify(database, _public_pem(settings, arguments.public_key), kept)
    for fault in report.faults:
        print(f"{fault.place}: {fault.kind}")
    print(f"{report.events} events, {report.audits} audits, {report.checkpoints} checkpoints: ", end="")
    print(f"{len(report.faults)} faults" if report.faults else "nothing was changed")
    if not arguments.checkpoint:
        print("without a --checkpoint kept elsewhere, a log cut off at its end cannot be told from a shorter one")
    return FAULTS_FOUND if report.faults else 0


def _verify_archive(settings: Settings, arguments: Arguments, kept: list[dict[str, Any]]) -> int:
    public_pem = _public_pem(settings, arguments.public_key)
    try:
        with open_database(settings) as database, arguments.archive.open() as lines:
            report = pruning.verify_archive(lines, database, public_pem, kept)
    except OSError:
        raise pruning.UnreadableArchive("the file cannot be read") from None
    for fault in report.faults:
        print(f"{fault.place}: {fault.kind}")
    print(f"{report.events} events, {report.proven} of them under a signed statement: ", end="")
    print(f"{len(report.faults)} faults" if report.faults else "nothing was changed")
    return FAULTS_FOUND if report.faults else 0


def log_prune(settings: Settings, arguments: Arguments) -> int:
    """The archive is complete on disk before the first event goes."""
    before = datetime.combine(arguments.before, time(), UTC)
    with open_database(settings) as database:
        count = _write_lines(arguments.archive, pruning.archive(database, before))
        statements = pruning.prune(database, Signer.open(settings.data_dir), before, ACTOR)
    print(f"{count} events removed behind {len(statements)} signed statements; archive: {arguments.archive}")
    return 0


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    """Into a new file, durably; returns how many."""
    count = 0
    try:
        with path.open("x") as file:
            for count, line in enumerate(lines, 1):  # noqa: B007 -- the number of lines is the result
                file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        raise pruning.UnreadableArchive("the archive file exists already, or it cannot be written") from None
    return count


def log_checkpoint(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        document = audit_log.sign_checkpoint(database, Signer.open(settings.data_dir), ACTOR)
    text = json.dumps(document, indent=1, sort_keys=True)
    if arguments.out:
        write_durably(arguments.out.absolute(), text.encode())
    print(arguments.out or text)
    return 0


def log_export(settings: Settings, _arguments: Arguments) -> int:
    with open_database(settings) as database, database.read() as session:
        for line in audit_log.export(session):
            print(line)
    return 0


def log_forward(settings: Settings, arguments: Arguments) -> int:
    """Until the process is asked to end; with --once, until everything was sent or something could not be."""
    receivers: dict[str, forwarding.Take] = {}
    if settings.forward_file:
        receivers["file"] = forwarding.file_receiver(settings.forward_file)
    if settings.forward_syslog:
        receivers["syslog"] = forwarding.Syslog.parse(settings.forward_syslog, settings.forward_syslog_ca).take
    if not receivers:
        raise forwarding.NoReceiver("set forward_file or forward_syslog")
    logs.configure(settings.log_level)
    every = timedelta(hours=settings.checkpoint_hours)
    with open_database(settings) as database:
        signer = Signer.open(settings.data_dir)
        forwarder = forwarding.Forwarder(database, signer, receivers, settings.forward_events, every)
        if arguments.once:
            return 0 if forwarder.turn() else NOT_SENT
        forwarder.run(stop_signal(), settings.forward_seconds)
    return 0


def log_key(settings: Settings, _arguments: Arguments) -> int:
    print(Signer.open(settings.data_dir).public_pem, end="")
    return 0


def bundle_verify(_settings: Settings, arguments: Arguments) -> int:
    public_pem = _read(arguments.public_key, UnusableKey).decode() if arguments.public_key else None
    report = bundles.verify(_read(arguments.file, bundles.UnreadableBundle), public_pem)
    for fault in report.faults:
        print(fault)
    print(f"{len(report.audits)} audits, made {report.made_at}, signed by key {report.key}: ", end="")
    print(f"{len(report.faults)} faults" if report.faults else "sound")
    if public_pem is None:
        print("the key came with the bundle: compare its fingerprint with the service's (`triggerscope log key`)")
    return FAULTS_FOUND if report.faults else 0


def accounts_create(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        accounts.create(database, arguments.name, arguments.role, _password(), ACTOR)
    return 0


def accounts_password(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        accounts.set_password(database, arguments.name, _password(), ACTOR)
    return 0


def accounts_link(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        accounts.link(database, arguments.name, arguments.issuer or settings.oidc_issuer, arguments.subject, ACTOR)
    return 0


def accounts_list(settings: Settings, _arguments: Arguments) -> int:
    with open_database(settings) as database, database.read() as session:
        for row in account_queries.accounts(session):
            print(f"{row.name}\t{row.role}\t{'disabled' if row.disabled_at else 'active'}")
    return 0


def invite_first_administrator(settings: Settings) -> None:
    """Prints the one-time setup address where nobody can log in yet."""
    if settings.allow_anonymous or not settings.local_accounts:
        return
    with open_database(settings) as database:
        token = accounts.issue_setup_token(database)
    if token:
        address = f"http://{settings.host}:{settings.port}/setup?token={token}"
        print(f"No account exists. The first administrator is made at {address} (once, within a day).", file=sys.stderr)


def add(commands: "Commands[argparse.ArgumentParser]", command: Command, group: Group) -> None:
    actions = group(commands, "log", "the log of everything that happened")
    parser = command(actions, "verify", log_verify, "look for what was changed behind the service's back")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="kept elsewhere; may be repeated")
    parser.add_argument("--public-key", type=Path, help="default: this service's own")
    parser.add_argument("--archive", type=Path, help="check this export of events that were pruned instead")
    parser = command(actions, "prune", log_prune, "archive and remove events that are older than six months")
    parser.add_argument("--before", type=date.fromisoformat, required=True, metavar="YYYY-MM-DD", help="a day in UTC")
    parser.add_argument("--archive", type=Path, required=True, help="file to make, kept for later questions")
    parser = command(actions, "checkpoint", log_checkpoint, "sign where the log stands, to be kept elsewhere")
    parser.add_argument("--out", type=Path)
    parser = command(actions, "forward", log_forward, "send checkpoints, and events where set, to a file and to syslog")
    parser.add_argument("--once", action="store_true", help="send what is new and end; status 2 where it was not taken")
    command(actions, "export", log_export, "every event as a line of JSON")
    command(actions, "key", log_key, "print the public key that checkpoints and bundles are signed with")
    parser = command(group(commands, "bundle", "evidence bundles"), "verify", bundle_verify, "check one, offline")
    parser.add_argument("file", type=Path)
    parser.add_argument("--public-key", type=Path, help="default: the one in the bundle")
    _add_accounts(group(commands, "accounts", "people who log in"), command)


def _add_accounts(actions: "Commands[argparse.ArgumentParser]", command: Command) -> None:
    parser = command(actions, "create", accounts_create, "make an account; the password is read from the terminal")
    parser.add_argument("name")
    parser.add_argument("--role", required=True, choices=list(accounts.ROLES))
    command(actions, "password", accounts_password, "set a password").add_argument("name")
    parser = command(actions, "link", accounts_link, "let somebody at the identity provider use an account")
    parser.add_argument("name")
    parser.add_argument("subject", help="their `sub` at the provider")
    parser.add_argument("--issuer", help="default: the setting oidc_issuer")
    command(actions, "list", accounts_list, "names and roles")


def _password() -> str:
    return getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _read(path: Path, error: type[TriggerscopeError]) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise error("the file cannot be read") from None


def _public_pem(settings: Settings, given: Path | None) -> str:
    return _read(given, UnusableKey).decode() if given else Signer.open(settings.data_dir).public_pem
