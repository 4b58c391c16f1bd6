"""The certificate that the server shows: the operator's, or one that it makes for itself and keeps.

Knows files, names and the `openssl` command. Does not know connections. A certificate of its own is trusted by who is told to: its clients
need SSL_CERT_FILE, or whatever their language calls it. It is for SDKs that speak to nothing but wss, on a machine or in a network of one's
own; on the internet, use one that others vouch for.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtime.settings import Settings, SettingsError

log = logging.getLogger("parley.tls")

DAYS: Final = 825  # as long as Apple's clients take one for
RENEW_S: Final = 30 * 86_400  # one that is not valid for so long any more is made anew
OPENSSL_S: Final = 20.0  # for what takes it some 20 ms
_ANYWHERE: Final = ("", "0.0.0.0", "::")  # addresses that nobody calls a server by
_REQUEST: Final = """[req]
distinguished_name = subject
x509_extensions = own
prompt = no
[subject]
CN = Parley
[own]
subjectAltName = {names}
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    cert: Path  # the chain, the server's own first
    key: Path  # private, not encrypted


def certificate(settings: Settings) -> Certificate | None:
    """As the settings say; None: no TLS. Raises SettingsError for one that cannot be used, or made."""
    if settings.tls_self_signed:
        if settings.tls_dir is None:
            raise SettingsError("tls_self_signed: there is no folder to keep a certificate in; set PARLEY_TLS_DIR")
        found = _own(settings.tls_dir, _names(settings.host))
    elif settings.tls_cert is not None and settings.tls_key is not None:
        found = Certificate(settings.tls_cert, settings.tls_key)
    else:
        return None
    _check(found)
    return found


def _check(found: Certificate) -> None:
    def no_password() -> str:
        raise SettingsError(f"tls_key: {found.key} is encrypted; decrypt it with `openssl pkey`")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.cert, found.key, no_password)
    except ssl.SSLError as error:
        raise SettingsError(f"tls_cert: {found.cert} with {found.key}: {error.reason or error}") from error
    except OSError as error:
        raise SettingsError(f"tls_cert: {found.cert} with {found.key}: {error.strerror or error}") from error


def _names(host: str) -> Sequence[str]:
    """What clients may call this server."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), host.strip("[]")]
    return [name for name in dict.fromkeys(names) if name not in _ANYWHERE]


def _own(folder: Path, names: Sequence[str]) -> Certificate:
    """The one that is kept there, or a new one if it does not do any more. Raises SettingsError."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise SettingsError(
            "tls_self_signed: needs the openssl command (apt-get install openssl, brew install openssl)"
        )
    kept = Certificate(folder / "cert.pem", folder / "key.pem")
    if not _serves(openssl, kept, names):
        try:
            _make(openssl, kept, names)
        except OSError as error:
            raise SettingsError(f"tls_self_signed: {folder} cannot be written: {error.strerror}") from error
    log.info("clients trust this server's own certificate with SSL_CERT_FILE=%s", kept.cert)
    return kept


def _serves(openssl: str, kept: Certificate, names: Sequence[str]) -> bool:
    """Whether it is valid for a while, and for all these names."""
    try:
        _check(kept)
    except SettingsError:  # there is none, or half of one
        return False
    looked_at = [openssl, "x509", "-noout", "-in", str(kept.cert)]
    if _run([*looked_at, "-checkend", str(RENEW_S)]).returncode != 0:
        return False
    answers = [_run([*looked_at, "-checkip" if _is_address(name) else "-checkhost", name]) for name in names]
    return all("does match" in answer.stdout for answer in answers)


def _make(openssl: str, kept: Certificate, names: Sequence[str]) -> None:
    kept.cert.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.cert.parent) as there:  # only the owner may look into it
        request, cert, key = (Path(there, name) for name in ("request", "cert.pem", "key.pem"))
        listed = ",".join(f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names)
        request.write_text(_REQUEST.format(names=listed), encoding="utf-8")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-config", str(request), "-keyout", str(key), "-out", str(cert)]
        made = _run([openssl, "req", "-x509", "-sha256", "-days", str(DAYS), *curve, *files])
        if made.returncode != 0:
            raise SettingsError(f"tls_self_signed: openssl made no certificate: {made.stderr.strip()[-300:]}")
        key.chmod(0o600)
        os.replace(key, kept.key)
        os.replace(cert, kept.cert)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Raises SettingsError."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=OPENSSL_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"tls_self_signed: {command[0]} cannot be run: {error}") from error


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
