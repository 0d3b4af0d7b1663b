"""From a version's ONNX to its engine, its manifest and what Triton loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import onnx

from engines.build import Order, build_plan
from engines.calibration import Feed, Pictures, cache_name, make_calibrator
from engines.errors import EngineError
from engines.files import MANIFEST, SERVED, engine_stem, timing_cache, write_whole
from engines.gpu import Cuda, Gpu
from engines.graphs import for_tensorrt
from engines.manifest import Manifest, listed, read
from engines.operators import refusals
from engines.pictures import batches, pictures_in
from engines.profiles import Shapes, profile_of
from engines.repository import Model, sha256


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Builds engines for the first visible GPU. `pictures`: in INT8, calibrated with these."""

    trt: ModuleType
    cuda: Cuda
    cache: Path
    workspace_bytes: int
    pictures: Path | None = None
    force: bool = False

    def make(self, model: Model, folder: Path) -> str:
        """Build the engine of a version or find it built, and choose it; return what was done.

        Raises EngineError.
        """
        gpu, precision = self.cuda.gpus()[0], self._precision(model)
        file = folder / "model.onnx"
        if not file.exists():
            raise EngineError(f"{model.name} has no {file}: run `just build-models`")
        stem = engine_stem(gpu, self.trt.__version__, precision)
        profile = profile_of(model)
        wanted = {
            "model": model.name,
            "version": folder.name,
            "onnx_sha256": sha256(file),
            "plan": f"{stem}.plan",
            "gpu": gpu.name,
            "compute_capability": gpu.compute_capability,
            "tensorrt": self.trt.__version__,
            "precision": precision,
        }
        done = "was built before"
        manifest = None if self.force else _built(folder, stem, wanted, profile)
        if manifest is None:
            done = "is built"
            plan = self._plan(model, file, gpu, precision, profile)
            write_whole(folder / f"{stem}.plan", plan)
            digest = sha256(folder / f"{stem}.plan")
            manifest = Manifest(**wanted, plan_sha256=digest, profile=listed(profile))
            manifest.write(folder / f"{stem}.json")
        write_whole(folder / SERVED, (folder / f"{stem}.plan").read_bytes())
        manifest.write(folder / MANIFEST)
        return f"{model.name} version {folder.name} {done} and chosen: {stem}.plan"

    def _precision(self, model: Model) -> str:
        """As the configuration says, or INT8. Raises EngineError for INT8 of a model in FP32."""
        said = model.parameters.get("precision", "")
        if said not in ("fp16", "fp32"):
            raise EngineError(
                f"{model.name}: the parameter `precision` of configs/tensorrt.pbtxt is {said!r} and"
                " must be fp16 or fp32"
            )
        if self.pictures is None:
            return said
        if said == "fp32":
            raise EngineError(f"{model.name} computes in FP32 alone: leave it out of --int8")
        return "int8"

    def _plan(
        self, model: Model, file: Path, gpu: Gpu, precision: str, profile: dict[str, Shapes]
    ) -> bytes:
        graph = for_tensorrt(onnx.load(str(file)))
        if refused := refusals(graph):
            raise EngineError(f"{model.name}: TensorRT's parser would refuse {'; '.join(refused)}")
        calibrator = None
        if self.pictures is not None:
            ((tensor, shapes),) = profile.items()
            files = pictures_in(self.pictures)
            letterboxed = model.parameters.get("capability") == "detect"
            shown = batches(files, shapes.optimum, letterboxed=letterboxed)
            cache = file.parent / cache_name(sha256(file), files, self.trt.__version__)
            pictures = Pictures(tensor, shapes.optimum, shown)
            calibrator = make_calibrator(self.trt, pictures, Feed(self.cuda, pictures, cache))
        order = Order(
            name=model.name,
            graph=graph.SerializeToString(),
            profile=profile,
            precision=precision,
            timing_cache=timing_cache(self.cache, gpu, self.trt.__version__),
            workspace_bytes=self.workspace_bytes,
            calibrator=calibrator,
        )
        return build_plan(self.trt, order)


def _built(
    folder: Path, stem: str, wanted: dict[str, str], profile: dict[str, Shapes]
) -> Manifest | None:
    """The manifest of an engine that is just this one, with its plan whole; else None."""
    told, plan = folder / f"{stem}.json", folder / f"{stem}.plan"
    if not (told.exists() and plan.exists()):
        return None
    manifest = read(told)
    same = all(getattr(manifest, key) == value for key, value in wanted.items())
    whole = manifest.profile == listed(profile) and manifest.plan_sha256 == sha256(plan)
    return manifest if same and whole else None
