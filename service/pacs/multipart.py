"""multipart/related bodies of DICOM objects, taken apart as they arrive; of too large a part nothing is kept."""

from email.message import Message

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from service.errors import TooManyBytes


class MalformedMultipart(ValueError):
    """The parts cannot be told apart, or the body is not of this type."""


class PartReader:
    """Gets a body piece by piece; `finished` holds the whole parts that nobody has taken yet."""

    def __init__(self, content_type: str, max_bytes: int) -> None:
        """max_bytes: of one part. Raises MalformedMultipart where the body is no multipart/related of DICOM objects."""
        self.finished: list[bytes | TooManyBytes] = []
        self.ended = False
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._count = 0
        self._parser = MultipartParser(_boundary(content_type), {
            "on_part_begin": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        })  # fmt: skip

    def feed(self, piece: bytes) -> None:
        """Raises MalformedMultipart."""
        try:
            self._parser.write(piece)
        except MultipartParseError:
            raise MalformedMultipart("the parts cannot be told apart") from None

    def _on_part_begin(self) -> None:
        self._chunks, self._count = [], 0

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._count += end - start
        if self._count <= self._max_bytes:
            self._chunks.append(data[start:end])

    def _on_part_end(self) -> None:
        too_large = self._count > self._max_bytes
        self.finished.append(
            TooManyBytes(f"more than {self._max_bytes} bytes") if too_large else b"".join(self._chunks)
        )
        self._chunks = []

    def _on_end(self) -> None:
        self.ended = True


def _boundary(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    of_dicom = message.get_param("type", "application/dicom") == "application/dicom"
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not of_dicom:
        raise MalformedMultipart("the body is not multipart/related of DICOM objects")
    if not boundary or not boundary.isascii():
        raise MalformedMultipart("the boundary is no boundary")
    return boundary
