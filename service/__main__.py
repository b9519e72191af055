"""The command line `triggerscope`."""

import sys

from service.commands import accounts, bundles, classifiers, database, keys, log, offline, pacs, policies, serving
from service.commands.parser import new_parser
from service.errors import TriggerscopeError

NOUNS = (serving, offline, keys, classifiers, policies, pacs, database, log, bundles, accounts)


def main(argv: list[str] | None = None) -> int:
    parser, commands = new_parser(__doc__)
    for noun in NOUNS:
        noun.add(commands)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except TriggerscopeError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
