// Integers, bits and predicates.
#include <limits>

#include "operations.hpp"

namespace ptx {
namespace {

__extension__ typedef __int128 Signed128;
__extension__ typedef unsigned __int128 Unsigned128;

template <class T>
T high_half(T a, T b) {
    using Wide = std::conditional_t<std::is_signed_v<T>, Signed128, Unsigned128>;
    return T((Wide(a) * Wide(b)) >> (8 * sizeof(T)));
}

template <class T>
bool overflows(T a, T b) {
    return std::is_signed_v<T> && b == T(-1) && a == std::numeric_limits<T>::min();
}

template <class T>
void add_type(Table& table, const std::string& type) {
    using U = std::make_unsigned_t<T>;
    constexpr uint32_t BITS = 8 * sizeof(T);
    // Unsigned: signed overflow has no meaning in C++; 1u keeps short operands from becoming int.
    table["add." + type] = lanewise<U(U, U)>([](U a, U b) { return a + b; });
    table["sub." + type] = lanewise<U(U, U)>([](U a, U b) { return a - b; });
    table["mul.lo." + type] = lanewise<U(U, U)>([](U a, U b) { return 1u * a * b; });
    table["mad.lo." + type] = lanewise<U(U, U, U)>([](U a, U b, U c) { return 1u * a * b + c; });
    table["neg." + type] = lanewise<U(U)>([](U a) { return 0 - a; });
    table["abs." + type] = lanewise<T(T)>([](T a) { return a < 0 ? T(U(0) - U(a)) : a; });
    table["mul.hi." + type] = lanewise<T(T, T)>(high_half<T>);
    table["mad.hi." + type] = lanewise<U(T, T, U)>([](T a, T b, U c) { return U(high_half(a, b)) + c; });
    table["div." + type] = lanewise<T(T, T)>([](T a, T b) { return b == 0 ? T(-1) : overflows(a, b) ? a : T(a / b); });
    table["rem." + type] = lanewise<T(T, T)>([](T a, T b) { return b == 0 ? a : overflows(a, b) ? T(0) : T(a % b); });
    table["min." + type] = lanewise<T(T, T)>([](T a, T b) { return std::min(a, b); });
    table["max." + type] = lanewise<T(T, T)>([](T a, T b) { return std::max(a, b); });
    table["shr." + type] = lanewise<T(T, uint32_t)>([](T a, uint32_t n) {
        return n < BITS ? T(a >> n) : std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
    });
    table["setp.eq." + type] = lanewise<bool(T, T)>([](T a, T b) { return a == b; });
    table["setp.ne." + type] = lanewise<bool(T, T)>([](T a, T b) { return a != b; });
    table["setp.lt." + type] = lanewise<bool(T, T)>([](T a, T b) { return a < b; });
    table["setp.le." + type] = lanewise<bool(T, T)>([](T a, T b) { return a <= b; });
    table["setp.gt." + type] = lanewise<bool(T, T)>([](T a, T b) { return a > b; });
    table["setp.ge." + type] = lanewise<bool(T, T)>([](T a, T b) { return a >= b; });
    if (std::is_unsigned_v<T>) {
        table["setp.lo." + type] = table["setp.lt." + type];
        table["setp.ls." + type] = table["setp.le." + type];
        table["setp.hi." + type] = table["setp.gt." + type];
        table["setp.hs." + type] = table["setp.ge." + type];
    }
}

template <class U>
void add_bits(Table& table, const std::string& bits) {
    table["and.b" + bits] = lanewise<U(U, U)>([](U a, U b) { return a & b; });
    table["or.b" + bits] = lanewise<U(U, U)>([](U a, U b) { return a | b; });
    table["xor.b" + bits] = lanewise<U(U, U)>([](U a, U b) { return a ^ b; });
    table["not.b" + bits] = lanewise<U(U)>([](U a) { return ~a; });
    table["shl.b" + bits] = lanewise<U(U, uint32_t)>([](U a, uint32_t n) { return n < 8 * sizeof(U) ? a << n : 0; });
    table["shr.b" + bits] = table["shr.u" + bits];
    table["setp.eq.b" + bits] = table["setp.eq.u" + bits];
    table["setp.ne.b" + bits] = table["setp.ne.u" + bits];
    for (const char* kind : {"b", "u", "s", "f"}) {
        table["mov." + (kind + bits)] = lanewise<U(U)>([](U a) { return a; });
        table["selp." + (kind + bits)] = lanewise<U(U, U, bool)>([](U a, U b, bool p) { return p ? a : b; });
    }
}

template <class U>
U low_ones(uint32_t n) {
    return n < 8 * sizeof(U) ? (U(1) << n) - 1 : ~U(0);
}

template <class U>
U insert_field(U a, U b, uint32_t position, uint32_t length) {
    position &= 255;
    if (position >= 8 * sizeof(U)) return b;
    const U field = low_ones<U>(length & 255) << position;
    return (b & ~field) | ((a << position) & field);
}

uint64_t two_words(uint32_t low, uint32_t high) {
    return uint64_t(high) << 32 | low;
}

uint32_t permuted_bytes(uint32_t a, uint32_t b, uint32_t selection) {
    uint32_t result = 0;
    for (int k = 0; k < 4; k++) {
        const uint32_t selected = selection >> 4 * k;
        uint32_t byte = two_words(a, b) >> 8 * (selected & 7) & 255;
        if (selected & 8) byte = byte & 128 ? 255 : 0;  // its sign alone
        result |= byte << 8 * k;
    }
    return result;
}

uint32_t by_truth_table(uint32_t a, uint32_t b, uint32_t c, uint32_t truth) {
    uint32_t result = 0;
    for (int k = 0; k < 32; k++) {
        const uint32_t row = (a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1);
        result |= (truth >> row & 1) << k;
    }
    return result;
}

void add_patterns(Table& table) {
    using U = uint32_t;
    using UU = uint64_t;
    table["popc.b32"] = lanewise<U(U)>([](U a) { return __builtin_popcount(a); });
    table["popc.b64"] = lanewise<U(UU)>([](UU a) { return __builtin_popcountll(a); });
    table["clz.b32"] = lanewise<U(U)>([](U a) { return a ? __builtin_clz(a) : 32; });
    table["clz.b64"] = lanewise<U(UU)>([](UU a) { return a ? __builtin_clzll(a) : 64; });
    table["bfe.u32"] = lanewise<U(U, U, U)>([](U a, U position, U length) {
        position &= 255;
        return position < 32 ? a >> position & low_ones<U>(length & 255) : 0;
    });
    table["bfi.b32"] = lanewise<U(U, U, U, U)>(insert_field<U>);
    table["bfi.b64"] = lanewise<UU(UU, UU, U, U)>(insert_field<UU>);
    table["shf.l.wrap.b32"] = lanewise<U(U, U, U)>([](U a, U b, U n) { return two_words(a, b) << (n & 31) >> 32; });
    table["shf.r.wrap.b32"] = lanewise<U(U, U, U)>([](U a, U b, U n) { return two_words(a, b) >> (n & 31); });
    table["prmt.b32"] = lanewise<U(U, U, U)>(permuted_bytes);
    table["lop3.b32"] = lanewise<U(U, U, U, U)>(by_truth_table);
    table["pack2.b64"] = lanewise<UU(U, U)>(two_words);
    table["pack2.b32"] = lanewise<U(uint16_t, uint16_t)>([](U low, U high) { return high << 16 | low; });
}

// The parts of a register, from the lowest one on.
template <class Part>
void unpack(Warp& warp, const Instruction& instruction, Mask active) {
    for_each_lane(active, [&](int lane) {
        const uint64_t whole = get<uint64_t>(warp, instruction.operands[0], lane);
        for (int k = 0; k < instruction.n_results; k++) {
            put<Part>(warp, instruction.results[k], lane, Part(whole >> 8 * sizeof(Part) * k));
        }
    });
}

// Sums of 32 bits with the carry of the one before (in) and for the one after (out).
template <class F>
Operation with_carry(bool in, bool out, F f) {
    return [in, out, f](Warp& warp, const Instruction& instruction, Mask active) {
        for_each_lane(active, [&](int lane) {
            const auto operand = [&](int k) { return uint64_t(get<uint32_t>(warp, instruction.operands[k], lane)); };
            const uint64_t sum = f(operand) + (in ? warp.carry[lane] : 0);
            if (out) warp.carry[lane] = uint32_t(sum >> 32);
            put<uint32_t>(warp, instruction.results[0], lane, uint32_t(sum));
        });
    };
}

void add_carries(Table& table) {
    for (const bool in : {false, true}) {
        for (const bool out : {false, true}) {
            const std::string c = in ? "c" : "", cc = out ? ".cc" : "";
            if (!in && !out) continue;
            for (const char* type : {".u32", ".s32"}) {
                table["add" + c + cc + type] = with_carry(in, out, [](auto x) { return x(0) + x(1); });
                table["mad" + c + ".lo" + cc + type] =
                    with_carry(in, out, [](auto x) { return uint64_t(uint32_t(x(0) * x(1))) + x(2); });
            }
            table["mad" + c + ".hi" + cc + ".u32"] =
                with_carry(in, out, [](auto x) { return (x(0) * x(1) >> 32) + x(2); });
        }
    }
}

}  // namespace

void add_integers(Table& table) {
    add_type<int16_t>(table, "s16");
    add_type<uint16_t>(table, "u16");
    add_type<int32_t>(table, "s32");
    add_type<uint32_t>(table, "u32");
    add_type<int64_t>(table, "s64");
    add_type<uint64_t>(table, "u64");
    add_bits<uint16_t>(table, "16");
    add_bits<uint32_t>(table, "32");
    add_bits<uint64_t>(table, "64");
    table["selp.b8"] = table["selp.b16"];
    table["unpack2.b64"] = unpack<uint32_t>;
    table["unpack2.b32"] = unpack<uint16_t>;
    add_patterns(table);
    add_carries(table);

    table["mul.wide.s32"] = lanewise<int64_t(int32_t, int32_t)>([](int64_t a, int64_t b) { return a * b; });
    table["mul.wide.u32"] = lanewise<uint64_t(uint32_t, uint32_t)>([](uint64_t a, uint64_t b) { return a * b; });
    table["mul.wide.s16"] = lanewise<int32_t(int16_t, int16_t)>([](int32_t a, int32_t b) { return a * b; });
    table["mul.wide.u16"] = lanewise<uint32_t(uint16_t, uint16_t)>([](uint32_t a, uint32_t b) { return a * b; });
    table["mad.wide.s32"] =
        lanewise<uint64_t(int32_t, int32_t, uint64_t)>([](int64_t a, int64_t b, uint64_t c) { return a * b + c; });
    table["mad.wide.u32"] =
        lanewise<uint64_t(uint32_t, uint32_t, uint64_t)>([](uint64_t a, uint64_t b, uint64_t c) { return a * b + c; });

    table["mov.pred"] = lanewise<bool(bool)>([](bool a) { return a; });
    table["not.pred"] = lanewise<bool(bool)>([](bool a) { return !a; });
    table["and.pred"] = lanewise<bool(bool, bool)>([](bool a, bool b) { return a && b; });
    table["or.pred"] = lanewise<bool(bool, bool)>([](bool a, bool b) { return a || b; });
    table["xor.pred"] = lanewise<bool(bool, bool)>([](bool a, bool b) { return a != b; });
}

}  // namespace ptx
