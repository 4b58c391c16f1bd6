from __future__ import annotations

import asyncio
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from realtime.scripted import ScriptedEngine
from realtime.settings import Settings, SettingsError, read_settings
from realtime.tls import Certificate, certificate
from tests.realtime.sockets import PLAINLY, serving

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


def own(folder: Path, host: str = "127.0.0.1") -> Certificate:
    found = certificate(Settings(tls_self_signed=True, tls_dir=folder, host=host))
    assert found is not None
    return found


async def greeting(url: str, trust: ssl.SSLContext) -> str:
    """What a server says first. Not with websockets' threads, which read and write one TLS connection at once: OpenSSL forbids it."""
    async with asyncio.timeout(10), connect(url, ssl=trust, **PLAINLY) as socket:
        return str(await socket.recv())


def test_without_a_word_about_it_there_is_no_tls() -> None:
    assert certificate(Settings()) is None


@needs_openssl
def test_a_client_that_trusts_the_server_s_own_certificate_speaks_over_tls(tmp_path: Path) -> None:
    settings = Settings(port=0, tls_self_signed=True, tls_dir=tmp_path / "tls")
    with serving(ScriptedEngine(), settings) as url:
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=tmp_path / "tls" / "cert.pem")
        trust.verify_flags |= ssl.VERIFY_X509_STRICT  # as from Python 3.13 on
        assert httpx.get(url + "/health/ready", verify=trust, trust_env=False).status_code == 200
        assert httpx.get(url.replace("127.0.0.1", "localhost") + "/health/live", verify=trust).status_code == 200
        assert "session.created" in asyncio.run(greeting(url.replace("https", "wss") + "/v1/live", trust))
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/health/live", trust_env=False)


@needs_openssl
def test_a_certificate_is_kept_as_long_as_it_does(tmp_path: Path) -> None:
    first = own(tmp_path).cert.read_bytes()
    assert own(tmp_path).cert.read_bytes() == first, "clients that were told to trust it go on"
    assert own(tmp_path, "voice.example").cert.read_bytes() != first, "it lacks a name"


@needs_openssl
def test_half_of_a_certificate_is_made_anew(tmp_path: Path) -> None:
    found = own(tmp_path)
    other = own(tmp_path / "other")
    half = found.cert.read_bytes()
    shutil.copy(other.key, found.key)
    own(tmp_path)
    assert found.cert.read_bytes() != half
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.cert, found.key)


@needs_openssl
def test_nobody_else_may_read_the_private_key(tmp_path: Path) -> None:
    found = own(tmp_path / "tls")
    assert stat.S_IMODE(found.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.key.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in found.key.parent.iterdir()) == ["cert.pem", "key.pem"]


@needs_openssl
def test_an_encrypted_key_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    found = own(tmp_path)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", found.key, "-aes128", "-passout", "pass:secret", "-out", locked], check=True
    )
    with pytest.raises(SettingsError, match="is encrypted"):
        certificate(Settings(tls_cert=found.cert, tls_key=locked))


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    missing, wrong = tmp_path / "missing.pem", tmp_path / "wrong.pem"
    wrong.write_text("hello")
    with pytest.raises(SettingsError, match=r"tls_cert: .*No such file"):
        certificate(Settings(tls_cert=missing, tls_key=missing))
    with pytest.raises(SettingsError, match=r"tls_cert: .*wrong\.pem"):
        certificate(Settings(tls_cert=wrong, tls_key=wrong))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tls_cert": "a.pem"}, "tls_cert and tls_key go together"),
        ({"tls_key": "a.pem"}, "tls_cert and tls_key go together"),
        ({"tls_cert": "a.pem", "tls_key": "b.pem", "tls_self_signed": True}, "say one of them"),
    ],
)
def test_one_certificate_is_named(given: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        read_settings({}, given)


def test_the_server_s_own_certificate_is_kept_with_its_data() -> None:
    assert read_settings({"XDG_DATA_HOME": "/data"}, {}).tls_dir == Path("/data/parley/tls")
    with pytest.raises(SettingsError, match="PARLEY_TLS_DIR"):
        certificate(Settings(tls_self_signed=True))
