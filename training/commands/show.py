"""`triggerscope-train tables`, `report` and `picture`."""

import argparse
from pathlib import Path

from training.commands.films import Commands


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    tables = commands.add_parser("tables", help="evaluation results as Markdown")
    tables.add_argument("results", type=Path, nargs="+", metavar="FILE.json")
    tables.add_argument("--pooled", type=Path, nargs="+", metavar="FILE.json", help="seeds of one run, as one row")
    tables.add_argument("--document", type=Path, help="replace the tables between this document's markers")
    tables.set_defaults(command=_tables)

    report = commands.add_parser("report", help="comparisons as one self-contained HTML page")
    report.add_argument("results", type=Path, nargs="+", metavar="FILE.json")
    report.add_argument("--gallery", type=Path, nargs="*", default=[], metavar="FILE.json")
    report.add_argument("--out", type=Path, required=True, metavar="FILE.html")
    report.set_defaults(command=_report)

    picture = commands.add_parser("picture", help="draw one audit as a figure")
    picture.add_argument("film", type=Path)
    picture.add_argument("--classifier", type=Path, required=True, metavar="FILE.onnx")
    picture.add_argument("--policy", type=Path, required=True, metavar="FILE.policy.json")
    picture.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    picture.set_defaults(command=_picture)


def _tables(arguments: argparse.Namespace) -> int:
    from training.show.tables import put_into, tables

    text = tables(arguments.results, arguments.pooled)
    if arguments.document:
        put_into(arguments.document, text)
    else:
        print(text)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from training.show.report import report

    arguments.out.write_text(report(arguments.results, arguments.gallery), encoding="utf-8")
    print(arguments.out)
    return 0


def _picture(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.graphs.examiner import load_classifier
    from training.show.picture import picture

    picture(arguments.film, load_classifier(arguments.classifier), Policy.load(arguments.policy), arguments.out)
    print(arguments.out)
    return 0
