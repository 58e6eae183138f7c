"""Why a file cannot be decoded, in words for a person."""

from __future__ import annotations

from pathlib import Path

from lfm_ray.datasets.kinds import Kind

UNREADABLE = "cannot be decoded: it is damaged, or of an unknown format"
ARCHIVES = {"ZIP": b"PK\x03\x04", "gzip": b"\x1f\x8b\x08", "7z": b"7z\xbc\xaf\x27\x1c", "RAR": b"Rar!\x1a\x07"}
TEXTS_OF_PIXELS = (b"P1", b"P2", b"P3", b"/* XPM", b"#define")  # PNM, XPM, XBM
_HEAD = 512
PLAYLISTS = (b"#extm3u", b"ffconcat ", b"[playlist]", b"[reference]", b"<asx", b"<smil", b"v=0", b"rtsp://", b"http")


def not_media(path: str | Path) -> str | None:
    """What is there instead, in words for a person, or None if it may be media."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty (0 bytes)"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the file itself; git lfs pull fetches it"
    tags = (b"<!doctype html", b"<html", b"<head", b"<script")
    if start.startswith(tags) or (start.startswith(b"<") and b"<html" in start):  # a comment can come first
        return "is an HTML page: a server sent it in place of the file"
    if start.startswith((b"<?xml", b"<error")) and b"<svg" not in start:
        return "is an XML document, such as a server's error message"
    if start.startswith(PLAYLISTS):
        return "is a playlist, or describes a stream: it names other files or addresses; name the media themselves"
    if not any(head):
        return "begins with zeros only: it was allocated and never written"
    return None


def _other_content(path: str) -> str | None:
    """An archive, or text, by its first bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    for name, mark in ARCHIVES.items():
        if head.startswith(mark):
            return f"is a {name} archive; unpack it first"
    text = " ".join(head.decode("latin-1").split())
    if head.isascii() and text.isprintable() and not head.startswith(TEXTS_OF_PIXELS):
        return f'is text, not media; it begins "{text[:40]}"'
    return None


def reason_of(error: Exception, path: str, kind: Kind) -> str:
    """One line, without numbers of the operating system and names of Python, of what a decoder raised."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError) or (kind != "video" and Path(path).is_dir()):
        return "is a folder, not a file"
    if kind != "text" and (other := not_media(path)):
        return other
    if type(error) is ValueError and is_ours(error):
        return (str(error).splitlines() or [""])[0] or UNREADABLE
    if kind != "text" and (other := _other_content(path)):
        return other
    if isinstance(error, (OSError, EOFError)) and "truncated" in str(error):
        return "is cut short"
    if type(error) is OSError and error.strerror:
        return f"cannot be read: {error.strerror[0].lower()}{error.strerror[1:]}"
    if type(error).__name__ == "UnidentifiedImageError":
        return "is not a picture of a known format"
    return UNREADABLE


def is_ours(error: Exception) -> bool:
    """Whether this package raised it; what libraries say is for programmers."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or str(trace.tb_frame.f_globals.get("__name__")).startswith(__name__.partition(".")[0])
