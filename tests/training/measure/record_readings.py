"""`python -m tests.training.measure.record_readings`: record what the detectors compared say today. A minute.

Only with a raised version of the families that changed (training/measure/detectors), or with a raised SCORES_VERSION.
"""

import sys

from tests.recorded import write_rows
from tests.training.measure.reading_table import TABLE, recorded_pair, rows
from training.measure.detectors import FAMILIES


def main() -> None:
    known = recorded_pair()
    recorded = [row for family in FAMILIES for row in rows(family, *known)]
    write_rows(TABLE, recorded)
    sys.stdout.write(f"{len(recorded)} rows\n")


if __name__ == "__main__":
    main()
