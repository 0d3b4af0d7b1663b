from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from msgspec.structs import replace
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tuning.config_text import EditError, edited, printed, top_fields
from tuning.setting import Setting, present

from gateway.settings import CHECKOUT

REPOSITORY = CHECKOUT / "model_repository"
CONFIGS = sorted(REPOSITORY.glob("*/**/*.pbtxt"))
BATCHED = [path for path in CONFIGS if "dynamic_batching" in path.read_text()]
DETECTOR = (REPOSITORY / "nanodet-g-416" / "config.pbtxt").read_text()


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_same_setting_leaves_every_byte(path: Path) -> None:
    text = path.read_text()
    assert edited(text, present(text_format.Parse(text, ModelConfig()))) == text


@pytest.mark.parametrize("path", BATCHED, ids=name_of)
def test_another_setting_changes_its_own_lines_alone(path: Path) -> None:
    text = path.read_text()
    before = present(text_format.Parse(text, ModelConfig()))
    wanted = replace(before, instances=before.instances + 1, delay_us=700)
    after = edited(text, wanted)
    assert present(text_format.Parse(after, ModelConfig())) == wanted
    touched = ("dynamic_batching", "instance_group")
    for field in top_fields(text):
        if field.name not in touched:
            assert text[field.start : field.end] in after
    order = [field.name for field in top_fields(text)]
    assert [field.name for field in top_fields(after)] == order


def test_a_setting_is_written_as_the_house_writes_it() -> None:
    wanted = Setting(instances=2, streams=4, max_batch=16, delay_us=500)
    lines = set(edited(DETECTOR, wanted).splitlines()) - set(DETECTOR.splitlines())
    batching = "max_queue_delay_microseconds: 500 priority_levels: 3 default_priority_level: 2"
    assert lines == {
        "max_batch_size: 16",
        f"dynamic_batching {{ {batching} }}",
        "instance_group [ { kind: KIND_CPU count: 2 } ]",
        'parameters { key: "streams" value { string_value: "4" } }',
    }


def test_comments_and_brackets_in_strings_stay() -> None:
    text = (
        "# why { this is so\n"
        'name: "a}b"  # odd\n'
        'backend: "openvino"\n'
        "max_batch_size: 8 # of all\n"
        "instance_group { count: 1 } # one\n"
        "parameters: {\n  key: 'streams'\n  value: { string_value: '1' }\n}\n"
    )
    wanted = Setting(instances=1, streams=2, max_batch=4, delay_us=0)
    after = edited(text, wanted)
    assert after.startswith('# why { this is so\nname: "a}b"  # odd\n')
    assert "max_batch_size: 4 # of all\ninstance_group { count: 1 } # one\n" in after
    assert present(text_format.Parse(after, ModelConfig())) == wanted


def test_a_field_that_was_missing_comes_last() -> None:
    after = edited(
        'backend: "openvino"\nmax_batch_size: 8\n',
        Setting(instances=1, streams=2, max_batch=8, delay_us=0),
    )
    assert after.endswith('parameters { key: "streams" value { string_value: "2" } }\n')


def test_preferred_batches_beyond_the_largest_go() -> None:
    text = (
        'name: "m"\nplatform: "tensorrt_plan"\nmax_batch_size: 32\n'
        "dynamic_batching { preferred_batch_size: [ 8, 16, 32 ] }\n"
    )
    after = edited(text, Setting(instances=1, streams=0, max_batch=16, delay_us=0))
    assert "dynamic_batching { preferred_batch_size: [ 8, 16 ] }" in after


def test_a_long_field_stands_on_lines_of_its_own() -> None:
    config = ModelConfig()
    batching = config.dynamic_batching
    batching.preferred_batch_size.extend([8, 16, 32])
    batching.max_queue_delay_microseconds = 2000
    batching.preserve_ordering = True
    batching.priority_levels = 3
    batching.default_priority_level = 2
    assert printed(config, "dynamic_batching") == (
        "dynamic_batching {\n"
        "  preferred_batch_size: [ 8, 16, 32 ]\n"
        "  max_queue_delay_microseconds: 2000\n"
        "  preserve_ordering: true\n"
        "  priority_levels: 3\n"
        "  default_priority_level: 2\n"
        "}"
    )


def test_what_cannot_be_edited_safely_is_refused() -> None:
    scattered = 'backend: "openvino"\ninstance_group { count: 1 }\ninstance_group { count: 1 }\n'
    with pytest.raises(EditError, match="cannot be edited safely"):
        edited(scattered, Setting(instances=4, streams=1, max_batch=0, delay_us=0))
