"""Settings: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.main import main
from gateway.models.place import S3Place, place_of
from gateway.settings import RUNNING, Settings, SettingsError, load


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


def test_what_a_killed_system_left_behind_is_not_where_the_next_one_finds_its_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RUNNING).write_text('{"nats_url": "nats://gone", "triton_url": "gone"}')
    started: list[Settings] = []

    async def run_up(settings: Settings) -> None:
        started.append(settings)

    monkeypatch.setattr("gateway.cli.up.run_up", run_up)
    done = CliRunner().invoke(main, ["up", "--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (started[0].nats_url, started[0].triton_url) == (None, None)


def test_the_model_repository_of_a_running_system_is_found_and_never_wins(tmp_path: Path) -> None:
    (tmp_path / RUNNING).write_text('{"model_repository": "s3://models/ours"}')
    assert load({}, data=tmp_path).model_repository == "s3://models/ours"
    given = {"NEREID_MODEL_REPOSITORY": "s3://models/mine"}
    assert load(given, data=tmp_path).model_repository == "s3://models/mine"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("", "it is empty"),
        ("http://host/models", "must be a folder or s3://bucket/prefix"),
        ("s3://", "names the bucket ''"),
        ("s3://Bucket/models", "names the bucket 'Bucket'"),
        ("s3://bucket/a/../b", "'.' or '..' in its prefix"),
    ],
)
def test_a_model_repository_that_cannot_be_one_is_refused(place: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"model_repository: .*{reason}"):
        load({"NEREID_MODEL_REPOSITORY": place})


@pytest.mark.parametrize(
    ("text", "place", "url"),
    [
        ("s3://bucket", S3Place("bucket"), "s3://http://127.0.0.1:9000/bucket"),
        ("s3://bucket/a//b/", S3Place("bucket", "a/b"), "s3://http://127.0.0.1:9000/bucket/a/b"),
        (
            "s3://https://s3.example.org/bucket/a",
            S3Place("bucket", "a", "https://s3.example.org"),
            "s3://https://s3.example.org:443/bucket/a",
        ),
    ],
)
def test_a_model_repository_in_s3_is_known_by_bucket_and_prefix(
    text: str, place: S3Place, url: str
) -> None:
    assert place_of(text) == place
    assert place.url("http://127.0.0.1:9000") == url


def test_addresses_of_metrics_are_no_settings_of_another_worker(tmp_path: Path) -> None:
    told = '{"nats_url": "found", "worker_metrics_url": "http://127.0.0.1:9100/metrics"}'
    (tmp_path / RUNNING).write_text(told)
    settings = load({}, data=tmp_path)
    assert (settings.nats_url, settings.metrics_port) == ("found", 0)


@pytest.mark.parametrize(
    ("repository", "reserved"),
    [
        ("s3://nereid/models", ("models/",)),
        ("s3://nereid/a/b/", ("a/b/",)),
        ("s3://other/models", ()),
        ("s3://http://elsewhere:9000/nereid/models", ()),
        ("s3://http://here:9000/nereid/models", ("models/",)),
        ("model_repository", ()),
    ],
)
def test_models_in_the_bucket_of_files_are_out_of_reach(
    repository: str, reserved: tuple[str, ...]
) -> None:
    settings = Settings(model_repository=repository, s3_endpoint="http://here:9000")
    assert settings.reserved_prefixes == reserved
