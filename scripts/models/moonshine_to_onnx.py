"""Write Moonshine's two published graphs anew, so that rows of a batch cannot touch each other.

Run by scripts/build_models.py. The published graphs quantise activations while they run, by the
extremes of the whole batch, with operators that ONNX Runtime alone knows. Here the published
weights (8 bits, one scale a matrix) are written as FP32, activations are FP32, and all operators
are ONNX's own:

  encoder.onnx  the sound, INT16 [1, N] at 16 kHz -> keys [L, H, D, T] and values [L, H, T, D] that
                the decoder's cross attention looks at; T frames, about 41.6 a second
  decoder.onnx  one step: the last token of each row -> the likeliest next one, its natural
                logarithm of probability, and each layer's past with this step added

with L = 6 layers, H = 8 heads of D = 36 numbers. Architecture: Moonshine (arXiv 2410.15608) as in
Hugging Face's modeling_moonshine.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from gateway.models.ort_format import Weights, read_weights
from gateway.models.transformer_graph import EPSILON, HEAD, HEADS, WIDTH, Transformer, tensor

LAYERS = 6


def frames(network: Transformer, encoder: Weights) -> str:
    """Append the convolutions: `audio` as [T, WIDTH], one frame each 384 samples."""
    add, constant = network.graph.add, network.graph.constant
    numbers = add("Cast", ["audio"], "numbers", to=TensorProto.FLOAT)
    full = constant("full", np.array(2**15, np.float32))
    planes = network.shape(add("Div", [numbers, full], "unit"), "wave", 1, 1, -1)
    weight = constant("conv1.weight", encoder.tensors["conv1.weight_add_tensor"])
    wave = add("Conv", [planes, weight], "conv1", strides=[64])
    wave = add("Tanh", [wave], "tanh")
    # One group: normalised over all the time and all channels.
    whole = network.shape(wave, "whole", 1, 1, -1)
    one, none = (constant(f"group.{n}", np.array([n], np.float32)) for n in (1, 0))
    whole = add("InstanceNormalization", [whole, one, none], "group", epsilon=EPSILON)
    wave = network.shape(whole, "channels", 1, WIDTH, -1)
    scale = encoder.of("/groupnorm/Mul", 1).reshape(1, WIDTH, 1)
    offset = encoder.of("/groupnorm/Add", 1).reshape(1, WIDTH, 1)
    wave = add("Mul", [wave, constant("group.weight", scale)], "group.scaled")
    wave = add("Add", [wave, constant("group.bias", offset)], "group.moved")
    for name, stride in (("conv2", 3), ("conv3", 2)):
        weight = constant(f"{name}.weight", encoder.tensors[f"{name}.weight_add_tensor"])
        bias = constant(f"{name}.bias", encoder.tensors[f"{name}.bias"])
        wave = add("Conv", [wave, weight, bias], name, strides=[stride])
        wave = network.gelu(wave, f"{name}.gelu")
    return network.shape(add("Transpose", [wave], "time", perm=[0, 2, 1]), "frames", -1, WIDTH)


def positions(network: Transformer, rows: str) -> str:
    """Append the numbers of the rows of a tensor, FP32 [T, 1, 1]."""
    add, numbers = network.graph.add, network.graph.numbers
    shape = add("Shape", [rows], "count", start=0, end=1)
    ends = [network.graph.constant(f"range.{n}", np.array(n, np.int64)) for n in (0, 1)]
    count = add("Squeeze", [shape], "length")
    whole = add("Range", [ends[0], count, ends[1]], "range")
    whole = add("Unsqueeze", [whole, numbers("range.axes", 1, 2)], "column")
    return add("Cast", [whole], "position", to=TensorProto.FLOAT)


def encoder_model(name: str, encoder: Weights, decoder: Weights) -> onnx.ModelProto:
    """The encoder, and the decoder's cross keys and values of what it gives."""
    network = Transformer(encoder, "/")
    graph = network.graph
    rows = frames(network, encoder)
    network.angles(positions(network, rows))
    for index in range(LAYERS):
        layer = f"layers.{index}"
        normal = network.normalise(rows, f"{layer}/input_layernorm")
        query, key, value = network.query_key_value(normal, f"{layer}/self_attn")
        query = graph.add("Transpose", [query], f"{query}.by_head", perm=[1, 0, 2])
        key = graph.add("Transpose", [key], f"{key}.by_head", perm=[1, 2, 0])
        value = graph.add("Transpose", [value], f"{value}.by_head", perm=[1, 0, 2])
        attended = network.attend(query, key, value, f"{layer}/self_attn")
        attended = graph.add("Transpose", [attended], f"{attended}.by_time", perm=[1, 0, 2])
        rows = network.project(attended, rows, f"{layer}/self_attn")
        normal = network.normalise(rows, f"{layer}/post_attention_layernorm")
        hidden = network.gelu(network.linear(normal, f"{layer}/mlp/fc1"), f"{layer}/gelu")
        hidden = network.linear(hidden, f"{layer}/mlp/fc2")
        rows = graph.add("Add", [rows, hidden], f"{layer}.out")
    rows = network.normalise(rows, "layer_norm")
    crossing = Transformer(decoder, "/model/decoder/")
    for output, part, order in (("keys", "k", [1, 2, 3, 0]), ("values", "v", [1, 2, 0, 3])):
        layers = [f"layers.{index}/encoder_attn/{part}_proj" for index in range(LAYERS)]
        product = network.multiply(rows, f"{output}.product", *map(crossing.matrix, layers))
        parted = network.shape(product, f"{output}.parted", -1, LAYERS, HEADS, HEAD)
        graph.add("Transpose", [parted], output, perm=order)
    kind = TensorProto.FLOAT
    inputs = [tensor("audio", TensorProto.INT16, 1, "samples")]
    outputs = [
        tensor("keys", kind, LAYERS, HEADS, HEAD, "frames"),
        tensor("values", kind, LAYERS, HEADS, "frames", HEAD),
    ]
    return network.model(f"{name}-encoder", inputs, outputs)


def embedding(network: Transformer, decoder: Weights) -> str:
    """Append the tokens' vectors, [B, WIDTH]; the table stays 8 bits wide, for little is read."""
    add, constant = network.graph.add, network.graph.constant
    gather = decoder.inputs["/model/decoder/embed_tokens/Gather"][0]
    stem = gather.removesuffix("_quantized")
    table = constant("embedding", decoder.tensors[gather])
    rows = add("Gather", [table, "tokens"], "embedded.bytes")
    rows = add("Cast", [rows], "embedded.whole", to=TensorProto.FLOAT)
    zero = decoder.tensors[f"{stem}_zero_point"].astype(np.float32)
    rows = add("Sub", [rows, constant("embedding.zero", zero)], "embedded.signed")
    scale = constant("embedding.scale", decoder.tensors[f"{stem}_scale"])
    return add("Mul", [rows, scale], "embedded")


def cross_mask(network: Transformer) -> str:
    """Append what is added to a row's scores: 0 within its length, and beyond a huge negative."""
    add, constant = network.graph.add, network.graph.constant
    count = add("Shape", ["keys.0"], "frames.count", start=3, end=4)
    count = add("Squeeze", [count], "frames.length")
    ends = [constant(f"frames.{n}", np.array(n, np.int64)) for n in (0, 1)]
    frame = add("Range", [ends[0], count, ends[1]], "frames.range")
    length = add("Unsqueeze", ["lengths", network.graph.numbers("lengths.axes", 1, 2, 3)], "ends")
    inside = add("Less", [frame, length], "inside")
    values = [constant(f"mask.{n:g}", np.array(n, np.float32)) for n in (0, -1e9)]
    return add("Where", [inside, *values], "mask")


def next_tokens(network: Transformer, rows: str, decoder: Weights) -> None:
    """Append the likeliest token of each row and the logarithm of its probability."""
    add = network.graph.add
    projection = Transformer(decoder, "/").matrix("proj_out")
    logits = network.multiply(rows, "logits", projection)
    add("ArgMax", [logits], "next", axis=-1, keepdims=0)
    highest = add("ReduceMax", [logits], "highest", axes=[-1], keepdims=1)
    share = add("Exp", [add("Sub", [logits, highest], "below")], "shares")
    total = add("ReduceSum", [share, network.graph.numbers("total.axes", -1)], "total", keepdims=0)
    add("Neg", [add("Log", [total], "total.log")], "log_probabilities")


def decoder_model(name: str, decoder: Weights) -> onnx.ModelProto:
    """One step of the decoder, for all rows of a batch at the same position."""
    network = Transformer(decoder, "/model/decoder/")
    graph = network.graph
    rows = embedding(network, decoder)
    past = graph.add("Shape", ["past_keys.0"], "past.length", start=3, end=4)
    network.angles(graph.add("Cast", [past], "position", to=TensorProto.FLOAT))
    mask = cross_mask(network)
    for index in range(LAYERS):
        layer = f"layers.{index}"
        normal = network.normalise(rows, f"{layer}/input_layernorm")
        query, key, value = network.query_key_value(normal, f"{layer}/self_attn")
        query = network.shape(query, f"{query}.row", -1, HEADS, 1, HEAD)
        key = network.shape(key, f"{key}.column", -1, HEADS, HEAD, 1)
        value = network.shape(value, f"{value}.row", -1, HEADS, 1, HEAD)
        keys, values = f"present_keys.{index}", f"present_values.{index}"
        graph.add("Concat", [f"past_keys.{index}", key], keys, axis=3)
        graph.add("Concat", [f"past_values.{index}", value], values, axis=2)
        attended = network.attend(query, keys, values, f"{layer}/self_attn")
        rows = network.project(attended, rows, f"{layer}/self_attn")
        normal = network.normalise(rows, f"{layer}/post_attention_layernorm")
        cross = f"{layer}/encoder_attn"
        scaled = network.matrix(f"{cross}/q_proj") * HEAD**-0.5
        query = network.multiply(normal, f"{cross}.query", scaled)
        query = network.shape(query, f"{cross}.row", -1, HEADS, 1, HEAD)
        attended = network.attend(query, f"keys.{index}", f"values.{index}", cross, mask)
        rows = network.project(attended, rows, cross)
        normal = network.normalise(rows, f"{layer}/final_layernorm")
        both = network.linear(normal, f"{layer}/mlp/fc1")
        hidden, gate = network.split(both, 1, hidden=4 * WIDTH, gate=4 * WIDTH)
        open_ = graph.add("Sigmoid", [gate], f"{layer}.sigmoid")
        gate = graph.add("Mul", [gate, open_], f"{layer}.silu")
        hidden = graph.add("Mul", [hidden, gate], f"{layer}.gated")
        rows = graph.add("Add", [rows, network.linear(hidden, f"{layer}/mlp/fc2")], f"{layer}.out")
    next_tokens(network, network.normalise(rows, "norm"), decoder)
    return network.model(f"{name}-decoder", decoder_inputs(), decoder_outputs())


def decoder_inputs() -> list[onnx.ValueInfoProto]:
    """Tokens and lengths in frames of each row; past and cross keys and values of each layer."""
    kind = TensorProto.FLOAT
    inputs = [tensor(name, TensorProto.INT64, "batch") for name in ("tokens", "lengths")]
    for index in range(LAYERS):
        inputs += [
            tensor(f"past_keys.{index}", kind, "batch", HEADS, HEAD, "past"),
            tensor(f"past_values.{index}", kind, "batch", HEADS, "past", HEAD),
            tensor(f"keys.{index}", kind, "batch", HEADS, HEAD, "frames"),
            tensor(f"values.{index}", kind, "batch", HEADS, "frames", HEAD),
        ]
    return inputs


def decoder_outputs() -> list[onnx.ValueInfoProto]:
    """The next tokens, their log-probabilities, and each layer's past of the next step."""
    kind = TensorProto.FLOAT
    outputs = [
        tensor("next", TensorProto.INT64, "batch"),
        tensor("log_probabilities", kind, "batch"),
    ]
    for index in range(LAYERS):
        outputs += [
            tensor(f"present_keys.{index}", kind, "batch", HEADS, HEAD, "present"),
            tensor(f"present_values.{index}", kind, "batch", HEADS, "present", HEAD),
        ]
    return outputs


def main() -> None:
    """Write one of the two ONNX files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("part", choices=("encoder", "decoder"))
    parser.add_argument("--weights", type=Path, required=True, help="folder of the .ort files")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    decoder = read_weights(given.weights / "decoder_model_merged.ort")
    if given.part == "encoder":
        encoder = read_weights(given.weights / "encoder_model.ort")
        model = encoder_model(given.name, encoder, decoder)
    else:
        model = decoder_model(given.name, decoder)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    # Serialised here, not by onnx.save, so that the bytes are the same each time.
    given.output.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
