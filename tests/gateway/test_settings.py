"""Settings: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import RUNNING, SettingsError, load


def test_variables_win_over_the_file_and_options_over_both(tmp_path: Path) -> None:
    file = tmp_path / "nereid.toml"
    file.write_text('port = 1\nhost = "a"\nlog_level = "debug"\n')
    environ = {"NEREID_CONFIG": str(file), "NEREID_PORT": "2", "NEREID_HOST": "b"}
    settings = load(environ, data=tmp_path, host="c")
    assert (settings.port, settings.host, settings.log_level) == (2, "c", "debug")


def test_an_unknown_name_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"NEREID_NATS_ULR; did you mean NEREID_NATS_URL\?"):
        load({"NEREID_NATS_ULR": "x"})
    file = tmp_path / "nereid.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"prot in .*nereid\.toml; did you mean"):
        load({"NEREID_CONFIG": str(file)})


def test_names_of_the_audio_service_that_nereid_replaces_are_taken(tmp_path: Path) -> None:
    environ = {
        "MAX_CONCURRENT_AUDIO_CONVERSIONS": "50",
        "AUDIO_CONVERTER_WORKERS": "8",
        "MAX_UPLOAD_SIZE": "1000",
    }
    settings = load(environ, data=tmp_path)
    assert settings.max_concurrent_audio_conversions == 50
    assert settings.audio_converter_workers == 8
    assert settings.max_upload_bytes == 1000
    with pytest.raises(SettingsError, match="audio_converter_workers"):
        load({"AUDIO_CONVERTER_WORKERS": "many"}, data=tmp_path)


def test_a_settings_own_name_wins_over_its_other_names(tmp_path: Path) -> None:
    environ = {
        "NEREID_MAX_UPLOAD_BYTES": "1",
        "NEREID_MAX_UPLOAD_SIZE": "2",
        "MAX_UPLOAD_SIZE": "3",
        "AUDIO_CONVERTER_WORKERS": "4",
        "NEREID_AUDIO_CONVERTER_WORKERS": "5",
    }
    settings = load(environ, data=tmp_path)
    assert (settings.max_upload_bytes, settings.audio_converter_workers) == (1, 5)
    del environ["NEREID_MAX_UPLOAD_BYTES"]
    assert load(environ, data=tmp_path).max_upload_bytes == 2
    file = tmp_path / "nereid.toml"
    file.write_text("max_upload_bytes = 6\nmax_upload_size = 7\n")
    assert load({"NEREID_CONFIG": str(file)}, data=tmp_path).max_upload_bytes == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("PORT", "x"), ("TOKEN_SECRET", "short"), ("MAX_PIXELS", "0")],
)
def test_a_value_that_does_not_fit_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name.lower()):
        load({f"NEREID_{name}": value})


def test_a_missing_file_is_one_clear_sentence() -> None:
    with pytest.raises(SettingsError, match="NEREID_CONFIG=/nowhere"):
        load({"NEREID_CONFIG": "/nowhere"})


def test_addresses_of_a_running_system_are_found_and_never_win(tmp_path: Path) -> None:
    (tmp_path / RUNNING).write_text('{"nats_url": "found", "triton_url": "found"}')
    settings = load({"NEREID_NATS_URL": "given"}, data=tmp_path)
    assert (settings.nats_url, settings.triton_url) == ("given", "found")


def test_addresses_of_metrics_are_no_settings_of_another_worker(tmp_path: Path) -> None:
    told = '{"nats_url": "found", "worker_metrics_url": "http://127.0.0.1:9100/metrics"}'
    (tmp_path / RUNNING).write_text(told)
    settings = load({}, data=tmp_path)
    assert (settings.nats_url, settings.metrics_port) == ("found", 0)
