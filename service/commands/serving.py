"""`triggerscope serve`, `worker`, `dimse` and `watch`: what runs until it is told to end."""

import argparse
import signal
from types import FrameType
from typing import TYPE_CHECKING

from service.commands.parser import Arguments, Commands, command

if TYPE_CHECKING:
    from service.settings import Settings


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = command(commands, "serve", _serve, "answer HTTP, and audit unless workers run apart")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--allow-anonymous", action="store_true", help="ask for no keys; on loopback only")
    command(commands, "worker", _work, "audit what is queued")
    command(commands, "dimse", _dimse, "receive films by C-STORE")
    command(commands, "watch", _watch, "take films from archives as they arrive there")


def _serve(settings: "Settings", _arguments: Arguments) -> int:
    import uvicorn

    from service import logs
    from service.app import create_app, end_examinations, open_database
    from service.commands.accounts import invite_first_administrator
    from service.web.protocol import Protocol, Server

    logs.configure(settings.log_level)
    invite_first_administrator(settings)
    with open_database(settings):  # says what is wrong with it before the server starts
        pass
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Protocol,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = Server(config, lambda: end_examinations(app))
    server.run()
    return 0 if server.started else 1


def _work(settings: "Settings", _arguments: Arguments) -> int:
    from service import logs
    from service.app import examining, open_database, open_registry, open_worker

    logs.configure(settings.log_level)
    with open_database(settings) as database:
        registry = open_registry(settings, database)
        with (
            open_worker(settings, database, registry, lambda _outcome: None) as (worker, *_shared),
            examining(registry, settings.default_classifier),
        ):

            def stop(_number: int, _frame: FrameType | None) -> None:
                worker.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)
            worker.run()
    return 0


def _dimse(settings: "Settings", _arguments: Arguments) -> int:
    from service import logs
    from service.app import dimse_port, open_acceptance, open_database, open_registry
    from service.loops import stop_signal
    from service.pacs.dimse import serving

    logs.configure(settings.log_level)
    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier, only_quick=True)
        acceptance = open_acceptance(settings, database)
        with serving(dimse_port(settings), acceptance, settings.shutdown_seconds):
            stop_signal().wait()
    return 0


def _watch(settings: "Settings", _arguments: Arguments) -> int:
    from service import logs
    from service.app import open_acceptance, open_database, open_registry, watch_sources, watched_sources
    from service.loops import stop_signal

    logs.configure(settings.log_level)
    sources = watched_sources(settings)
    with open_database(settings) as database:
        open_registry(settings, database).synchronise(settings.default_classifier, only_quick=True)
        watch_sources(sources, open_acceptance(settings, database), stop_signal())
    return 0
