"""Where runs, sweeps and shards are kept: a folder, local or shared (NFS), or a URI of an object store.

`s3://BUCKET/PATH` and `gs://BUCKET/PATH` are reached through pyarrow. For a URI, each node works in its
own folder below ~/.cache/lfm_ray: `working_folder` returns it, `push` and `pull` copy its files to the
store and back, and `copied` returns a node's own copy of a file that never changes. For any other folder
these functions do nothing, so code that writes and pushes a file need not know where it is kept. Objects
are replaced as a whole: a reader finds the old one or the new one.

Credentials come from where the store's own tools find them (AWS_ACCESS_KEY_ID, a profile, the machine's
role, GOOGLE_APPLICATION_CREDENTIALS). They are never part of a URI, and the processes
of trials are not sent them (`lfm_ray.ray_private.plain_actors`), so they reach no file of ours or of Ray's.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, TypeVar
from urllib.parse import urlsplit

from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.files import appending, check_path, without_links, written_anew

Result = TypeVar("Result")

SCHEMES = ("s3", "gs")
LOCK = ".lock"  # the file with which a process locks a folder
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # the errors of a file system without locks
PATIENCE = 300.0  # s, for which failed access to storage is retried
LONGEST_WAIT = 10.0  # s, between retries
GS_RETRIES = 10  # s, for which Google's client itself retries; its default is 15 minutes
GS_EMULATOR = "CLOUD_STORAGE_EMULATOR_ENDPOINT"  # the variable that points that client to a test server


def working_folder(text: str) -> Path:
    """The folder in which this node works for `text`, a folder or a URI.

    Raises:
        UserError: the URI has another scheme, or contains a key or settings; or there can be no such path.
    """
    if "://" not in text:
        check_path(Path(text))
        return Path(text)
    uri = urlsplit(text)
    if uri.scheme not in SCHEMES or not uri.netloc:
        raise UserError(f"{uri.scheme}://...: give a folder, s3://BUCKET/PATH or gs://BUCKET/PATH")
    if "@" in uri.netloc or uri.query or uri.fragment:
        raise UserError(
            f"{uri.scheme}://...: set keys, region and endpoint in the environment (AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL), not in the URI, which is shown and saved"
        )
    return _cache() / uri.scheme / uri.netloc / uri.path.strip("/")


def name_of(path: Path) -> str:
    """The name that any node can pass to `working_folder`: the URI that a path stands for, or the absolute path."""
    parts = _parts(path)
    return f"{parts[0]}://{'/'.join(parts[1:])}" if parts else str(path.absolute())


def shown(path: Path) -> str:
    """A path as the user named it: the URI, or the path as it is."""
    return name_of(path) if in_store(path) else str(path)


def in_store(path: Path) -> bool:
    """Whether a path stands for a URI."""
    return bool(_parts(path))


def exists(file: Path) -> bool:
    """Whether a file exists: in the store if its path stands for a URI."""
    place = _place(file)
    return place.store.get_file_info(place.path).is_file if place else file.exists()


def push(*files: Path) -> None:
    """Copies those of the files that exist to the store; of a folder, everything in it."""
    for file in files:
        if not (place := _place(file)):
            return
        if file.is_dir():
            push(*file.iterdir())
        elif file.exists():
            with place.store.open_output_stream(place.path) as stream:
                stream.write(file.read_bytes())


def fetch(file: Path) -> None:
    """Copies one file from the store, if it is there."""
    if (place := _place(file)) and place.store.get_file_info(place.path).is_file:
        _download(place, file)


def copied(file: Path, sha256: str) -> Path:
    """This machine's copy of a file in the store with this checksum; any other file is returned as it is.

    One process copies it for all, and the others wait. The copy is named after its checksum, so that a file
    that is replaced in the store is copied again.

    Raises:
        UserError: it is not in the store, or was altered there.
    """
    if not (place := _place(file)):
        return file
    result = file.with_name(f"{sha256}{file.suffix}")
    if result.exists():
        return result
    file.parent.mkdir(parents=True, exist_ok=True)
    with appending(result.with_suffix(".lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or its process ends
        if not result.exists():
            if not place.store.get_file_info(place.path).is_file:
                raise UserError(f"{shown(file)}: is not there")
            with written_anew(result, tidy=True) as copy_of_it:
                if _copy_into(copy_of_it, place) != sha256:
                    raise UserError(f"{shown(file)}: its checksum differs, so it was altered; copy it there again")
    return result


def _copy_into(file: BinaryIO, place: Place) -> str:
    """Writes an object to an open file; returns its sha256."""
    found = hashlib.sha256()
    with place.store.open_input_stream(place.path) as stream:
        while chunk := stream.read(2**20):
            found.update(chunk)
            file.write(chunk)
    return found.hexdigest()


def hold(folder: Path, busy: str) -> TextIO:
    """Locks a folder for this process until the returned file is closed, or the process ends or is killed.

    The lock also keeps out other machines that share the folder, as on NFS with locks.

    Raises:
        UserError: `busy`: another process holds it.
        OSError: the folder cannot be written, or is on a file system without locks (`NO_LOCKS`).
    """
    file = appending(folder / LOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            raise UserError(f"{shown(folder)}: {busy}") from None
        raise
    return file


def hold_where_possible(folder: Path, busy: str) -> TextIO | None:
    """Like `hold`; None on a file system without locks, where nothing keeps other processes out.

    Raises:
        UserError: `busy`: another process holds it.
    """
    try:
        return hold(folder, busy)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None


@contextmanager
def exclusive(folder: Path, busy: str) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if there is none; where there are no locks, it does not.

    Raises:
        UserError: `busy`: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = hold_where_possible(folder, busy)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def copy(file: Path, to: Path) -> None:
    """Copies a file to another path in the same bucket; does nothing outside a store."""
    if (place := _place(file)) and place.store.get_file_info(place.path).is_file:
        place.store.copy_file(place.path, "/".join(_parts(to)[1:]))


def pull(folder: Path, skip: Callable[[str], bool] = lambda name: False) -> None:
    """Makes a folder equal to what is in the store; relative names for which `skip` is true are left alone."""
    import pyarrow.fs

    if not (place := _place(folder)):
        return
    store, root = place.store, place.path
    found = store.get_file_info(pyarrow.fs.FileSelector(root, allow_not_found=True, recursive=True))
    objects = {info.path.removeprefix(f"{root}/"): info.path for info in found if info.is_file}
    objects = {name: path for name, path in objects.items() if ".." not in name.split("/")}  # it would lead elsewhere
    if not objects:
        shutil.rmtree(folder, ignore_errors=True)
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        name = file.relative_to(folder).as_posix()
        if name not in objects and not skip(name):
            file.unlink(missing_ok=True)
    for name, path in objects.items():
        if not skip(name):
            _download(Place(store, path), folder / name)


def remove(*files: Path) -> None:
    """Removes files here and in the store, if they exist."""
    for file in files:
        file.unlink(missing_ok=True)
        if (place := _place(file)) and place.store.get_file_info(place.path).is_file:
            place.store.delete_file(place.path)


def remove_below(folder: Path) -> None:
    """Removes what the store has of a folder; does nothing to any other folder."""
    import pyarrow.fs

    if (place := _place(folder)) and place.store.get_file_info(place.path).type == pyarrow.fs.FileType.Directory:
        place.store.delete_dir(place.path)


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, those of a store included."""
    import pyarrow.fs

    if place := _place(folder):
        found = place.store.get_file_info(pyarrow.fs.FileSelector(place.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory)
    return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder, in the store where it is there; what links lead to does not count."""
    import pyarrow.fs

    if place := _place(folder):
        found = place.store.get_file_info(pyarrow.fs.FileSelector(place.path, allow_not_found=True, recursive=True))
        return sum(info.size or 0 for info in found)
    if not folder.is_dir() or folder.is_symlink():
        return 0
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


def sizes_in(folder: Path) -> dict[Path, int]:
    """Bytes of each file that the store has below a folder, by the path that stands for it; none of other folders."""
    import pyarrow.fs

    if not (place := _place(folder)):
        return {}
    found = place.store.get_file_info(pyarrow.fs.FileSelector(place.path, allow_not_found=True, recursive=True))
    return {folder / info.path.removeprefix(f"{place.path}/"): info.size or 0 for info in found if info.is_file}


def is_held(folder: Path) -> bool:
    """Whether another process holds the lock of a folder on this machine or a shared disk. Writes nothing."""
    try:
        with open(folder / LOCK, "rb", opener=without_links) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, UserError):  # there is none, or no locks, or it is a link
        return False
    return False


def patiently(
    action: Callable[[], Result], where: Path, notice: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> Result:
    """Returns the result of `action`, which is retried for `PATIENCE` seconds while storage fails (OSError).

    action: must be safe to repeat. notice: is told when storage begins to fail, and when it works again.

    Raises:
        TrainingFailed: it failed all that time.
    """
    began, wait, failed = time.monotonic(), 0.25, ""
    while True:
        try:
            result = action()
            break
        except OSError as error:
            reason = f"{name_of(where)}: {(error.strerror or str(error)).splitlines()[0]}"
            if time.monotonic() - began + wait > PATIENCE:
                raise TrainingFailed(f"{reason}, for {PATIENCE:.0f} s; start this again when it works") from None
            if not failed:
                notice(f"{reason}; retrying for {PATIENCE:.0f} s")
            failed = reason
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
    if failed:
        notice(f"{failed}, for {time.monotonic() - began:.1f} s; then it worked again")
    return result


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lfm_ray"


def _parts(path: Path) -> tuple[str, ...]:
    """Scheme, bucket and the names below it, for a path that stands for a URI; empty for any other."""
    try:
        parts = path.absolute().relative_to(_cache().absolute()).parts
    except ValueError:
        return ()
    return parts if len(parts) >= 2 and parts[0] in SCHEMES else ()


class Place(NamedTuple):
    """Where an object is kept: pyarrow's file system, and the path there."""

    store: Any
    path: str


def _place(path: Path) -> Place | None:
    parts = _parts(path)
    return Place(_store(parts[0], parts[1]), "/".join(parts[1:])) if parts else None


@functools.cache
def _store(scheme: str, bucket: str) -> Any:
    import pyarrow.fs

    if scheme == "gs":
        who = "anonymous@" if GS_EMULATOR in os.environ else ""
        return pyarrow.fs.FileSystem.from_uri(f"gs://{who}{bucket}?retry_limit_seconds={GS_RETRIES}")[0]
    return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _download(place: Place, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with place.store.open_input_stream(place.path) as stream, written_anew(file) as copy_of_it:
        shutil.copyfileobj(stream, copy_of_it)
