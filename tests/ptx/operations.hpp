// The table of operations, by opcode and modifiers, and what its files share.
//
// A register has 64 bits for each lane. An operation reads as many of them as its type has; what it writes fills them
// all: an integer with its sign, anything else with zeros.
#pragma once

#include <cfenv>
#include <cstring>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "machine.hpp"

namespace ptx {

using Table = std::unordered_map<std::string, Operation>;

const Table& operations();

void add_integers(Table& table);
void add_floats(Table& table);
void add_conversions(Table& table);
void add_warps(Table& table);
void add_memory(Table& table);

template <class T>
T get(const Warp& warp, int reg, int lane) {
    if constexpr (std::is_same_v<T, bool>) return warp.lanes(reg)[lane] & 1;
    T value;
    std::memcpy(&value, warp.lanes(reg) + lane, sizeof value);
    return value;
}

template <class T>
void put(Warp& warp, int reg, int lane, T value) {
    uint64_t bits = 0;
    if constexpr (std::is_integral_v<T>) bits = uint64_t(value);
    else std::memcpy(&bits, &value, sizeof value);
    warp.lanes(reg)[lane] = bits;
}

template <class F>
void for_each_lane(Mask active, F f) {
    if (active == ALL) {
        for (int lane = 0; lane < LANES; lane++) f(lane);
        return;
    }
    for (int lane = 0; lane < LANES; lane++) {
        if (active >> lane & 1) f(lane);
    }
}

// lanewise<R(A, B)>(f): result = f(operand 0, operand 1) in each lane, in these types.
template <class Signature>
struct Lanewise;

template <class Result, class... Operands>
struct Lanewise<Result(Operands...)> {
    template <class F, size_t... K>
    static Operation make(F f, std::index_sequence<K...>) {
        return [f](Warp& warp, const Instruction& instruction, Mask active) {
            for_each_lane(active, [&](int lane) {
                const Result result = f(get<Operands>(warp, instruction.operands[K], lane)...);
                put<Result>(warp, instruction.results[0], lane, result);
            });
        };
    }
    template <class F>
    static Operation make(F f) {
        return make(f, std::index_sequence_for<Operands...>());
    }
};

template <class Signature, class F>
Operation lanewise(F f) {
    return Lanewise<Signature>::make(f);
}

// How a result is rounded, as opcodes say it; without a word, to nearest even.
struct Rounding {
    const char* modifier;
    int mode;  // of fesetround
};

constexpr Rounding ROUNDINGS[] = {
    {"", FE_TONEAREST}, {".rn", FE_TONEAREST}, {".rz", FE_TOWARDZERO}, {".rm", FE_DOWNWARD}, {".rp", FE_UPWARD},
};

inline Operation with_rounding(int mode, Operation operation) {
    if (mode == FE_TONEAREST) return operation;
    return [mode, operation](Warp& warp, const Instruction& instruction, Mask active) {
        std::fesetround(mode);
        operation(warp, instruction, active);
        std::fesetround(FE_TONEAREST);
    };
}

}  // namespace ptx
