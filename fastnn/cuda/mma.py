"""What a warp does together: products on tensor cores, and the conversions and moves around them.

A fragment is what one of 32 lanes holds of a small matrix, in 32-bit words. With ``g = lane // 4`` and ``t = lane % 4``
(PTX ISA, "Matrix fragments for mma.m16n8k16"):

- a sum, 16 x 8 in float32: ``c0, c1`` are row g, columns 2t and 2t + 1; ``c2, c3`` the same of row g + 8;
- 16 x 16 in 16 bits: ``a0`` is row g, columns 2t and 2t + 1; ``a1`` row g + 8; ``a2, a3`` the same at columns + 8;
- 16 x 8 (k x n) in 16 bits: ``b0`` is rows 2t and 2t + 1, column g; ``b1`` the same at rows + 8;
- tf32 holds one number in a word: 16 x 8 is ``a0`` (g, t), ``a1`` (g + 8, t), ``a2, a3`` the same at column + 4; 8 x 4
  is ``b0`` (t, g) and ``b1`` (t + 4, g).

The words are int32. In the simulator, which knows no warps, lanes meet through shared memory: there, all threads of a
block call these functions at the same points.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from fastnn.cuda._jit import SIMULATED, cuda, device, extending, types
from fastnn.cuda.intrinsics import place
from fastnn.cuda.lanes import beside, largest

__all__ = [
    "lane_id", "matrices", "matrices_transposed", "mma_bf16", "mma_fp16", "mma_tf32", "pack_bf16", "pack_fp16",
    "quad_max", "quad_sum", "relu", "round_tf32", "unpack_bf16", "unpack_fp16", "word_as_float",
]  # fmt: skip


@device
def lane_id():
    """Place of a thread in its warp; blocks have one dimension."""
    return cuda.threadIdx.x & 31


@device
def quad_sum(x):
    """The sum over the four lanes that share the rows of a fragment."""
    x += beside(x, 1)
    return x + beside(x, 2)


@device
def quad_max(x):
    """The largest number of those lanes; a NaN need not be it."""
    return largest(x, 4)


if SIMULATED:
    from functools import partial

    #: Blocks that run in the simulator have at most this many threads.
    _THREADS = 256

    def _words(numbers, dtype):
        """float32 numbers in 16 bits, two to a word; NumPy rounds to the nearest, ties to even."""
        return int(np.array(numbers, np.float32).astype(dtype).view(np.int32)[0])

    def pack_fp16(low, high):
        return _words([low, high], np.float16)

    def _half_bf16(x):
        bits = int(np.float32(x).view(np.uint32))
        if x != x:
            return 0x7FFF
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16

    def pack_bf16(low, high):
        return int(np.uint32(_half_bf16(low) | _half_bf16(high) << 16).view(np.int32))

    def round_tf32(x):
        bits = int(np.float32(x).view(np.uint32))
        if x == x and bits & 0x7F800000 != 0x7F800000:
            bits = (bits + 0x1000) & 0xFFFFE000  # ties away from zero
        return int(np.uint32(bits).view(np.int32))

    def word_as_float(word):
        return np.int32(word).view(np.float32)

    def unpack_fp16(word):
        low, high = np.array([word], np.int32).view(np.float16).astype(np.float32)
        return low, high

    def unpack_bf16(word):
        bits = int(word) & 0xFFFFFFFF
        return tuple(np.uint32(half).view(np.float32) for half in (bits << 16 & 0xFFFFFFFF, bits & 0xFFFF0000))

    def relu(x):
        return np.float32(0) if x < 0 else x

    def _decoded(words, precision):
        """Words of a fragment as numbers: one more axis, of the numbers in a word."""
        if precision == "fp16":
            return np.ascontiguousarray(words).view(np.float16).astype(np.float32).reshape(*words.shape, 2)
        if precision == "bf16":
            halves = np.ascontiguousarray(words).view(np.uint16).astype(np.uint32) << np.uint32(16)
            return halves.view(np.float32).reshape(*words.shape, 2)
        return np.ascontiguousarray(words).view(np.float32)[..., None]

    def _product(a, b, precision):
        """The 16 x 8 product of a warp's fragments, (32, 4) and (32, 2) words."""
        a, b = _decoded(a, precision), _decoded(b, precision)
        per_word = a.shape[-1]
        step = 4 * per_word
        A = np.zeros((16, 2 * step), np.float32)
        B = np.zeros((2 * step, 8), np.float32)
        for lane in range(32):
            g, first = lane >> 2, (lane & 3) * per_word
            for half in range(2):
                k = slice(first + half * step, first + half * step + per_word)
                A[g, k], A[g + 8, k] = a[lane, 2 * half], a[lane, 2 * half + 1]
                B[k, g] = b[lane, half]
        with np.errstate(all="ignore"):
            return A @ B

    def _simulated_mma(precision, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
        words = cuda.shared.array((_THREADS, 6), np.int32)
        sums = cuda.shared.array((_THREADS // 32, 16, 8), np.float32)
        thread = cuda.threadIdx.x
        warp, lane = thread >> 5, thread & 31
        words[thread] = a0, a1, a2, a3, b0, b1
        cuda.syncthreads()
        if lane == 0:
            mine = words[thread : thread + 32]
            sums[warp] = _product(mine[:, :4], mine[:, 4:], precision)
        cuda.syncthreads()
        g, j = lane >> 2, 2 * (lane & 3)
        s = sums[warp]
        with np.errstate(all="ignore"):
            return c0 + s[g, j], c1 + s[g, j + 1], c2 + s[g + 8, j], c3 + s[g + 8, j + 1]

    mma_bf16, mma_fp16, mma_tf32 = (partial(_simulated_mma, name) for name in ("bf16", "fp16", "tf32"))

    def _simulated_matrices(transposed, shared, i):
        places = cuda.shared.array(_THREADS, np.int64)
        thread = cuda.threadIdx.x
        lane = thread & 31
        first, g, t = thread - lane, lane >> 2, lane & 3
        places[thread] = i
        cuda.syncthreads()
        found = []
        for m in range(4):
            rows = [int(place) for place in places[first + 8 * m : first + 8 * m + 8]]
            if transposed:
                halves = [int(shared[rows[2 * t + k] + (g >> 1)]) >> 16 * (g & 1) & 0xFFFF for k in (0, 1)]
                found.append(int(np.uint32(halves[0] | halves[1] << 16).view(np.int32)))
            else:
                found.append(int(shared[rows[g] + t]))
        cuda.syncthreads()
        return tuple(found)

    matrices, matrices_transposed = partial(_simulated_matrices, False), partial(_simulated_matrices, True)

else:
    _word, _float = ir.IntType(32), ir.FloatType()

    def _asm(code, constraints, result, arguments, effects=False):
        return ir.InlineAsm(ir.FunctionType(result, arguments), code, constraints, side_effect=effects)

    def _by_warp(context, builder, kind, asm, arguments):
        """Call what all lanes must reach together: it may not be moved into a branch."""
        struct = builder.call(asm, arguments, attrs=("convergent",))
        return context.make_tuple(builder, kind, [builder.extract_value(struct, k) for k in range(len(kind))])

    def _mma(instruction):
        sums = ir.LiteralStructType([_float] * 4)
        code = f"mma.sync.aligned.{instruction} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
        asm = _asm(code, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", sums, [_word] * 6 + [_float] * 4)

        def mma(typingctx, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
            """The four sums of a lane, plus the product of two fragments."""
            kind = types.UniTuple(types.float32, 4)

            def codegen(context, builder, signature, args):
                return _by_warp(context, builder, signature.return_type, asm, args)

            return kind(*(types.int32,) * 6, *(types.float32,) * 4), codegen

        return extending.intrinsic(mma)

    mma_bf16 = _mma("m16n8k16.row.col.f32.bf16.bf16.f32")
    mma_fp16 = _mma("m16n8k16.row.col.f32.f16.f16.f32")
    mma_tf32 = _mma("m16n8k8.row.col.f32.tf32.tf32.f32")

    def _instruction(code, constraints, result, *arguments):
        """An intrinsic of numbers that is one instruction; types are Numba's."""
        kinds = {types.float32: _float, types.int32: _word}
        asm = _asm(code, constraints, kinds[result], [kinds[each] for each in arguments])

        def codegen(context, builder, signature, args):
            return builder.call(asm, args)

        if len(arguments) == 1:
            return extending.intrinsic(lambda typingctx, x: (result(*arguments), codegen))
        return extending.intrinsic(lambda typingctx, a, b: (result(*arguments), codegen))

    # The first operand of these conversions becomes the upper half.
    pack_bf16 = _instruction("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", types.int32, types.float32, types.float32)
    pack_fp16 = _instruction("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", types.int32, types.float32, types.float32)
    round_tf32 = _instruction("cvt.rna.tf32.f32 $0, $1;", "=r,f", types.int32, types.float32)
    word_as_float = _instruction("mov.b32 $0, $1;", "=f,r", types.float32, types.int32)
    relu = _instruction("max.NaN.f32 $0, $1, 0f00000000;", "=f,f", types.float32, types.float32)
    _low_fp16 = _instruction(
        "{.reg .b16 l, h; mov.b32 {l, h}, $1; cvt.f32.f16 $0, l;}", "=f,r", types.float32, types.int32
    )
    _high_fp16 = _instruction(
        "{.reg .b16 l, h; mov.b32 {l, h}, $1; cvt.f32.f16 $0, h;}", "=f,r", types.float32, types.int32
    )
    _low_bf16 = _instruction("shl.b32 $0, $1, 16;", "=f,r", types.float32, types.int32)
    _high_bf16 = _instruction("and.b32 $0, $1, 0xffff0000;", "=f,r", types.float32, types.int32)

    @device
    def unpack_fp16(word):
        return _low_fp16(word), _high_fp16(word)

    @device
    def unpack_bf16(word):
        return _low_bf16(word), _high_bf16(word)

    def _matrices_at(modifier):
        result = ir.LiteralStructType([_word] * 4)
        code = f"ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 {{$0,$1,$2,$3}}, [$4];"
        asm = _asm(code, "=r,=r,=r,=r,r,~{memory}", result, [_word], effects=True)

        def matrices_at(typingctx, at):
            def codegen(context, builder, signature, args):
                return _by_warp(context, builder, signature.return_type, asm, args)

            return types.UniTuple(types.int32, 4)(types.int32), codegen

        return extending.intrinsic(matrices_at)

    _straight, _transposed = _matrices_at(""), _matrices_at(".trans")

    @device
    def matrices(shared, i):
        """Four 8 x 8 matrices of 16 bits; lane 8m + r says where row r of matrix m begins: at ``shared[i]``, which is a
        multiple of 16 bytes.

        A word of the result is row g, columns 2t and 2t + 1, of one of them.
        """
        return _straight(place(shared, i))

    @device
    def matrices_transposed(shared, i):
        """The same of their transposes."""
        return _transposed(place(shared, i))
