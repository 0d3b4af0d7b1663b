# The only door: the commands that people and CI run. `python3 scripts/bootstrap.py RECIPE` from anywhere.

set positional-arguments
set shell := ["bash", "-euo", "pipefail", "-c"]

# No folder of the checkout on sys.path: a top-level `triton/` would hide torch's package of that name.
export PYTHONSAFEPATH := "1"

tools := justfile_directory() / ".tools/bin"
venv := justfile_directory() / ".venv/bin"

[private]
default:
    @'{{ tools }}/just' --list --unsorted

# Install what running Nereid takes, and build the models
[group('run')]
[no-exit-message]
setup: (_install "main" "triton") && build-models

# Enlarge a photo with the whole system, on this machine
[group('run')]
[no-exit-message]
demo *ARGS: setup
    @'{{ venv }}/nereid' demo "$@"

# Run the whole system until Ctrl-C
[group('run')]
[no-exit-message]
up *ARGS: setup
    @'{{ venv }}/nereid' up "$@"

# Any other command: just nereid list, just nereid clients add camera-1 ...
[group('run')]
[no-exit-message]
nereid *ARGS: (_install "main")
    @'{{ venv }}/nereid' "$@"

# Turn the published weights into the models that Triton loads
[group('models')]
[no-exit-message]
build-models *ARGS: (_install "main")
    @'{{ venv }}/python' scripts/build_models.py "$@"

# Compute the golden answers of the published models anew
[group('models')]
[no-exit-message]
build-goldens: (_install "dev") build-models
    @'{{ venv }}/python' scripts/build_goldens.py

# Build TensorRT engines on this machine's GPU, in NVIDIA's container (docs/gpu.md): just build-engines realesrgan-x4plus
[group('models')]
[no-exit-message]
build-engines *ARGS: build-models
    @mkdir -p .cache/engines  # else Docker makes it, as root
    @docker compose -f triton/compose.yaml run --build --rm --user "$(id -u):$(id -g)" engines python3 /opt/nereid/scripts/build_engines.py build --repository /models --cache /cache "$@"

# Write configs/tensorrt.pbtxt of the models from their config.pbtxt
[group('models')]
[no-exit-message]
gpu-configs *ARGS: (_install "main")
    @'{{ venv }}/python' scripts/gpu_configs.py "$@"

# Run the tests but those that take minutes, in two processes; or what pytest is told: just test tests/embedded -k restart
[group('develop')]
[no-exit-message]
test *ARGS: (_install "dev" "triton") build-models
    @if (( $# )); then exec '{{ venv }}/pytest' "$@"; else exec '{{ venv }}/pytest' -n 2; fi

# Feed decoders, subjects and the API with bad data for so many minutes: just fuzz 10 --seed 3
[group('develop')]
[no-exit-message]
fuzz *ARGS: (_install "dev")
    @'{{ venv }}/python' scripts/fuzz.py "$@"

# Install what `nereid models add` needs for .pth and .safetensors (PyTorch: several GB)
[group('models')]
[no-exit-message]
install-export: (_install "main")
    @'{{ tools }}/uv' pip install --quiet --python '{{ venv }}/python' --constraint requirements/dev.txt 'torch<2.15' spandrel safetensors onnxruntime

# Run the tests that take minutes, which `test` leaves out
[group('develop')]
[no-exit-message]
test-long *ARGS: (_install "dev" "triton") build-models
    @'{{ venv }}/pytest' -m long "$@"

# Test the conversion of custom checkpoints, with PyTorch
[group('develop')]
[no-exit-message]
test-export *ARGS: (_install "dev" "triton") install-export
    @'{{ venv }}/pytest' -m export "$@"

# Check style and types
[group('develop')]
[no-exit-message]
lint: (_install "dev")
    @'{{ venv }}/ruff' check
    @'{{ venv }}/ruff' format --check
    @'{{ venv }}/mypy'

# Hold the locked dependencies against known vulnerabilities, where that data can be reached
[group('develop')]
[no-exit-message]
audit: (_install "dev")
    @'{{ venv }}/python' scripts/audit.py

# Put the code into its one format
[group('develop')]
[no-exit-message]
format: (_install "dev")
    @'{{ venv }}/ruff' check --fix-only --quiet
    @'{{ venv }}/ruff' format

# Measure: just bench upscale
[group('develop')]
[no-exit-message]
bench *ARGS: (_install "dev" "triton") build-models
    @'{{ venv }}/python' perf/bench.py "$@"

# Send photos to the whole system as many clients do: just load --size small
[group('develop')]
[no-exit-message]
load *ARGS: (_install "dev" "triton") build-models
    @'{{ venv }}/python' perf/load.py "$@"

# Break the whole system at random under load, and look what is lost (docs/chaos.md): just chaos --minutes 3 --seed 7
[group('develop')]
[no-exit-message]
chaos *ARGS: (_install "dev" "triton") build-models
    @'{{ venv }}/python' perf/chaos/run.py "$@"

# Install NVIDIA's perf_analyzer, which `just perf` and `just tune` measure with
[group('develop')]
[no-exit-message]
install-perf: (_install "perf")
    @'{{ tools }}/python' -I scripts/perf_analyzer.py

# Measure what Triton serves against perf/targets.toml: just perf --only detect
[group('develop')]
[no-exit-message]
perf *ARGS: (_install "dev" "triton") build-models
    -@'{{ tools }}/just' install-perf
    @'{{ venv }}/python' perf/rows.py "$@"

# Find a model's best settings on this machine: just tune nanodet-g-416 --limit-ms 200
[group('develop')]
[no-exit-message]
tune *ARGS: (_install "dev" "triton") build-models install-perf
    @'{{ venv }}/python' perf/tune.py "$@"

# Resolve the dependencies of pyproject.toml again, by hash
[group('develop')]
[no-exit-message]
lock:
    '{{ tools }}/uv' {{ compile }} -o requirements/main.txt --group build pyproject.toml
    '{{ tools }}/uv' {{ compile }} -o requirements/build.txt requirements/build.in
    '{{ tools }}/uv' {{ compile }} -o requirements/dev.txt --group build --group dev -c requirements/main.txt pyproject.toml
    '{{ tools }}/uv' pip compile --quiet --generate-hashes --no-deps --python-version 3.12 --no-header --no-annotate -o requirements/container.txt requirements/container.in

compile := "pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate"

[private]
[no-exit-message]
_install *ENVIRONMENTS:
    @'{{ tools }}/python' -I scripts/setup.py "$@"
