"""The command line `triggerscope`."""

import argparse
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import uvicorn
from pydantic import ValidationError

from service import desk_commands, keys, logs, offline
from service.api.protocol import Protocol
from service.app import (
    create_app,
    dimse_port,
    limits,
    open_acceptance,
    open_database,
    open_registry,
    open_worker,
    watch_sources,
    watched_sources,
)
from service.audit.calibration import policy_bytes
from service.audit.classifier import Classifier
from service.audit.errors import TriggerscopeError
from service.db import pacs_queries, queries
from service.pacs import dimse as scp
from service.pacs import identity
from service.pacs.acceptance import facts_of
from service.pacs.instance import read_instance
from service.pacs.outbox import resend
from service.registry import DEFAULT_SLOT, classifier_slot, in_force, policy_slot
from service.rules import explain, load_rules, route
from service.settings import Settings
from service.stopping import stop_signal
from service.storage import write_durably

ACTOR = "command-line"
SOME_FAILED = 2
Arguments = argparse.Namespace


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    given = {name: getattr(arguments, name, None) for name in ("host", "port", "models_dir", "data_dir")}
    if getattr(arguments, "allow_anonymous", False):
        given["allow_anonymous"] = True
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        run: Callable[[Settings, Arguments], int] = arguments.run
        return run(settings, arguments)
    except ValidationError as error:
        for fault in error.errors():
            print(f"setting {'.'.join(map(str, fault['loc'])) or '(all)'}: {fault['msg']}", file=sys.stderr)
        return 1
    except TriggerscopeError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1


def serve(settings: Settings, _arguments: Arguments) -> int:
    logs.configure(settings.log_level)
    desk_commands.invite_first_administrator(settings)
    with open_database(settings):  # says what is wrong with it before the server starts
        pass
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Protocol,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def audit(settings: Settings, arguments: Arguments) -> int:
    models = offline.find_models(
        settings.models_dir, arguments.classifier or settings.default_classifier, arguments.policy
    )
    failed = False
    for found in offline.audit_files(arguments.files, models, limits(settings)):
        failed |= "error" in found
        print(offline.as_line(found) if arguments.json else offline.as_text(found), flush=True)
    return SOME_FAILED if failed else 0


def calibrate(settings: Settings, arguments: Arguments) -> int:
    classifier = Classifier.load(offline.find_classifier(settings.models_dir, arguments.classifier))
    wanted = offline.Calibration(arguments.folder, arguments.source, arguments.name, arguments.fpr, arguments.receivers)
    made = offline.calibrate_folder(settings.models_dir, classifier, wanted, limits(settings), _show_progress)
    write_durably(arguments.out.absolute(), policy_bytes(made.policy))
    arguments.out.chmod(0o644)  # the service may run as another user; a policy holds no patient's film
    print(offline.calibration_summary(made))
    print(arguments.out)
    return 0


def _show_progress(what: str, done: int, total: int) -> None:
    if done == total or done % 20 == 0:
        print(f"\r{what} {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def work(settings: Settings, _arguments: Arguments) -> int:
    logs.configure(settings.log_level)
    with open_database(settings) as database:
        registry = open_registry(settings, database)
        with open_worker(settings, database, registry, lambda _outcome: None) as (worker, *_shared):

            def stop(_number: int, _frame: FrameType | None) -> None:
                worker.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)
            worker.run()
    return 0


def dimse(settings: Settings, _arguments: Arguments) -> int:
    logs.configure(settings.log_level)
    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier)
        acceptance = open_acceptance(settings, database)
        with scp.serving(dimse_port(settings), acceptance, settings.shutdown_seconds):
            stop_signal().wait()
    return 0


def watch(settings: Settings, _arguments: Arguments) -> int:
    logs.configure(settings.log_level)
    sources = watched_sources(settings)
    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier)
        watch_sources(sources, open_acceptance(settings, database), stop_signal())
    return 0


def forget(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        acceptance = open_acceptance(settings, database)
        count = identity.forget(
            database, acceptance.storage, acceptance.pseudonyms, arguments.study_instance_uid, ACTOR
        )
    print(f"originals and identifiers of {count} films removed; their audits stay")
    return 0


def results_list(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database, database.read() as session:
        for row in pacs_queries.deliveries(session, arguments.state, arguments.limit):
            print(
                f"{row.id}\t{row.state}\t{row.kind}\t{row.destination}\taudit {row.job_id}\t"
                f"{row.attempts} attempts\t{row.proof or 'no proof'}\t{row.error_code or ''}\t{row.error_detail or ''}"
            )
    return 0


def results_resend(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        resend(database, arguments.id, ACTOR)
    return 0


def rules_test(settings: Settings, arguments: Arguments) -> int:
    rules = load_rules(arguments.rules or settings.rules_file)
    sender = identity.Sender(
        "test", ACTOR, arguments.source, calling_ae=arguments.calling_ae, called_ae=settings.dimse_ae_title
    )
    failed = False
    for path in arguments.files:
        try:
            facts = facts_of(read_instance(path.read_bytes(), limits(settings)), sender)
        except (TriggerscopeError, OSError) as error:
            failed = True
            print(f"{path}: {error.detail if isinstance(error, TriggerscopeError) else 'the file cannot be read'}")
            continue
        print(f"{path}: {explain(route(rules, facts), facts)}")
    return SOME_FAILED if failed else 0


def db_upgrade(settings: Settings, _arguments: Arguments) -> int:
    with open_database(settings.model_copy(update={"auto_upgrade": True})) as database:
        print(f"{database.engine.dialect.name}: the schema is current")
    return 0


def keys_create(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        token, _ = keys.create(database, arguments.name, arguments.scope, arguments.expires, ACTOR)
    print(token)
    return 0


def keys_list(settings: Settings, _arguments: Arguments) -> int:
    with open_database(settings) as database, database.read() as session:
        for row in queries.api_keys(session):
            state = "revoked" if row.revoked_at else f"expires {row.expires_at}" if row.expires_at else "valid"
            print(f"{row.name}\t{','.join(row.scopes)}\t{state}\tlast used {row.last_used_at or 'never'}")
    return 0


def keys_revoke(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        keys.revoke(database, arguments.name, ACTOR)
    return 0


def classifiers_list(settings: Settings, _arguments: Arguments) -> int:
    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier)
        with database.read() as session:
            default = in_force(session, DEFAULT_SLOT)
            for row in queries.classifiers(session):
                active = "active" if in_force(session, classifier_slot(row.name)) == row.sha256 else "-"
                print(f"{row.name}\t{row.sha256}\t{active}\t{'default' if row.name == default else ''}")
    return 0


def classifiers_add(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        row = open_registry(settings, database).add_classifier(arguments.file, ACTOR)
        print(f"{row.name}\t{row.sha256}")
    return 0


def classifiers_activate(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        print(open_registry(settings, database).activate_classifier(arguments.name, arguments.sha256, ACTOR))
    return 0


def classifiers_retire(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        open_registry(settings, database).retire_classifier(arguments.name, ACTOR)
    return 0


def classifiers_rollback(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        print(open_registry(settings, database).rollback_classifier(arguments.name, ACTOR) or "none is active")
    return 0


def policies_list(settings: Settings, _arguments: Arguments) -> int:
    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier)
        with database.read() as session:
            for row in queries.policies(session):
                active = "active" if in_force(session, policy_slot(row.classifier_sha256)) == row.sha256 else "-"
                print(f"{row.name}\t{row.sha256}\t{active}\t{row.source}\tfor {row.classifier_sha256}")
    return 0


def policies_add(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        row = open_registry(settings, database).add_policy(arguments.file, ACTOR)
        print(f"{row.name}\t{row.sha256}")
    return 0


def policies_activate(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        print(open_registry(settings, database).activate_policy(arguments.classifier, arguments.policy, ACTOR))
    return 0


def policies_rollback(settings: Settings, arguments: Arguments) -> int:
    with open_database(settings) as database:
        print(open_registry(settings, database).rollback_policy(arguments.classifier, ACTOR) or "none is active")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="triggerscope", description=__doc__, epilog="Settings: docs/settings.md.")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--data-dir", type=Path)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serving(commands)
    _add_offline(commands)
    _add_keys(_group(commands, "keys", "API keys"))
    _add_classifiers(_group(commands, "classifiers", "registered classifiers"))
    _add_policies(_group(commands, "policies", "registered policies"))
    _add_pacs(commands)
    _command(_group(commands, "db", "the database"), "upgrade", db_upgrade, "bring the schema to this version")
    desk_commands.add(commands, _command, _group)
    return parser


Commands = argparse._SubParsersAction  # noqa: SLF001  # argparse names this type only so
Run = Callable[[Settings, Arguments], int]


def _command(commands: "Commands[argparse.ArgumentParser]", name: str, run: Run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _group(commands: "Commands[argparse.ArgumentParser]", name: str, text: str) -> "Commands[argparse.ArgumentParser]":
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="ACTION")


def _add_serving(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "serve", serve, "answer HTTP, and audit unless workers run apart")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--allow-anonymous", action="store_true", help="ask for no keys; on loopback only")
    _command(commands, "worker", work, "audit what is queued")


def _add_pacs(commands: "Commands[argparse.ArgumentParser]") -> None:
    _command(commands, "dimse", dimse, "receive films by C-STORE")
    _command(commands, "watch", watch, "take films from archives as they arrive there")
    parser = _command(commands, "forget", forget, "remove what identifies a study; its audits stay")
    parser.add_argument("study_instance_uid")
    results = _group(commands, "results", "what goes back to the PACS")
    parser = _command(results, "list", results_list, "latest first")
    parser.add_argument("--state", choices=("pending", "delivered", "dead", "cancelled"))
    parser.add_argument("--limit", type=int, default=50)
    _command(results, "resend", results_resend, "send again what was delivered or given up").add_argument("id")
    parser = _command(
        _group(commands, "rules", "routing rules"), "test", rules_test, "say where films would go, and why"
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="default: the setting rules_file")
    parser.add_argument("--source", default="")
    parser.add_argument("--calling-ae", default="")


def _add_offline(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "audit", audit, "audit files without server and database")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--classifier", metavar="NAME|PATH")
    parser.add_argument("--policy", metavar="NAME|PATH")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser = _command(commands, "calibrate", calibrate, "make a policy from a folder of clean films")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classifier", required=True, metavar="NAME|PATH")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--source", required=True, help="the site or scanner group of these films")
    parser.add_argument("--name", help="of the policy; default CLASSIFIER-SOURCE")
    parser.add_argument("--fpr", type=float, default=0.01, help="nominal false-positive rate")
    parser.add_argument("--receivers", type=Path, help="folder of publishable clean radiographs for the transplant")


def _add_keys(actions: "Commands[argparse.ArgumentParser]") -> None:
    parser = _command(actions, "create", keys_create, "print a new key once")
    parser.add_argument("--name", required=True)
    parser.add_argument("--scope", required=True, action="append", choices=sorted(keys.SCOPES))
    parser.add_argument("--expires", type=_utc, metavar="DATE", help="ISO 8601; UTC unless it names an offset")
    _command(actions, "list", keys_list, "names, scopes and last use")
    _command(actions, "revoke", keys_revoke, "end a key at once").add_argument("name")


def _add_classifiers(actions: "Commands[argparse.ArgumentParser]") -> None:
    _command(actions, "list", classifiers_list, "all versions")
    _command(actions, "add", classifiers_add, "register an ONNX file").add_argument("file", type=Path)
    parser = _command(actions, "activate", classifiers_activate, "put a version in force, as the default")
    parser.add_argument("name")
    parser.add_argument("--sha256", help="default: the newest version")
    _command(actions, "retire", classifiers_retire, "take a classifier out of use").add_argument("name")
    _command(actions, "rollback", classifiers_rollback, "return to what was in force before").add_argument("name")


def _add_policies(actions: "Commands[argparse.ArgumentParser]") -> None:
    _command(actions, "list", policies_list, "all policies")
    _command(actions, "add", policies_add, "register a policy file").add_argument("file", type=Path)
    parser = _command(actions, "activate", policies_activate, "put a policy in force for a classifier")
    parser.add_argument("classifier")
    parser.add_argument("policy", metavar="NAME|SHA256")
    _command(actions, "rollback", policies_rollback, "return to the policy before").add_argument("classifier")


def _utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
