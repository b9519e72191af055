"""`triggerscope audit` and `calibrate`: straight on files, without database, server and settings library."""

import argparse
import os
import sys
from pathlib import Path

from service.commands.parser import Arguments, Commands, add_description, offline_command, read_description

SOME_FAILED = 2


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = offline_command(commands, "audit", _audit, "audit files without server and database")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--classifier", metavar="NAME|PATH")
    add_description(parser)
    parser.add_argument("--policy", metavar="NAME|PATH")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser = offline_command(commands, "calibrate", _calibrate, "make a policy from a folder of clean films")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classifier", required=True, metavar="NAME|PATH")
    add_description(parser)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--source", required=True, help="the site or scanner group of these films")
    parser.add_argument("--name", help="of the policy; default CLASSIFIER-SOURCE")
    parser.add_argument("--fpr", type=float, default=0.01, help="nominal false-positive rate")
    parser.add_argument("--receivers", type=Path, help="folder of publishable clean radiographs for the transplant")


def _audit(arguments: Arguments) -> int:
    from service.offline.audits import as_line, as_text, audit_files
    from service.offline.environment import Environment
    from service.offline.models import find_models

    here = Environment.read(os.environ)
    models_dir = arguments.models_dir or here.models_dir
    wanted = arguments.classifier or here.default_classifier
    models = find_models(models_dir, wanted, arguments.policy, read_description(arguments))
    failed = False
    for found in audit_files(arguments.files, models, here.limits):
        failed |= "error" in found
        print(as_line(found) if arguments.json else as_text(found), flush=True)
    return SOME_FAILED if failed else 0


def _calibrate(arguments: Arguments) -> int:
    from service.audit.calibration import policy_bytes
    from service.graphs.examiner import load_classifier
    from service.offline.environment import Environment
    from service.offline.models import find_classifier
    from service.offline.policies import Calibration, calibrate_folder, calibration_summary
    from service.records.storage import write_durably

    here = Environment.read(os.environ)
    models_dir = arguments.models_dir or here.models_dir
    classifier = load_classifier(find_classifier(models_dir, arguments.classifier), read_description(arguments))
    wanted = Calibration(arguments.folder, arguments.source, arguments.name, arguments.fpr, arguments.receivers)
    made = calibrate_folder(models_dir, classifier, wanted, here.limits, _show_progress)
    write_durably(arguments.out.absolute(), policy_bytes(made.policy))
    arguments.out.chmod(0o644)  # the service may run as another user; a policy holds no patient's film
    print(calibration_summary(made))
    print(arguments.out)
    return 0


def _show_progress(what: str, done: int, total: int) -> None:
    if done == total or done % 20 == 0:
        print(f"\r{what} {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
