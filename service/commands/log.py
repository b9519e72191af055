"""`triggerscope log`: the log of everything that happened."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from service.commands.parser import ACTOR, Arguments, Commands, command, group, read_file

if TYPE_CHECKING:
    from service.settings import Settings

FAULTS_FOUND, NOT_SENT = 3, 2
PROGRESS_SECONDS = 10.0


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    actions = group(commands, "log", "the log of everything that happened")
    parser = command(actions, "verify", _verify, "look for what was changed behind the service's back")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="kept elsewhere; may be repeated")
    parser.add_argument("--public-key", type=Path, help="default: this service's own")
    parser.add_argument("--archive", type=Path, help="check this export of events that were pruned instead")
    parser.add_argument("--files", action="store_true", help="read every stored file, which may take hours")
    parser = command(actions, "prune", _prune, "archive and remove events that are older than six months")
    parser.add_argument("--before", type=date.fromisoformat, required=True, metavar="YYYY-MM-DD", help="a day in UTC")
    parser.add_argument("--archive", type=Path, required=True, help="file to make, kept for later questions")
    parser = command(actions, "checkpoint", _checkpoint, "sign where the log stands, to be kept elsewhere")
    parser.add_argument("--out", type=Path)
    parser = command(actions, "forward", _forward, "send checkpoints, and events where set, to a file and to syslog")
    parser.add_argument("--once", action="store_true", help="send what is new and end; status 2 where it was not taken")
    command(actions, "export", _export, "every event as a line of JSON")
    command(actions, "key", _key, "print the public key that checkpoints and bundles are signed with")


def _verify(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.ledger import stored_files, verify
    from service.records.storage import Storage

    kept = [verify.read_checkpoint(read_file(path, verify.UnreadableCheckpoint)) for path in arguments.checkpoint]
    if arguments.archive:
        return _verify_archive(settings, arguments, kept)
    with open_database(settings) as database:
        report = verify.verify(database, _public_pem(settings, arguments.public_key), kept)
        progress = _progress() if arguments.files else stored_files.nothing
        files = stored_files.verify(database, Storage(settings.data_dir), progress, read=arguments.files)
    faults = (*report.faults, *files.faults)
    for fault in faults:
        print(f"{fault.place}: {fault.kind}")
    print(
        f"{files.files} stored files {'read' if arguments.files else 'found in their size, not read (--files)'}; ",
        end="",
    )
    print(f"{files.removed} originals removed when their time was over; ", end="")
    print(f"{files.unbound} audits from before their files were recorded, which are not checked")
    print(f"{report.events} events, {report.audits} audits, {report.checkpoints} checkpoints: ", end="")
    print(f"{len(faults)} faults" if faults else "nothing was changed")
    if not arguments.checkpoint:
        print("without a --checkpoint kept elsewhere, a log cut off at its end cannot be told from a shorter one")
    return FAULTS_FOUND if faults else 0


def _progress() -> "Callable[[int, int], None]":
    """Says on stderr how far the reading of the files is, every ten seconds."""
    said_at = monotonic()

    def say(files: int, byte_count: int) -> None:
        nonlocal said_at
        if monotonic() - said_at > PROGRESS_SECONDS:
            said_at = monotonic()
            print(f"{files} files, {byte_count / 1e9:.1f} GB", file=sys.stderr)

    return say


def _verify_archive(settings: "Settings", arguments: Arguments, kept: list[dict[str, Any]]) -> int:
    from service.app import open_database
    from service.ledger import pruning

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


def _prune(settings: "Settings", arguments: Arguments) -> int:
    """The archive is complete on disk before the first event goes."""
    from service.app import open_database
    from service.ledger import pruning
    from service.ledger.signing import Signer

    before = datetime.combine(arguments.before, time(), UTC)
    with open_database(settings) as database:
        count = _write_lines(arguments.archive, pruning.archive(database, before))
        statements = pruning.prune(database, Signer.open(settings.data_dir), before, ACTOR)
    print(f"{count} events removed behind {len(statements)} signed statements; archive: {arguments.archive}")
    return 0


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    """Into a new file, durably; returns how many."""
    from service.ledger.pruning import UnreadableArchive

    count = 0
    try:
        with path.open("x") as file:
            for count, line in enumerate(lines, 1):  # noqa: B007 -- the number of lines is the result
                file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        raise UnreadableArchive("the archive file exists already, or it cannot be written") from None
    return count


def _checkpoint(settings: "Settings", arguments: Arguments) -> int:
    from service.app import open_database
    from service.ledger import verify
    from service.ledger.signing import Signer
    from service.records.storage import write_durably

    with open_database(settings) as database:
        document = verify.sign_checkpoint(database, Signer.open(settings.data_dir), ACTOR)
    text = json.dumps(document, indent=1, sort_keys=True)
    if arguments.out:
        write_durably(arguments.out.absolute(), text.encode())
    print(arguments.out or text)
    return 0


def _export(settings: "Settings", _arguments: Arguments) -> int:
    from service.app import open_database
    from service.ledger import verify

    with open_database(settings) as database, database.read() as session:
        for line in verify.export(session):
            print(line)
    return 0


def _forward(settings: "Settings", arguments: Arguments) -> int:
    """Until the process is asked to end; with --once, until everything was sent or something could not be."""
    from service import logs
    from service.app import open_database
    from service.ledger import forwarding
    from service.ledger.signing import Signer
    from service.loops import stop_signal

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


def _key(settings: "Settings", _arguments: Arguments) -> int:
    from service.ledger.signing import Signer

    print(Signer.open(settings.data_dir).public_pem, end="")
    return 0


def _public_pem(settings: "Settings", given: Path | None) -> str:
    from service.ledger.signing import Signer, UnusableKey

    return read_file(given, UnusableKey).decode() if given else Signer.open(settings.data_dir).public_pem
