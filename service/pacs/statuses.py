"""What an error is called in DICOM: the statuses of C-STORE, which are the failure reasons of STOW-RS too.

PS3.4 annex B.2.3, PS3.7 annex C, PS3.18 table I.2-2. A700 asks the sender to keep the film and try again, so it is for
what may pass later, and for nothing else.
"""

SUCCESS = 0x0000
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122  # for C-STORE one of the Cxxx, "cannot understand"

STATUSES = {
    # the film, for good
    "empty_body": CANNOT_UNDERSTAND,
    "unsupported_format": CANNOT_UNDERSTAND,
    "unsupported_radiograph": CANNOT_UNDERSTAND,
    "several_frames": CANNOT_UNDERSTAND,
    "too_many_bytes": CANNOT_UNDERSTAND,
    "too_many_pixels": CANNOT_UNDERSTAND,
    "truncated": CANNOT_UNDERSTAND,
    "decode_failed": CANNOT_UNDERSTAND,
    "not_understood": CANNOT_UNDERSTAND,
    "unsupported_transfer_syntax": TRANSFER_SYNTAX_NOT_SUPPORTED,
    "unsupported_sop_class": SOP_CLASS_NOT_SUPPORTED,
    "uid_mismatch": DATA_SET_DOES_NOT_MATCH,
    "other_study": DATA_SET_DOES_NOT_MATCH,
    "film_not_given": CANNOT_UNDERSTAND,
    # this service, for now: a full queue, or a classifier or policy that an administrator has yet to put in force
    "queue_full": OUT_OF_RESOURCES,
    "no_active_classifier": OUT_OF_RESOURCES,
    "unknown_classifier": OUT_OF_RESOURCES,
    "unknown_policy": OUT_OF_RESOURCES,
}


def status_of(code: str) -> int:
    """The status that tells of an error's code; an error of ours that no film brings about may pass later."""
    return STATUSES.get(code, OUT_OF_RESOURCES)
