"""The decoder process: `python -m service.films.decoding FD` answers one request after another on a socket.

It parses what strangers sent, so it runs under limits of memory and time, inherits no secrets in its environment,
and may die at any moment: the other end starts another one.
"""

import json
import signal
import socket
import struct
import sys
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile

from service.errors import DecodeFailed, RadiographError, Truncated, UnsupportedRadiograph
from service.films.decoder_process import FORMATS, READY, REPLY, REQUEST
from service.films.dicom import read_dicom
from service.films.grayscale import StoredPixels
from service.films.png import read_png
from service.sandbox.child import receive
from service.sandbox.restrictions import address_space_bytes, limit_memory, restrict

READERS = {FORMATS["png"]: read_png, FORMATS["dicom"]: read_dicom}
SPARE_SECONDS = 5.0  # the parent kills on time; the alarm is for a process whose parent is gone
OUT_OF_MEMORY = "the decoder ran out of its memory limit"
MALFORMED = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)
BROKEN = (OSError, RuntimeError, SyntaxError, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning)


def main() -> None:
    """Serve until the other end closes the socket, or memory ran out."""
    _restrict()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        base_bytes = address_space_bytes()
        connection.sendall(READY)
        while _serve(connection, base_bytes):
            pass


def _restrict() -> None:
    """No core dumps (they would hold pixels), no files, no network, no truncated pictures, no Pillow bombs."""
    restrict()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _serve(connection: socket.socket, base_bytes: int | None) -> bool:
    """Answer one request; whether to go on."""
    try:
        head = receive(connection, REQUEST.size)
    except EOFError:
        return False
    kind, count, max_pixels, memory_bytes, seconds = REQUEST.unpack(head)
    limit_memory(memory_bytes, base_bytes)
    signal.setitimer(signal.ITIMER_REAL, seconds + SPARE_SECONDS)
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        _send_film(connection, _read(kind, bytes(receive(connection, count)), max_pixels))
    except RadiographError as error:
        _send_error(connection, error)
    except MemoryError:
        _send_error(connection, DecodeFailed(OUT_OF_MEMORY), last=True)
        return False
    signal.setitimer(signal.ITIMER_REAL, 0)
    return True


def _read(kind: bytes, data: bytes, max_pixels: int) -> StoredPixels:
    """Decode, with everything that malformed bytes raise in the libraries put into our own words.

    The order matters: RecursionError is a RuntimeError, and the texts of theirs may quote tag values.
    """
    try:
        return READERS[kind](data, max_pixels)
    except (EOFError, struct.error):
        raise Truncated("the file ends before the picture does") from None
    except MALFORMED:
        raise UnsupportedRadiograph("the file's tags or chunks are malformed") from None
    except BROKEN as error:
        raise _broken(error) from None


def _broken(error: BaseException) -> RadiographError:
    """Pillow says that a picture is truncated in the text of an OSError only."""
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return Truncated("the picture is truncated")
    return DecodeFailed("the decoder refused the picture")


def _send_film(connection: socket.socket, film: StoredPixels) -> None:
    height, width = film.values.shape
    table = {"height": height, "width": width, "bytes": film.values.itemsize, "attributes": film.attributes}
    _send_table(connection, table)
    connection.sendall(film.levels.astype("<f4").tobytes())
    connection.sendall(np.ascontiguousarray(film.values).data)


def _send_error(connection: socket.socket, error: RadiographError, *, last: bool = False) -> None:
    """last: this process answers no more requests."""
    _send_table(connection, {"error": error.code, "detail": error.detail, "last": last})


def _send_table(connection: socket.socket, table: dict[str, object]) -> None:
    encoded = json.dumps(table).encode()
    connection.sendall(REPLY.pack(len(encoded)) + encoded)


if __name__ == "__main__":
    main()
