"""One suite over a repository in a folder and in a real S3: what `ModelRepository` promises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from functions._kit.errors import Conflict, NotFound, Unprocessable
from functions._kit.messages import new_id
from gateway.adapters.objects import S3Address, open_objects
from gateway.embedded import RunningS3
from gateway.models.config import admitted_versions, parse_config
from gateway.models.files import PARTIAL, Content, Files
from gateway.models.folder import FolderFiles
from gateway.models.repository import ModelRepository
from gateway.models.s3 import S3Files
from gateway.models.source import Source, read_folder

CONFIG = """\
# mine
name: "mine"
backend: "openvino"
parameters { key: "scale" value { string_value: "2" } }
version_policy { latest { num_versions: 1 } }  # and more
max_batch_size: 8
"""
GPU = 'name: "mine"\nplatform: "tensorrt_plan"\n'


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest) -> S3Address | None:
    """Where the real S3 is; None for a folder. Not async: it may start the server."""
    if request.param == "folder":
        return None
    running: RunningS3 = request.getfixturevalue("s3")
    return S3Address(
        endpoint=running.endpoint,
        access_key=running.access_key,
        secret_key=running.secret_key,
        bucket=running.bucket,
    )


@pytest_asyncio.fixture
async def files(address: S3Address | None, tmp_path: Path) -> AsyncIterator[Files]:
    if address is None:
        (tmp_path / "repository").mkdir()
        yield FolderFiles(tmp_path / "repository")
        return
    async with open_objects(address) as objects:
        yield S3Files(objects, f"models/{new_id()}")


@pytest.fixture
def repository(files: Files) -> ModelRepository:
    return ModelRepository(files)


def version(content: bytes = b"weights", **more: bytes) -> Source:
    """A version's files without a config."""
    return Source("a test", {"model.onnx": content} | dict(more))


def model(content: bytes = b"weights", config: str = CONFIG) -> Source:
    """A whole model."""
    return Source(
        "a test",
        {"model.onnx": content, "deep/er/vocabulary.txt": b"words"},
        {"config.pbtxt": config, "configs/tensorrt.pbtxt": GPU},
        {"labels.txt": b"cup\n"},
    )


async def test_a_model_and_its_next_versions(repository: ModelRepository) -> None:
    assert await repository.models() == []
    assert await repository.add_version("mine", model()) == "1"
    assert await repository.add_version("mine", version(b"better")) == "2"
    assert await repository.models() == ["mine"]
    assert await repository.versions("mine") == ["1", "2"]
    assert await repository.admitted("mine") == ["1"]
    files = await repository.files("mine", "2")
    record = files.pop("2/version.json")
    assert files == {"2/model.onnx": b"better", "labels.txt": b"cup\n"}
    assert (await repository.verify("mine", "2")).encode() in record
    assert set(await repository.files("mine", "1")) == {
        *("1/model.onnx", "1/deep/er/vocabulary.txt", "1/version.json", "labels.txt")
    }


async def test_versions_are_in_the_order_of_their_numbers(repository: ModelRepository) -> None:
    await repository.add_version("mine", model(b"0"))
    for number in range(1, 11):
        await repository.add_version("mine", version(b"%d" % number))
    assert await repository.versions("mine") == [str(number) for number in range(1, 12)]


async def test_a_new_model_gets_the_name_and_the_policy_it_is_added_with(
    repository: ModelRepository,
) -> None:
    await repository.add_version("yours", model())
    policy = "version_policy { specific { versions: [ 1 ] } }"
    expected = CONFIG.replace('"mine"', '"yours"').replace(
        "version_policy { latest { num_versions: 1 } }", policy
    )
    assert await repository.config("yours") == expected
    assert await repository.config("yours", "absent") == expected
    gpu = await repository.config("yours", "tensorrt")
    assert gpu == GPU.replace('"mine"', '"yours"') + policy + "\n"


async def test_admitting_and_withdrawing_change_the_policy_alone(
    repository: ModelRepository,
) -> None:
    await repository.add_version("mine", model())
    before = {name: await repository.config("mine", name) for name in ("", "tensorrt")}
    await repository.add_version("mine", version(b"2"))
    await repository.admit("mine", "2")
    await repository.admit("mine", "2")
    assert await repository.admitted("mine") == ["1", "2"]
    for name, text in before.items():
        changed = await repository.config("mine", name)
        assert changed == text.replace("[ 1 ]", "[ 1, 2 ]")
    await repository.withdraw("mine", "1")
    await repository.withdraw("mine", "1")
    assert await repository.admitted("mine") == ["2"]
    with pytest.raises(Conflict, match="the only one") as caught:
        await repository.withdraw("mine", "2")
    assert caught.value.code == "version_needed"
    with pytest.raises(NotFound, match="no version '3'; there are: 1, 2"):
        await repository.admit("mine", "3")


async def test_the_same_content_again_is_refused_and_named(repository: ModelRepository) -> None:
    await repository.add_version("mine", model())
    await repository.add_version("mine", version(b"2"))
    golden = {"model.onnx": b"2", "golden.npz": b"answers"}
    for same in (version(b"2"), Source("a test", golden)):
        with pytest.raises(Conflict, match="version 2 of mine is") as caught:
            await repository.add_version("mine", same)
        assert caught.value.code == "version_exists"
    assert await repository.versions("mine") == ["1", "2"]


async def test_a_changed_version_is_noticed(repository: ModelRepository, files: Files) -> None:
    await repository.add_version("mine", model())
    await repository.add_version("mine", version(b"2"))
    digest = await repository.verify("mine", "1")
    await repository.admit("mine", "2")
    assert await repository.verify("mine", "1") == digest
    await files.write("mine/1/model.onnx", b"other weights")
    with pytest.raises(Conflict, match=r"Version 1 of mine is not what was added at 20") as caught:
        await repository.verify("mine", "1")
    assert caught.value.code == "version_changed"
    assert await repository.verify("mine", "2")
    text = await repository.config("mine")
    await files.write("mine/config.pbtxt", text.replace("size: 8", "size: 4").encode())
    with pytest.raises(Conflict, match="Version 2"):
        await repository.verify("mine", "2")


async def test_a_version_of_other_hands_is_sealed_once(
    repository: ModelRepository, files: Files
) -> None:
    await files.put("mine/1", {"model.onnx": b"weights"})
    await files.write("mine/config.pbtxt", CONFIG.encode())
    assert await repository.record("mine", "1") is None
    digest = await repository.seal("mine", "1")
    record = await repository.record("mine", "1")
    assert record is not None
    assert (record.sha256, record.source) == (digest, "found in the repository")
    assert await repository.seal("mine", "1") == digest
    await files.write("mine/1/model.onnx", b"other weights")
    with pytest.raises(Conflict, match="Version 1 of mine"):
        await repository.seal("mine", "1")


async def test_a_number_never_comes_again(repository: ModelRepository) -> None:
    await repository.add_version("mine", model())
    await repository.add_version("mine", version(b"2"))
    await repository.remove_version("mine", "2")
    assert await repository.add_version("mine", version(b"3")) == "3"
    await repository.admit("mine", "3")
    await repository.remove_version("mine", "1")
    assert await repository.admitted("mine") == ["3"]
    await repository.remove_version("mine", "3")
    assert await repository.models() == []
    with pytest.raises(NotFound, match="no model 'mine'"):
        await repository.versions("mine")
    assert await repository.add_version("mine", model()) == "4"
    assert await repository.admitted("mine") == ["4"]
    await repository.remove_model("mine")
    assert await repository.add_version("mine", model()) == "5"


async def test_the_only_served_version_stays(repository: ModelRepository) -> None:
    await repository.add_version("mine", model())
    await repository.add_version("mine", version(b"2"))
    with pytest.raises(Conflict, match="admit another one first"):
        await repository.remove_version("mine", "1")
    with pytest.raises(NotFound, match="no version '7'"):
        await repository.remove_version("mine", "7")
    assert await repository.versions("mine") == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("size: 8", "size: 4"), "config.pbtxt .*: max_batch_size differ"),
        (('"2"', '"4"'), r"config.pbtxt .*: parameters\.scale differ"),
        (('"scale"', '"halo"'), r"parameters\.halo, parameters\.scale differ"),
    ],
)
async def test_a_version_with_another_config_is_refused_with_its_fields(
    repository: ModelRepository, change: tuple[str, str], reason: str
) -> None:
    await repository.add_version("mine", model())
    with pytest.raises(Conflict, match=reason) as caught:
        await repository.add_version("mine", model(b"2", CONFIG.replace(*change)))
    assert caught.value.code == "config_differs"
    assert "--name" in caught.value.message
    other_words = CONFIG.replace("# mine\n", "").replace('name: "mine"', 'name: "yours"')
    assert await repository.add_version("mine", model(b"2", other_words)) == "2"


async def test_what_lies_beside_the_config_is_shared_too(repository: ModelRepository) -> None:
    await repository.add_version("mine", model())
    for name, content in (("labels.txt", b"mug\n"), ("LICENSE", b"MIT")):
        source = Source("a test", {"model.onnx": b"2"}, beside={name: content})
        with pytest.raises(Conflict, match=name):
            await repository.add_version("mine", source)


async def test_a_generated_config_leaves_the_tuning_of_the_model_alone(
    repository: ModelRepository,
) -> None:
    tuned = (
        CONFIG
        + 'parameters { key: "streams" value { string_value: "2" } }\n'
        + 'parameters { key: "halo" value { string_value: "16" } }\n'
        + "instance_group [ { count: 3 } ]\n"
    )
    await repository.add_version("mine", model(config=tuned))
    before = await repository.config("mine")

    def generated(halo: str) -> Source:
        config = tuned.replace('"16"', f'"{halo}"').replace("count: 3", "count: 1")
        config = config.replace('"streams" value', '"precision" value')
        configs = {"config.pbtxt": config}
        return Source("a test", {"model.onnx": halo.encode()}, configs, generated=True)

    assert await repository.add_version("mine", generated(halo="12")) == "2"
    with pytest.raises(Conflict, match=r": parameters\.halo differ"):
        await repository.add_version("mine", generated(halo="20"))
    assert await repository.config("mine") == before


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "ü", "a" * 65])
async def test_a_name_that_no_model_may_have(repository: ModelRepository, name: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        await repository.add_version(name, model())
    assert caught.value.code == "model_name_invalid"
    with pytest.raises(NotFound):
        await repository.versions(name)


async def test_a_version_without_a_model_is_refused(repository: ModelRepository) -> None:
    with pytest.raises(Unprocessable, match=r"no model mine, and a test has no config\.pbtxt"):
        await repository.add_version("mine", version())


async def test_a_config_that_does_not_parse_is_refused_with_the_place(
    repository: ModelRepository,
) -> None:
    with pytest.raises(Unprocessable, match=r'3:1 : .*no field named "inputt"') as caught:
        await repository.add_version("mine", model(config='name: "mine"\n\ninputt [ ]\n'))
    assert caught.value.code == "config_invalid"
    assert await repository.models() == []


class Crash(BaseException):
    """The process dies here."""


async def put_half(files: Files, folder: str, content: Content) -> None:
    """Die before the last file is written."""

    class Dying(dict[str, Path | bytes]):
        def items(self) -> Any:
            *first, _last = super().items()
            yield from first
            raise Crash

    with pytest.raises(Crash):
        await files.put(folder, Dying(content))


async def test_a_crash_leaves_nothing_that_anyone_takes_for_whole(
    repository: ModelRepository, files: Files
) -> None:
    parts = {"1/model.onnx": b"weights", "1/version.json": b"{}", "config.pbtxt": CONFIG.encode()}
    await put_half(files, "mine", parts)
    assert await repository.models() == []
    assert await repository.add_version("mine", model()) in ("1", "2")
    (first,) = await repository.versions("mine")
    await put_half(files, f"mine/{int(first) + 1}", {"model.onnx": b"2", "version.json": b"{}"})
    assert await repository.versions("mine") == [first]
    second = await repository.add_version("mine", version(b"2"))
    assert await repository.versions("mine") == [first, second]
    assert not [path for path in await files.paths() if path.startswith(PARTIAL)]


async def test_a_half_uploaded_version_can_be_removed(
    repository: ModelRepository, files: Files
) -> None:
    await repository.add_version("mine", model())
    await files.write("mine/2/model.onnx", b"2")
    await files.write(f"mine/2/{PARTIAL}", b"")
    assert await repository.versions("mine") == ["1"]
    await repository.remove_version("mine", "2")
    assert not [path for path in await files.paths() if path.startswith("mine/2/")]
    assert await repository.add_version("mine", version(b"3")) == "3"


async def test_notes_alone_are_no_version(repository: ModelRepository, files: Files) -> None:
    """As in a checkout whose models are not built."""
    await files.put("mine", {"1/golden.npz": b"answers", "config.pbtxt": CONFIG.encode()})
    assert await repository.versions("mine") == []


async def test_an_empty_repository_gets_a_file_and_no_other(
    repository: ModelRepository, files: Files
) -> None:
    await repository.ensure()
    await repository.ensure()
    assert await files.paths() == ["removed.json"]
    assert await repository.models() == []


async def test_nothing_stays_beside_the_models(tmp_path: Path) -> None:
    """Triton lists every folder as a model."""
    files = FolderFiles(tmp_path)
    await asyncio.gather(*(files.write(f"mine/{number}/a", b"") for number in range(30)))
    await files.put("yours/1", {"a": b""})
    await files.remove("mine")
    await files.remove("absent")
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["yours"]


async def test_two_who_add_at_once_do_not_mix(files: Files) -> None:
    await files.put("mine/1", {"model.onnx": b"1"})
    with pytest.raises(Conflict) as caught:
        await files.put("mine/1", {"model.onnx": b"2"})
    assert caught.value.code == "folder_exists"
    assert await files.read("mine/1/model.onnx") == b"1"


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ["12"]),
        ("version_policy: { latest { num_versions: 2 } }", ["2", "12"]),
        ("version_policy < all < > >", ["1", "2", "12"]),
        ("version_policy { specific { versions: 1 versions: 2 versions: 99 } }", ["1", "2"]),
    ],
)
def test_a_policy_is_read_as_triton_reads_it(policy: str, versions: list[str]) -> None:
    assert admitted_versions(parse_config(policy), ["1", "2", "12"]) == versions


def test_a_models_folder_is_read_with_its_newest_version(tmp_path: Path) -> None:
    for number in ("2", "10", "configs", ".hidden"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "model.onnx").write_bytes(number.encode())
    (tmp_path / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "configs" / "tensorrt.pbtxt").write_text(GPU)
    (tmp_path / "labels.txt").write_text("cup\n")
    source = read_folder(tmp_path)
    assert source.files == {"model.onnx": tmp_path / "10" / "model.onnx"}
    assert source.configs == {"config.pbtxt": CONFIG, "configs/tensorrt.pbtxt": GPU}
    assert source.beside == {"labels.txt": tmp_path / "labels.txt"}
    assert read_folder(tmp_path / "2").files == {"model.onnx": tmp_path / "2" / "model.onnx"}
    for empty in ("2", "10"):
        (tmp_path / empty / "model.onnx").unlink()
    with pytest.raises(Unprocessable, match="holds no file of a model"):
        read_folder(tmp_path)
