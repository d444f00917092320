"""MXFP4 as GPT-OSS stores it: blocks of 32 inputs, 16 bytes of two e2m1 nibbles, one e8m0 scale byte per block.

`encode` rounds to the nearest code (ties to the even mantissa); `decode` is exact in float32 (and in bfloat16).
Layout: values [..., n_in] -> blocks u8 [..., n_in/32, 16], scales u8 [..., n_in/32]; byte b of a block holds input 2b in
its low nibble and input 2b+1 in its high one; value = fp4(nibble) * 2**(scale - 127).
"""

import numpy as np

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
BLOCK = 32


def encode(values):
    *prefix, n_in = values.shape
    if n_in % BLOCK:
        raise ValueError(f"MXFP4 needs rows of a multiple of {BLOCK} inputs, got {n_in}")
    v = values.astype(np.float64).reshape(*prefix, n_in // BLOCK, BLOCK)
    largest = np.abs(v).max(axis=-1)
    # the largest magnitude lands in [4, 8): floor(log2) - 2, the rule of the OCP microscaling specification
    exponent = np.floor(np.log2(np.where(largest > 0, largest, 1.0))) - 2
    scales = np.clip(exponent + 127, 0, 254).astype(np.uint8)
    scaled = np.abs(v) / np.exp2(scales.astype(np.float64) - 127)[..., None]
    distance = np.abs(scaled[..., None] - MAGNITUDES)
    nearest = distance.min(axis=-1, keepdims=True)
    # two codes at the same distance are neighbours: take the even one (its mantissa bit is 0)
    tied = distance == nearest
    code = np.argmax(tied, axis=-1)
    code = np.where((tied.sum(axis=-1) == 2) & (code % 2 == 1), code + 1, code).astype(np.uint8)
    code |= (np.signbit(v).astype(np.uint8) << 3)
    return (code[..., 0::2] | (code[..., 1::2] << 4)).astype(np.uint8), scales


def decode(blocks, scales):
    nibbles = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], BLOCK)
    values = MAGNITUDES[nibbles & 7] * np.where(nibbles & 8, np.float32(-1), np.float32(1))
    values = values * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return values.reshape(*scales.shape[:-1], scales.shape[-1] * BLOCK).astype(np.float32)
