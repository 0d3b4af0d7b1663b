"""The peer of `just bench upscale`: realesrgan's own RealESRGANer in PyTorch, same weights.

Run by bench.py with a Python that has the extra `peers`. Prints its facts as one JSON line, then
the seconds of one enlargement for each line of stdin.
"""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as transforms

# basicsr 1.4.2 imports a module that torchvision has dropped since 0.17
shim = types.ModuleType("torchvision.transforms.functional_tensor")
shim.rgb_to_grayscale = transforms.rgb_to_grayscale  # type: ignore[attr-defined]
sys.modules["torchvision.transforms.functional_tensor"] = shim

import cv2
import onnx
import realesrgan
from onnx import numpy_helper
from realesrgan.archs.srvgg_arch import SRVGGNetCompact

ONNX = Path(__file__).parents[2] / "model_repository/realesr-animevideov3-x4/1/model.onnx"


def network() -> SRVGGNetCompact:
    """SRVGGNetCompact with the published 4x weights, taken back from our ONNX file."""
    net = SRVGGNetCompact(num_feat=64, num_conv=16, upscale=4, act_type="prelu")
    graph = onnx.load(str(ONNX)).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    state = net.state_dict()
    layers = [n for n in graph.node if n.op_type in {"Conv", "PRelu"}]
    targets = [k.rpartition(".")[0] for k in state if k.endswith("weight")]
    for node, target in zip(layers, targets, strict=True):
        for source, name in zip(node.input[1:], ("weight", "bias"), strict=False):
            key = f"{target}.{name}"
            state[key] = torch.from_numpy(np.array(arrays[source])).reshape(state[key].shape)
    net.load_state_dict(state)
    return net


def main(photo: str) -> None:
    """Enlarge `photo` by 2 whenever a line comes."""
    weights = Path(photo).with_suffix(".pth")
    net = network()
    torch.save({"params": net.state_dict()}, weights)
    upsampler = realesrgan.RealESRGANer(
        scale=4, model_path=str(weights), model=net, tile=0, pre_pad=10, half=False, device="cpu"
    )
    image = cv2.imread(photo, cv2.IMREAD_UNCHANGED)
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({"engine": "RealESRGANer", "precision": "f32", **versions}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        upsampler.enhance(image, outscale=2)
        print(time.perf_counter() - began, flush=True)


main(sys.argv[1])
