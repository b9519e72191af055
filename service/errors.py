"""The one vocabulary of errors, mapped once to problem+json (web/errors.py) and once to DICOM (pacs/statuses.py)."""


class TriggerscopeError(Exception):
    """An error with a stable code that a caller may rely on.

    `detail` is written by us and never quotes tag values, file names or other text from the input.
    """

    code = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RadiographError(TriggerscopeError):
    """The received bytes are not a radiograph that can be audited."""


class EmptyBody(RadiographError):
    code = "empty_body"


class UnsupportedFormat(RadiographError):
    """Neither PNG nor DICOM."""

    code = "unsupported_format"


class UnsupportedTransferSyntax(RadiographError):
    """A DICOM transfer syntax that is not decoded here, deflated among them."""

    code = "unsupported_transfer_syntax"


class UnsupportedRadiograph(RadiographError):
    """A readable file that is no single-frame grey radiograph, or whose tags contradict each other."""

    code = "unsupported_radiograph"


class SeveralFrames(RadiographError):
    code = "several_frames"


class TooManyBytes(RadiographError):
    code = "too_many_bytes"


class TooManyPixels(RadiographError):
    code = "too_many_pixels"


class Truncated(RadiographError):
    """The pixel data end before the picture does."""

    code = "truncated"


class DecodeFailed(RadiographError):
    """The decoder refused the pixel data, or ran out of its memory or time limit."""

    code = "decode_failed"


class ClassifierError(TriggerscopeError):
    """An ONNX file that cannot be audited. The sentence may name what it holds: operators and tensors."""

    code = "unusable_classifier"


class PolicyError(TriggerscopeError):
    """A policy file that cannot be read, or that belongs to another classifier."""

    code = "unusable_policy"
