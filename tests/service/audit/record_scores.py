"""`python -m tests.service.audit.record_scores`: record what the score says today. Two minutes.

Only with a raised SCORES_VERSION, or with further films: what is recorded here is what stored figures are held to.
"""

import sys

from tests.recorded import write_rows
from tests.service.audit.score_films import films
from tests.service.audit.score_table import PAIRS, TABLE, decoded, rows


def main() -> None:
    radiographs = decoded(films())
    recorded = [row for pair in PAIRS for row in rows(pair, radiographs)]
    write_rows(TABLE, recorded)
    sys.stdout.write(f"{len(recorded)} rows of {len(radiographs)} films\n")


if __name__ == "__main__":
    main()
