"""Writes blocks.bin: random blocks of every GGUF encoding that Quern reads, and their values by the
`gguf` package (pip install gguf==0.19.0 numpy; run in this folder).

For each encoding: its number in GGUF (u32), the count of blocks (u32), their bytes, their values (f32).
All little-endian. Bytes are random; the binary16 scales among them run through extremes: zeros of both
signs, subnormal, largest, and ordinary ones. No NaN: what its bits are is nobody's promise.
"""

import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

BLOCKS = {32: 24, 64: 16, 256: 8}

# Where the binary16 scales of each encoding lie within a block; of IQ1_M, the bytes whose upper halves hold its four
# pieces.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.IQ4_NL: [0], Type.IQ4_XS: [0], Type.MXFP4: [],
    Type.IQ1_S: [0], Type.IQ1_M: [49, 51, 53, 55], Type.IQ2_XXS: [0], Type.IQ2_XS: [0], Type.IQ2_S: [0],
    Type.IQ3_XXS: [0], Type.IQ3_S: [0], Type.TQ1_0: [52], Type.TQ2_0: [64], Type.NVFP4: [],
}
EXTREMES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x0400]


def main() -> None:
    rng = np.random.default_rng(20261125)
    with open("blocks.bin", "wb") as out:
        for encoding, halves in HALVES.items():
            elements, size = GGML_QUANT_SIZES[encoding]
            count = BLOCKS[elements]
            blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
            for i, block in enumerate(blocks):
                for at in halves[:1] if encoding == Type.IQ1_M else halves:
                    if i < len(EXTREMES) - (elements == 256):
                        half = EXTREMES[(i + at) % len(EXTREMES)]
                    else:
                        half = int(np.float16(rng.normal() * 0.01).view(np.uint16))
                    if encoding == Type.IQ1_M:
                        for place, piece in zip(halves, [half & 15, half >> 4 & 15, half >> 8 & 15, half >> 12]):
                            block[place] = block[place] & 15 | piece << 4
                    else:
                        block[at : at + 2] = [half & 255, half >> 8]
                if encoding == Type.MXFP4:
                    # 254 is the largest exponent (its values may be infinite); 255 would be a NaN by the standard.
                    block[0] = [0, 1, 2, 126, 127, 128, 253, 254][i % 8]
                if encoding == Type.NVFP4:
                    # No signs: what they would mean is nobody's promise either. 127 is 0 there.
                    block[:4] = [i * 4 % 128, (i * 4 + 1) % 128, 126 - i, 127 if i == 5 else int(block[3]) & 127]
            values = dequantize(blocks, encoding).astype("<f4").reshape(count, elements)
            assert not np.isnan(values).any(), encoding
            out.write(struct.pack("<II", int(encoding), count) + blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
