from __future__ import annotations

import pytest

from realtime.settings import Settings, SettingsError, check_binding, is_loopback, read_settings

KEY = "a-long-enough-key"


def test_defaults_listen_on_this_machine_alone() -> None:
    settings = read_settings({}, {})
    assert (settings.host, settings.port, settings.model, settings.is_open) == ("127.0.0.1", 8300, "mini", True)


def test_the_command_line_wins_over_the_environment() -> None:
    settings = read_settings({"PARLEY_PORT": "9000", "PARLEY_HOST": "::1", "OTHER": "x"}, {"port": 9001})
    assert (settings.host, settings.port) == ("::1", 9001)


def test_lists_and_limits_come_from_the_environment() -> None:
    settings = read_settings(
        {
            "PARLEY_API_KEY": f"{KEY}, {KEY}-2",
            "PARLEY_ALLOWED_ORIGINS": "https://a.example,https://b.example",
            "PARLEY_LIMITS": '{"queued_turns": 3}',
            "PARLEY_VOICES_DIR": "/voices",
            "PARLEY_INSECURE": "1",
        },
        {},
    )
    assert [key.get_secret_value() for key in settings.keys] == [KEY, f"{KEY}-2"]
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.limits.queued_turns == 3 and settings.insecure
    assert str(settings.voices_dir) == "/voices"


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PARLEY_PORT": "many"}, "port"),
        ({"PARLEY_PORT": "70000"}, "port"),
        ({"PARLEY_API_KEY": "short"}, "at least 8 characters"),
        ({"PARLEY_API_KEY": "schlüssel-zum-glück"}, "ASCII"),
        ({"PARLEY_LIMITS": "{"}, "PARLEY_LIMITS is not JSON"),
        ({"PARLEY_LIMITS": '{"queued_turns": 9}'}, "limits.queued_turns"),
        ({"PARLEY_LIMITS": '{"nothing": 9}'}, "limits.nothing"),
        ({"PARLEY_LOG_LEVEL": "loud"}, "log_level"),
        ({"PARLEY_PUBLIC_URL": "voice.example"}, "public_url"),
        ({"PARLEY_PUBLIC_URL": "https://voice.example/path"}, "public_url"),
        ({"PARLEY_CLIENT_SECRET_S": "0"}, "client_secret_s"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_that_names_it(environ: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as error:
        read_settings(environ, {})
    assert "\n" not in str(error.value)
    assert "short" not in str(error.value)


def test_secrets_are_never_shown() -> None:
    settings = read_settings({"PARLEY_API_KEY": KEY}, {})
    assert KEY not in settings.shown() and KEY not in repr(settings)
    assert '"keys": 1' in settings.shown() and "\n" not in settings.shown()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_an_open_server_may_listen_on_loopback(host: str) -> None:
    assert is_loopback(host)
    check_binding(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "voice.example", "localhost.example"])
def test_an_open_server_does_not_listen_beyond_this_machine_by_accident(host: str) -> None:
    with pytest.raises(SettingsError, match="PARLEY_API_KEY"):
        check_binding(Settings(host=host))
    check_binding(Settings(host=host, insecure=True))
    check_binding(read_settings({"PARLEY_API_KEY": KEY}, {"host": host}))


def test_names_of_other_vendors_voices_come_from_the_environment() -> None:
    settings = read_settings({"PARLEY_VOICE_ALIASES": '{"alloy": "anna"}'}, {})
    assert settings.voice_aliases == {"alloy": "anna"} and read_settings({}, {}).voice_aliases == {}
    with pytest.raises(SettingsError, match="PARLEY_VOICE_ALIASES is not JSON"):
        read_settings({"PARLEY_VOICE_ALIASES": "alloy=anna"}, {})


def test_recordings_elsewhere_are_used_only_where_somebody_said_so() -> None:
    settings = read_settings({}, {})
    assert settings.reference_paths is None and not settings.reference_urls
    allowed = read_settings({"PARLEY_REFERENCE_PATHS": "/srv/voices", "PARLEY_REFERENCE_URLS": "true"}, {})
    assert str(allowed.reference_paths) == "/srv/voices" and allowed.reference_urls
