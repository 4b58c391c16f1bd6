"""What the processes of one server know of each other: how many sessions there are, who holds which, and the secrets that any may redeem.

Knows counters, names and secrets, and two ways to keep them: in memory for a single process, in a folder for several. Does not know what
a session is or who asks. Nothing here waits for another process longer than it takes to count or to list the unused secrets.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import mmap
import os
import shutil
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

_SLOT_BYTES: Final = 8  # an aligned int64, which is written and read in one piece
_COUNTERS: Final = "counters"
_NAMES: Final = "names"
_SECRETS: Final = "secrets"
_NANOSECONDS: Final = 10**9


class Count(enum.Enum):
    """What is counted for all processes together, mostly because it is limited. The value is its column."""

    SESSIONS = 0
    STREAMS = 1  # of the engine
    UNAUTHENTICATED = 2  # sockets that have not shown a key yet
    WAITING = 3  # of the sessions, those that would give way to a new one; not limited, only told


class Shared(Protocol):
    """As one of the processes sees it. All calls come from one thread; all times are seconds, monotonic, of a clock that all share."""

    index: int  # of this process, from 0
    count: int  # of processes

    def register(self, name: str) -> None:
        """This process holds `name` from now on: a session's id, or what `token_name` says. Idempotent."""

    def release(self, name: str) -> None:
        """Not any more. Idempotent."""

    def holder(self, name: str) -> int | None:
        """Which process holds it."""

    def place_of_room(self, name: str) -> int:
        """Where a room of that name lives: with the session that has it as its id if there is one, else always in the same process."""

    def take(self, what: Count, most: int) -> bool:
        """One more here, unless all processes together have `most` already. No two processes can take the last one."""

    def give_back(self, what: Count) -> None:
        """One less here: one that was taken here."""

    def tell(self, what: Count, number: int) -> None:
        """There are so many here, of what nobody takes or gives back."""

    def total(self, what: Count) -> int:
        """Of all processes."""

    def of(self, what: Count, index: int) -> int:
        """Of one of them."""

    def keep_secret(self, digest: bytes, text: bytes, most: int, expires_at: float, now: float) -> bool:
        """Keep `text` for whichever process is shown the secret with that digest first. False: `most` are unused."""

    def take_secret(self, digest: bytes, now: float) -> bytes | None:
        """What was kept for it, once. None: nothing was, it has expired, or it is taken."""

    def secrets_expire_at(self, now: float) -> list[float]:
        """When each of the unused secrets expires, the next one first."""

    def relay_path(self, index: int) -> Path:
        """The Unix socket on which that process serves the others. Raises LookupError where there are no others."""


def token_name(token: str) -> str:
    """The name under which the holder of a resume token is registered: does not tell the token, and is no session's id."""
    return "token:" + hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Alone:
    """See `Shared`. One process, which needs nobody."""

    index: int = 0
    count: int = 1

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._counts = dict.fromkeys(Count, 0)
        self._secrets: dict[bytes, tuple[float, bytes]] = {}  # when it expires, and what it is good for

    def register(self, name: str) -> None:
        """See `Shared`."""
        self._names.add(name)

    def release(self, name: str) -> None:
        """See `Shared`."""
        self._names.discard(name)

    def holder(self, name: str) -> int | None:
        """See `Shared`."""
        return 0 if name in self._names else None

    def place_of_room(self, name: str) -> int:
        """See `Shared`."""
        return 0

    def take(self, what: Count, most: int) -> bool:
        """See `Shared`."""
        if self._counts[what] >= most:
            return False
        self._counts[what] += 1
        return True

    def give_back(self, what: Count) -> None:
        """See `Shared`."""
        assert self._counts[what] > 0, "nothing is given back that was not taken"
        self._counts[what] -= 1

    def tell(self, what: Count, number: int) -> None:
        """See `Shared`."""
        self._counts[what] = number

    def total(self, what: Count) -> int:
        """See `Shared`."""
        return self._counts[what]

    def of(self, what: Count, index: int) -> int:
        """See `Shared`."""
        return self._counts[what]

    def keep_secret(self, digest: bytes, text: bytes, most: int, expires_at: float, now: float) -> bool:
        """See `Shared`."""
        self._secrets = {name: kept for name, kept in self._secrets.items() if kept[0] > now}
        if len(self._secrets) >= most:
            return False
        self._secrets[digest] = (expires_at, text)
        return True

    def take_secret(self, digest: bytes, now: float) -> bytes | None:
        """See `Shared`."""
        expires_at, text = self._secrets.pop(digest, (now, b""))
        return text if expires_at > now else None

    def secrets_expire_at(self, now: float) -> list[float]:
        """See `Shared`."""
        return sorted(expires_at for expires_at, _ in self._secrets.values() if expires_at > now)

    def relay_path(self, index: int) -> Path:
        """See `Shared`."""
        raise LookupError("a single process has no others")


class SharedFolder:
    """See `Shared`. Several processes of one machine, by way of a folder that is nobody else's.

    In it: the counters, one row of int64 for each process, which alone writes it; a folder for each process with an empty file for each
    name that it holds; one file for each unused secret, whose name says when it expires.
    """

    def __init__(self, folder: Path, index: int, count: int) -> None:
        """`folder`: as `create` made it for as many. Who only asks, and takes nothing, may be of any index. Raises OSError."""
        assert 0 <= index < count, "a process is one of them"
        self.index = index
        self.count = count
        self._folder = folder
        self._held = [str(folder / _NAMES / str(each)) for each in range(count)]  # text: a session pays for each look
        self._secrets = folder / _SECRETS
        # Locks of a file that was opened, not of the process: closing another that leads to the same file does not give them up.
        self._counting = _opened(self, folder / _COUNTERS, os.O_RDWR)
        self._listing = _opened(self, self._secrets, os.O_RDONLY)
        self._slots = memoryview(mmap.mmap(self._counting, count * len(Count) * _SLOT_BYTES)).cast("q")

    @staticmethod
    def create(folder: Path, count: int) -> None:
        """Lay it out for so many processes, before the first of them begins. `folder`: exists and is empty. Raises OSError."""
        with (folder / _COUNTERS).open("xb") as counters:
            counters.write(bytes(count * len(Count) * _SLOT_BYTES))
        (folder / _SECRETS).mkdir()
        (folder / _NAMES).mkdir()
        for index in range(count):
            (folder / _NAMES / str(index)).mkdir()

    @staticmethod
    def clear(folder: Path, index: int) -> None:
        """Forget what a process held that has died. Its secrets stay: another process redeems them. Raises OSError."""
        held = folder / _NAMES / str(index)
        gone = held.with_name(f"{index}-gone")
        held.rename(gone)  # at once: nobody is sent to it any more
        held.mkdir()
        shutil.rmtree(gone)
        row = len(Count) * _SLOT_BYTES
        with (folder / _COUNTERS).open("r+b", buffering=0) as counters, _locked(counters.fileno()):
            counters.seek(index * row)
            counters.write(bytes(row))
        (folder / _socket_name(index)).unlink(missing_ok=True)

    def register(self, name: str) -> None:
        """See `Shared`. Raises OSError."""
        os.close(
            os.open(f"{self._held[self.index]}/{_file_name(name)}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        )

    def release(self, name: str) -> None:
        """See `Shared`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._held[self.index]}/{_file_name(name)}")

    def holder(self, name: str) -> int | None:
        """See `Shared`."""
        file = _file_name(name)
        return next((index for index, held in enumerate(self._held) if os.path.exists(f"{held}/{file}")), None)

    def place_of_room(self, name: str) -> int:
        """See `Shared`."""
        holder = self.holder(name)
        return holder if holder is not None else zlib.crc32(name.encode("utf-8", "surrogateescape")) % self.count

    def take(self, what: Count, most: int) -> bool:
        """See `Shared`."""
        with _locked(self._counting):
            if self.total(what) >= most:
                return False
            self._slots[self._slot(what, self.index)] += 1
        return True

    def give_back(self, what: Count) -> None:
        """See `Shared`."""
        slot = self._slot(what, self.index)
        assert self._slots[slot] > 0, "nothing is given back that was not taken"
        # Without a lock: nobody else writes it, and who reads the old value only refuses once too often.
        self._slots[slot] -= 1

    def tell(self, what: Count, number: int) -> None:
        """See `Shared`."""
        self._slots[self._slot(what, self.index)] = number

    def total(self, what: Count) -> int:
        """See `Shared`."""
        return sum(self._slots[what.value :: len(Count)])

    def of(self, what: Count, index: int) -> int:
        """See `Shared`."""
        return self._slots[self._slot(what, index)]

    def keep_secret(self, digest: bytes, text: bytes, most: int, expires_at: float, now: float) -> bool:
        """See `Shared`. Raises OSError."""
        with _locked(self._listing):
            unused = 0
            for file in os.listdir(self._secrets):
                if _expiry(file) > now:
                    unused += 1
                else:
                    _unlinked(self._secrets / file)
            if unused >= most:
                return False
            # Nobody looks for it before its secret is handed out, which is after this.
            path = self._secrets / f"{digest.hex()}-{round(expires_at * _NANOSECONDS)}"
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as kept:
                kept.write(text)
        return True

    def take_secret(self, digest: bytes, now: float) -> bytes | None:
        """See `Shared`. Raises OSError."""
        start = f"{digest.hex()}-"
        file = next((each for each in os.listdir(self._secrets) if each.startswith(start)), None)
        if file is None:
            return None
        path = self._secrets / file
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        # Whose call removes the file has it; it was read before, since after that it is gone.
        return text if _unlinked(path) and _expiry(file) > now else None

    def secrets_expire_at(self, now: float) -> list[float]:
        """See `Shared`."""
        return sorted(expires_at for file in os.listdir(self._secrets) if (expires_at := _expiry(file)) > now)

    def relay_path(self, index: int) -> Path:
        """See `Shared`."""
        return self._folder / _socket_name(index)

    @staticmethod
    def _slot(what: Count, index: int) -> int:
        return index * len(Count) + what.value


def _opened(owner: object, path: Path, flags: int) -> int:
    """A descriptor that is closed with its owner."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Nobody else has the lock meanwhile; who dies gives it up."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _unlinked(path: Path) -> bool:
    """Whether it was this call that removed it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _expiry(file: str) -> float:
    return int(file.rpartition("-")[2]) / _NANOSECONDS


def _file_name(name: str) -> str:
    """Any text is a name; not any is a file's."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def _socket_name(index: int) -> str:
    return f"{index}.sock"
