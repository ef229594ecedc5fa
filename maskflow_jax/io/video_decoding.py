"""From a video file to its frames, one at a time, so that memory does not grow with the video.

Frames are upright, uint8 RGB whatever the file holds (greyscale, alpha, 10 bits), and have the
times at which they are shown. Files that are broken, cut off or no video raise a ValueError that
says what to do; for a cut-off file this may happen only after its last frame.
"""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import av
import numpy as np

_WHOLE_SHARE = 0.9  # of what a header announces; trimmed files show a little less
_INSTANT = 1e-8  # seconds
_MAX_GAP = 60.0  # seconds that one frame may be shown; more is a wrong timestamp
# FFmpeg's names of the real container formats. Playlists and lists of files (ffconcat, HLS, DASH)
# are not among them: they would make FFmpeg open other files or addresses that they name.
_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "gif", "apng"),
    *("mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu", "ivf", "flv", "live_flv"),
    *("asf", "asf_o", "ogg", "mxf", "nut", "rm", "dv", "wtv", "yuv4mpegpipe", "mjpeg", "swf"),
)
# Old files state their titles in other encodings than UTF-8; PyAV 19 replaces such bytes itself.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d*)?)")  # how Matroska notes a stream's duration


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        pixels: uint8 [H, W, 3].
        start: Seconds.
        duration: Seconds; the next frame's start decides where there is one. 0 if unknown.
        rounding: Seconds by which the file's clock may have rounded `start`.
    """

    pixels: np.ndarray
    start: float
    duration: float
    rounding: float = 0.0


class Header(NamedTuple):
    """What a file's header states, unchecked; 0 where it states nothing.

    Attributes:
        frames: Number of frames.
        seconds: Duration.
        rate: Frames per second.
        width: Width of a frame in pixels, before rotation.
        height: Height of a frame in pixels, before rotation.
    """

    frames: int
    seconds: float
    rate: float
    width: int
    height: int


def iterate_frames(path: str | os.PathLike) -> Iterator[TimedFrame]:
    """Decodes a video file or an animated gif frame by frame.

    Transparency is dropped, as is the shape of pixels that are not square; rotation, as phones
    record it, is applied.

    Args:
        path: Path of the file.

    Yields:
        Frames in the order in which they are shown, all of one size; starts never decrease.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no video, is broken or cut off, or has impossible timestamps.
    """
    with _opened(path) as container:
        if container.format.name == "gif":
            _check_gif(path)
        try:
            yield from _decode(path, container)
        except av.FFmpegError as error:
            raise ValueError(_undecodable(path, error)) from error


def read_header(path: str | os.PathLike) -> Header:
    """Reads what a video file announces, without decoding it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no video.
    """
    with _opened(path) as container:
        return _header(container)


def _opened(path: str | os.PathLike) -> av.container.InputContainer:
    """The container, to be closed; it has a stream of video."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no video at {path}: check the path")
    try:
        # An absolute path, as FFmpeg takes a name such as "12:30.mp4" for a protocol.
        container = av.open(
            str(path.absolute()),
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)},
            **_LENIENT,
        )
    except PermissionError as error:  # FFmpeg's is one, too
        raise PermissionError(f"{path} may not be read: `chmod +r` it") from error
    except av.FFmpegError as error:
        raise ValueError(_undecodable(path, error)) from error
    if not container.streams.video:
        container.close()
        raise ValueError(_undecodable(path, "it has no stream of video"))
    return container


def _undecodable(path: str | os.PathLike, why: object) -> str:
    return (
        f"{path} cannot be decoded as video ({why}): check that the file is whole, or convert it "
        f"with `ffmpeg -i {path} out.mp4`"
    )


def _decode(path: str | os.PathLike, container: av.container.InputContainer) -> Iterator:
    """Yields the frames of an opened file, then checks that none is missing."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    header, tick = _header(container), float(stream.time_base or 0)
    usual = 1 / header.rate if header.rate else 0.0
    count, first, start, duration, shape = 0, 0.0, -usual, usual, None
    for frame in container.decode(stream):
        turns = round(frame.rotation / 90)  # counterclockwise
        pixels = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
        if shape not in (None, pixels.shape):
            raise ValueError(f"{path} changes its frame size midway: re-encode it at one size")
        shape = pixels.shape
        known = start + duration if frame.pts is None else frame.pts * tick
        if count:
            check_gap(known - start, count, path)
        start = max(known, start) if count else known
        duration = (frame.duration or 0) * tick or usual
        first = first if count else start
        count += 1
        # A clock that ticks once per frame is exact; a finer one rounds to its nearest tick.
        rounding = 0.5 * tick - _INSTANT if 1.5 * tick < duration else 0.0
        yield TimedFrame(pixels, start, duration, rounding)
    if not count:
        raise ValueError(f"{path} has no frames: remove or re-encode it")
    check_gap(duration, count, path)
    _check_whole(path, header, count, start + duration - first)


def _check_whole(path: str | os.PathLike, header: Header, frames: int, seconds: float) -> None:
    """Raises ValueError if much is missing of what the header announces.

    In a whole file either the frames or the time may be fewer: AVI counts dropped frames, and a
    file that was trimmed without re-encoding counts those before the first one shown.
    """
    shares = []
    if header.frames:
        shares.append(frames / header.frames)
    if header.seconds:
        shares.append(seconds / header.seconds)
    if max(shares, default=1.0) < _WHOLE_SHARE:
        announced = f"{header.frames} frames" if header.frames else f"{header.seconds:.2f} s"
        raise ValueError(
            f"{path} announces {announced} and holds {frames} frames, {seconds:.2f} s: it is cut "
            "off, fetch it again"
        )


def check_gap(seconds: float, index: int, path: object) -> None:
    """Raises ValueError if a frame is shown for so long that a timestamp must be wrong.

    Args:
        seconds: Time from a frame to the next.
        index: Index of the next frame.
        path: Path of the file, for the error.
    """
    if seconds > _MAX_GAP:
        raise ValueError(
            f"{path}: timestamps jump by {seconds:.0f} s at frame {index}: write new ones with "
            "`ffmpeg -r RATE -i FILE out.mp4`, where RATE is the video's true frame rate"
        )


def _check_gif(path: str | os.PathLike) -> None:
    """Raises ValueError if a GIF ends before its trailer: FFmpeg shows what is there of it."""
    with pathlib.Path(path).open("rb") as file:
        try:
            flags = file.read(13)[10]
            _skip_colours(file, flags)
            while (kind := file.read(1)[0]) != 0x3B:
                if kind == 0x2C:  # an image: its descriptor, colours and code size
                    _skip_colours(file, file.read(9)[8])
                elif kind != 0x21:  # an extension
                    return  # no block of a GIF: for the decoder to judge
                file.read(1)
                while size := file.read(1)[0]:
                    file.seek(size, os.SEEK_CUR)
        except IndexError as error:
            raise ValueError(f"{path} is cut off: fetch it again") from error


def _skip_colours(file: BinaryIO, flags: int) -> None:
    """Passes over the table of colours that the flags of a GIF's screen or image announce."""
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)


def _header(container: av.container.InputContainer) -> Header:
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return Header(stream.frames, _seconds(container, stream), rate, stream.width, stream.height)


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """The stream's own duration. The container's may be that of longer sound."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    if found := _CLOCK.match(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, found.groups())
        return 3600 * hours + 60 * minutes + seconds
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else 0.0
