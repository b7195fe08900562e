"""The interpreter of PTX itself: what it computes, against NumPy, and that it finds what is wrong in a kernel.

`test_cuda_interpreted` runs this file, in a process of its own. Messages come from C++, so ``capfd`` reads them.
"""

import ctypes
import math
from fractions import Fraction

import numpy as np
import pytest
from cuda.core._utils.cuda_utils import CUDAError
from numba import cuda, float32, int32

pytestmark = pytest.mark.filterwarnings("ignore:Grid size", "ignore:Host array")

DRIVER = ctypes.CDLL("libcuda.so.1")
HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"


def test_it_calls_itself_no_gpu():
    assert cuda.get_current_device().name == "PTX interpreter"


class Source:
    """A kernel written in PTX, ``(p0, p1, ...)`` of addresses, whose body may use the registers below."""

    REGISTERS = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .f32 %f<20>; .reg .b64 %d<9>;"

    def __init__(self, body, n_arguments=0, shared=""):
        parameters = ", ".join(f".param .u64 p{k}" for k in range(n_arguments))
        loads = "".join(f"ld.param.u64 %d{k}, [p{k}];\n" for k in range(n_arguments))
        text = f"{HEAD}{shared}\n.visible .entry kernel({parameters})\n{{\n{self.REGISTERS}\n{loads}{body}\nret;\n}}\n"
        self.kernel, library = ctypes.c_void_p(), ctypes.c_void_p()
        code = DRIVER.cuLibraryLoadData(ctypes.byref(library), text.encode(), None, None, 0, None, None, 0)
        if code:
            raise ValueError(f"the driver returned {code}")
        assert DRIVER.cuLibraryGetKernel(ctypes.byref(self.kernel), library, b"kernel") == 0

    def __call__(self, *arrays, threads=32, blocks=1, shared=0):
        """Launch; the driver's code comes back."""

        class Config(ctypes.Structure):
            _fields_ = [("sizes", ctypes.c_uint * 7), ("rest", ctypes.c_uint64 * 4)]

        config = Config((blocks, 1, 1, threads, 1, 1, shared))
        values = [ctypes.c_uint64(each.__cuda_array_interface__["data"][0]) for each in arrays]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(each) for each in values))
        return DRIVER.cuLaunchKernelEx(ctypes.byref(config), self.kernel, pointers, None)


def device_words(values):
    return cuda.to_device(np.ascontiguousarray(values).view(np.uint32))


def each_lane(body, result, *operands):
    """``body`` computes %r0 from %r1, %r2, ... in each lane; arrays of 32 words."""
    place = "mov.u32 %r9, %laneid;\nmul.wide.u32 %d8, %r9, 4;\n"
    loads = "".join(f"add.s64 %d7, %d{k}, %d8;\nld.global.b32 %r{k}, [%d7];\n" for k in range(1, len(operands) + 1))
    store = "add.s64 %d7, %d0, %d8;\nst.global.b32 [%d7], %r0;"
    out = cuda.device_array(32, np.uint32)
    kernel = Source(f"{place}{loads}{body}\n{store}", len(operands) + 1)
    assert kernel(out, *map(device_words, operands)) == 0
    return out.copy_to_host().view(result)


RNG = np.random.default_rng(0)
A, B, C = (RNG.standard_normal(32).astype(np.float32) for _ in range(3))
A[:4], B[:4] = [0, -0.0, np.inf, 1e-42], [1, 2, -1, 1]


def neighbours(exact):
    """The largest float32 number that is not above a fraction, and the smallest that is not below it."""
    near = np.float32(float(exact))
    below = near if Fraction(float(near)) <= exact else np.nextafter(near, np.float32(-np.inf))
    above = near if Fraction(float(near)) >= exact else np.nextafter(near, np.float32(np.inf))
    return below, above


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["add", "mul", "fma"])
def test_roundings(name, mode):
    """Exact results by fractions, and the two numbers next to them."""
    last = ", %r3" if name == "fma" else ""
    found = each_lane(f"{name}.{mode}.f32 %r0, %r1, %r2{last};", np.float32, A, B, C)
    differ = 0
    for a, b, c, x in zip(*(each[4:].tolist() for each in (A, B, C, found)), strict=True):
        a, b, c = map(Fraction, (a, b, c))
        exact = {"add": a + b, "mul": a * b, "fma": a * b + c}[name]
        below, above = neighbours(exact)
        toward_zero = below if exact > 0 else above
        nearest = min((below, above), key=lambda each: (abs(Fraction(float(each)) - exact), each.view(np.uint32) & 1))
        assert x == {"rn": nearest, "rz": toward_zero, "rm": below, "rp": above}[mode]
        differ += below != above
    assert differ > 10


def test_subnormal_numbers():
    found = [each_lane(f"mul{flush}.f32 %r0, %r1, %r2;", np.float32, A, B)[3] for flush in ("", ".ftz")]
    assert found == [A[3], 0]


def test_a_nan_gives_way_unless_it_is_asked_for():
    a = np.full(32, np.nan, np.float32)
    np.testing.assert_array_equal(each_lane("max.f32 %r0, %r1, %r2;", np.float32, a, B), B)
    np.testing.assert_array_equal(each_lane("max.NaN.f32 %r0, %r1, %r2;", np.float32, a, B), a)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("div.s32 %r0, %r1, %r2;", lambda a, b: np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)),
        ("mul.hi.s32 %r0, %r1, %r2;", lambda a, b: a * b >> 32),
        ("mad.lo.s32 %r0, %r1, %r2, %r2;", lambda a, b: a * b + b),
        ("shr.s32 %r0, %r1, 5;", lambda a, b: a >> 5),
        ("shr.u32 %r0, %r1, 5;", lambda a, b: (a & 0xFFFFFFFF) >> 5),
        ("prmt.b32 %r0, %r1, %r2, 0x5410;", lambda a, b: a & 0xFFFF | (b & 0xFFFF) << 16),
        ("lop3.b32 %r0, %r1, %r2, %r2, 0x3c;", lambda a, b: a ^ b),
        ("bfe.u32 %r0, %r1, 3, 7;", lambda a, b: a >> 3 & 127),
        ("cvt.s32.s8 %r0, %r1;", lambda a, b: a.astype(np.int8).astype(np.int64)),
        ("min.s32 %r0, %r1, %r2;", np.minimum),
    ],
    ids=lambda each: each.split(" ")[0] if isinstance(each, str) else "",
)
def test_integers(source, wanted):
    a, b = (RNG.integers(-(1 << 31), 1 << 31, 32) for _ in range(2))
    found = each_lane(source, np.uint32, a.astype(np.int32), b.astype(np.int32))
    np.testing.assert_array_equal(found, (wanted(a, b) & 0xFFFFFFFF).astype(np.uint32))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_conversions_to_16_bits(kind):
    """The first operand becomes the upper half; NumPy knows float16, and bfloat16 is float32 cut to nearest even."""
    a, b = A * 1000, B * 1e-3
    found = each_lane(f"cvt.rn.{kind}x2.f32 %r0, %r1, %r2;", np.uint32, a, b)
    for half, given in ((found >> 16, a), (found & 0xFFFF, b)):
        if kind == "f16":
            np.testing.assert_array_equal(half.astype(np.uint16).view(np.float16), given.astype(np.float16))
        else:
            near, normal = (half << 16).view(np.float32), np.isfinite(given) & (np.abs(given) > 1e-30)
            np.testing.assert_array_equal(near[np.isinf(given)], given[np.isinf(given)])
            np.testing.assert_allclose(near[normal], given[normal], rtol=2.0**-8)


def test_numbers_become_integers():
    x = np.array([0.5, 1.5, -1.5, 2.5, np.nan, np.inf, -np.inf, 3e9] * 4, np.float32)
    found = each_lane("cvt.rni.s32.f32 %r0, %r1;", np.int32, x)
    np.testing.assert_array_equal(found[:8], [0, 2, -2, 2, 0, 2**31 - 1, -(2**31), 2**31 - 1])


def test_divergence():
    """Lanes take branches of their own, some of them loops of different lengths, and meet again."""

    @cuda.jit
    def collatz(out):
        n, steps = cuda.grid(1) + 1, 0
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            steps += 1
        out[cuda.grid(1)] = steps + 1000 * cuda.shfl_sync(0xFFFFFFFF, steps, 26)

    def steps_of(n):
        return 0 if n == 1 else 1 + steps_of(3 * n + 1 if n % 2 else n // 2)

    out = cuda.device_array(32, np.int64)
    collatz[1, 32](out)
    np.testing.assert_array_equal(out.copy_to_host(), [steps_of(n) + 1000 * steps_of(27) for n in range(1, 33)])


@pytest.mark.parametrize(
    ("mode", "argument", "wanted"),
    [
        ("idx", 5, lambda lane: lane // 8 * 8 + 5),
        ("up", 3, lambda lane: lane - 3 if lane % 8 >= 3 else lane),
        ("down", 3, lambda lane: lane + 3 if lane % 8 < 5 else lane),
        ("bfly", 3, lambda lane: lane ^ 3),
    ],
)
def test_shuffles_of_eight_lanes(mode, argument, wanted):
    c = 24 << 8 | (0 if mode == "up" else 7)
    found = each_lane(f"shfl.sync.{mode}.b32 %r0, %r1, {argument}, {c}, -1;", np.uint32, np.arange(32, dtype=np.uint32))
    np.testing.assert_array_equal(found, [wanted(lane) for lane in range(32)])


def test_a_shuffle_that_not_all_lanes_reach_is_found(capfd):
    assert Source("mov.u32 %r1, %laneid;\nsetp.lt.u32 %p0, %r1, 7;\n@%p0 shfl.sync.idx.b32 %r0, %r1, 0, 31, -1;")() != 0
    assert "lanes of the mask are elsewhere" in capfd.readouterr().err


def rounded_to(precision, x):
    """float32 numbers that the precision holds."""
    if precision == "f16":
        return x.astype(np.float16).astype(np.float32)
    return (x.view(np.uint32) & np.uint32(0xFFFF0000 if precision == "bf16" else 0xFFFFE000)).view(np.float32)


def encoded(precision, x):
    """Numbers as registers hold them, two of 16 bits in one."""
    if precision == "tf32":
        return x.view(np.uint32)
    halves = x.astype(np.float16).view(np.uint16) if precision == "f16" else (x.view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(halves).view(np.uint32)


@pytest.mark.parametrize("precision", ["f16", "bf16", "tf32"])
def test_products_of_matrices(precision):
    """Fragments as the ISA's formulas place them: row and column by group = lane // 4 and place = lane % 4."""
    per_word = 1 if precision == "tf32" else 2
    K = 8 * per_word
    a, b = (rounded_to(precision, RNG.standard_normal(shape).astype(np.float32)) for shape in ((16, K), (K, 8)))
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    in_a, in_b, in_c = (np.zeros((n, 32), np.uint32) for n in (4, 2, 4))
    for lane in range(32):
        group, place = divmod(lane, 4)
        for i in range(4):
            row, first = group + 8 * (i % 2), per_word * place + 4 * per_word * (i // 2)
            in_a[i, lane] = encoded(precision, a[row, first : first + per_word].copy())[0]
            in_c[i, lane] = c[group + 8 * (i // 2), 2 * place + i % 2].view(np.uint32)
        for i in range(2):
            first = per_word * place + 4 * per_word * i
            in_b[i, lane] = encoded(precision, b[first : first + per_word, group].copy())[0]
    registers = np.concatenate([in_a, in_b, in_c])
    loads = "".join(f"ld.global.b32 %r{k}, [%d7+{128 * k}];\n" for k in range(10))
    stores = "".join(f"st.global.b32 [%d6+{128 * k}], %r{20 + k};\n" for k in range(4))
    kernel = Source(
        "mov.u32 %r30, %laneid;\nmul.wide.u32 %d8, %r30, 4;\nadd.s64 %d7, %d0, %d8;\nadd.s64 %d6, %d1, %d8;\n"
        f"{loads}mma.sync.aligned.m16n8k{K}.row.col.f32.{precision}.{precision}.f32 {{%r20,%r21,%r22,%r23}}, "
        f"{{%r0,%r1,%r2,%r3}}, {{%r4,%r5}}, {{%r6,%r7,%r8,%r9}};\n{stores}", 2,
    )  # fmt: skip
    out = cuda.device_array((4, 32), np.uint32)
    assert kernel(cuda.to_device(registers), out) == 0
    found, wanted = out.copy_to_host().view(np.float32), a.astype(float) @ b.astype(float) + c
    for lane in range(32):
        group, place = divmod(lane, 4)
        for i in range(4):
            exact = wanted[group + 8 * (i // 2), 2 * place + i % 2]
            assert math.isclose(found[i, lane], exact, rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_loads_of_matrices(transposed):
    """Rows of 8 numbers lie one after the other; a lane gets two of row lane // 4, or of column lane // 4."""
    numbers = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    kernel = Source(
        "mov.u32 %r9, %laneid;\nmul.wide.u32 %d8, %r9, 16;\nadd.s64 %d7, %d0, %d8;\n"
        "ld.global.v4.b32 {%r0,%r1,%r2,%r3}, [%d7];\nmov.u32 %r8, rows;\nmad.lo.s32 %r8, %r9, 16, %r8;\n"
        "st.shared.v4.b32 [%r8], {%r0,%r1,%r2,%r3};\nbar.warp.sync -1;\n"
        f"ldmatrix.sync.aligned.m8n8.x4{'.trans' * transposed}.shared.b16 {{%r4,%r5,%r6,%r7}}, [%r8];\n"
        "add.s64 %d6, %d1, %d8;\nst.global.v4.b32 [%d6], {%r4,%r5,%r6,%r7};",
        2, ".shared .align 16 .b8 rows[512];",
    )  # fmt: skip
    out = cuda.device_array((32, 4), np.uint32)
    assert kernel(device_words(numbers), out) == 0
    found = out.copy_to_host().view(np.uint16).reshape(32, 4, 2)
    if transposed:
        numbers = numbers.transpose(0, 2, 1)
    for lane in range(32):
        first = 2 * (lane % 4)
        np.testing.assert_array_equal(found[lane], numbers[:, lane // 4, first : first + 2])


def test_shared_memory_and_barriers():
    @cuda.jit
    def reverse(x):
        inside = cuda.shared.array(100, int32)
        t = cuda.threadIdx.x
        inside[t] = x[t]
        cuda.syncthreads()
        x[t] = inside[99 - t]

    x = np.arange(100, dtype=np.int32)
    on_device = cuda.to_device(x)
    reverse[1, 100](on_device)
    np.testing.assert_array_equal(on_device.copy_to_host(), x[::-1])


def test_a_misaligned_load_is_found(capfd):
    assert Source("ld.global.b32 %r0, [%d0+2];", 1)(cuda.to_device(np.zeros(4, np.int32))) != 0
    assert "misaligned address" in capfd.readouterr().err


@pytest.mark.parametrize("offset", [-4, 16])
@pytest.mark.parametrize("access", ["ld.global.b32 %r0, [%d0+{}];", "st.global.b32 [%d0+{}], 0;"])
def test_an_access_out_of_global_bounds_is_found(capfd, access, offset):
    assert Source(access.format(offset), 1)(cuda.to_device(np.zeros(4, np.int32))) != 0
    assert "global memory, out of bounds" in capfd.readouterr().err


def test_memory_that_was_freed_is_out_of_bounds(capfd):
    pointer = ctypes.c_uint64()
    assert DRIVER.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(16)) == 0
    assert DRIVER.cuMemFree_v2(pointer) == 0
    assert Source(f"mov.u64 %d0, {pointer.value};\nld.global.b32 %r0, [%d0];")() != 0
    assert "global memory, out of bounds" in capfd.readouterr().err


@pytest.mark.parametrize("through", ["st.shared.b32 [%r0+16], 0;", "cvta.shared.u64 %d0, %d1;\nst.b32 [%d0+16], 0;"])
def test_an_access_out_of_shared_bounds_is_found(capfd, through):
    kernel = Source(f"mov.u32 %r0, few;\nmov.u64 %d1, few;\n{through}", 0, ".shared .align 4 .b8 few[16];")
    assert kernel() != 0
    assert "shared memory, out of bounds" in capfd.readouterr().err


def test_too_much_shared_memory_is_refused(capfd):
    @cuda.jit
    def kernel():
        cuda.shared.array(0, float32)[cuda.threadIdx.x] = 0

    kernel[1, 32, 0, 48 * 1024]()
    with pytest.raises(CUDAError):
        kernel[1, 32, 0, 48 * 1024 + 4]()
    assert "more shared memory than the kernel may have" in capfd.readouterr().err


BARRIERS = {
    "other threads wait at another one": "@%p0 bra THERE;\nbar.sync 0;\nret;\nTHERE:\nbar.sync 0;",
    "some threads have returned": "@%p0 ret;\nbar.sync 0;",
}


@pytest.mark.parametrize("what", BARRIERS)
@pytest.mark.parametrize("bound", [7, 32])  # within a warp, and between warps
def test_a_barrier_that_not_all_reach_is_found(capfd, what, bound):
    kernel = Source(f"mov.u32 %r0, %tid.x;\nsetp.lt.u32 %p0, %r0, {bound};\n{BARRIERS[what]}")
    assert kernel(threads=64) != 0
    assert what in capfd.readouterr().err


IN_ORDER, WITHOUT = "bar.sync 0;", ""
RACES = {  # what happens between a write by thread 0 and a read by thread `reader`
    "between warps": (40, WITHOUT, True),
    "between warps, at a warp's barrier": (40, "bar.warp.sync -1;", True),
    "between warps, in order": (40, IN_ORDER, False),
    "within a warp": (3, WITHOUT, True),
    "within a warp, in order": (3, "bar.warp.sync -1;", False),
    "a thread's own": (0, WITHOUT, False),
}


@pytest.mark.parametrize("name", RACES)
@pytest.mark.parametrize("first", ["write", "read"])
def test_races_in_shared_memory(capfd, name, first):
    reader, between, is_race = RACES[name]
    accesses = ["@%p0 st.shared.b32 [%r9], 1;", "@%p1 ld.shared.b32 %r1, [%r9];"]
    one, other = accesses if first == "write" else accesses[::-1]
    kernel = Source(
        f"mov.u32 %r0, %tid.x;\nmov.u32 %r9, word;\nsetp.eq.u32 %p0, %r0, 0;\nsetp.eq.u32 %p1, %r0, {reader};\n"
        f"{one}\n{between}\n{other}", 0, ".shared .align 4 .b8 word[4];",
    )  # fmt: skip
    assert (kernel(threads=64) != 0) is is_race
    assert ("race in shared memory" in capfd.readouterr().err) is is_race


@pytest.mark.parametrize(
    ("source", "is_race"),
    [
        ("st.global.b32 [%d0], %r0;", True),
        ("st.global.b32 [%d0], 7;", False),
        ("@%p0 st.global.b32 [%d0], 1;\n@!%p0 ld.global.b32 %r1, [%d0];", True),
        ("ld.global.b32 %r1, [%d0];", False),
        ("st.global.b32 [%d1], 1;", False),
        ("red.global.add.u32 [%d0], 1;", False),
    ],
    ids=["write, write", "the same value", "write, read", "reads", "words of their own", "atomic"],
)
def test_races_between_blocks(capfd, source, is_race):
    places = "mul.wide.u32 %d1, %r0, 4;\nadd.s64 %d1, %d1, %d0;"
    kernel = Source(f"mov.u32 %r0, %ctaid.x;\nsetp.eq.u32 %p0, %r0, 0;\n{places}\n{source}", 1)
    assert (kernel(cuda.to_device(np.zeros(4, np.int32)), threads=1, blocks=3) != 0) is is_race
    assert ("race in global memory" in capfd.readouterr().err) is is_race


def test_what_it_does_not_know_it_refuses(capfd):
    with pytest.raises(ValueError):
        Source("wgmma.fence.sync.aligned;")
    assert "unknown instruction wgmma" in capfd.readouterr().err


def test_calls_are_refused_where_they_are_reached(capfd):
    function = ".func inner() { ret; }"
    body = "mov.u32 %r0, %tid.x;\nsetp.gt.u32 %p0, %r0, {};\n@%p0 call inner, ();"
    assert Source(body.format(99), 0, function)() == 0
    assert Source(body.format(9), 0, function)() != 0
    assert "calls of functions are not interpreted" in capfd.readouterr().err
