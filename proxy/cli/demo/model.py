"""A small synthetic safetensors model: shards, index, config and tokenizer files.

Format: https://huggingface.co/docs/safetensors - 8 bytes of little-endian header length, a JSON header that names
each tensor's type, shape and byte offsets, then the tensors' bytes.
"""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from proxy.blocks import update_sum
from proxy.objects import SumKind

SHARDS = 4
LAYERS_PER_SHARD = 4
HIDDEN = 1024
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    name: str
    size_bytes: int
    crc32c: int


def make_model(folder: Path, total_bytes: int) -> list[ModelFile]:
    """Write the model's files into an existing folder, about `total_bytes` in total."""
    files: list[ModelFile] = []
    weight_map: dict[str, str] = {}
    rows = max(1, total_bytes // SHARDS // LAYERS_PER_SHARD // (HIDDEN * 2))
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = [f"model.layers.{shard * LAYERS_PER_SHARD + layer}.weight" for layer in range(LAYERS_PER_SHARD)]
        files.append(_write_shard(folder / name, tensors, rows, seed=shard))
        weight_map |= dict.fromkeys(tensors, name)
    size_bytes = sum(file.size_bytes for file in files)
    texts = {
        "model.safetensors.index.json": {"metadata": {"total_size": size_bytes}, "weight_map": weight_map},
        "config.json": {"architectures": ["DemoForCausalLM"], "hidden_size": HIDDEN, "torch_dtype": "bfloat16"},
        "tokenizer_config.json": {"tokenizer_class": "DemoTokenizer", "model_max_length": 4096},
        "tokenizer.json": {"version": "1.0", "model": {"vocab": {f"word{n}": n for n in range(32_000)}}},
    }
    for name, value in texts.items():
        files.append(_write_text(folder / name, json.dumps(value, indent=1)))
    return files


def _write_shard(path: Path, tensors: list[str], rows: int, seed: int) -> ModelFile:
    tensor_bytes = rows * HIDDEN * 2
    header = {
        name: {"dtype": "BF16", "shape": [rows, HIDDEN], "data_offsets": [n * tensor_bytes, (n + 1) * tensor_bytes]}
        for n, name in enumerate(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    pattern = random.Random(seed).randbytes(_CHUNK_BYTES)
    crc, left = update_sum(SumKind.CRC32C, memoryview(head)), tensor_bytes * len(tensors)
    with path.open("wb") as file:
        file.write(head)
        number = 0
        while left:
            # Every chunk differs, so that bytes from the wrong place are noticed.
            chunk = memoryview(struct.pack("<Q", number) + pattern[8:])[:left]
            file.write(chunk)
            crc = update_sum(SumKind.CRC32C, chunk, crc)
            left -= len(chunk)
            number += 1
    return ModelFile(path.name, path.stat().st_size, crc)


def _write_text(path: Path, text: str) -> ModelFile:
    data = text.encode()
    path.write_bytes(data)
    return ModelFile(path.name, len(data), update_sum(SumKind.CRC32C, memoryview(data)))
