// Numbers that C++ has no types for, as their bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ptx {

constexpr uint16_t NAN_16 = 0x7fff;  // what conversions to 16 bits make of every NaN

template <class To, class From>
To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

inline float from_f16(uint16_t bits) {
    return float(same_bits<_Float16>(bits));
}

inline uint16_t to_f16(float x) {
    return std::isnan(x) ? NAN_16 : same_bits<uint16_t>(_Float16(x));
}

inline float from_bf16(uint16_t bits) {
    return same_bits<float>(uint32_t(bits) << 16);
}

inline uint16_t to_bf16(float x) {  // to nearest even
    const uint32_t bits = same_bits<uint32_t>(x);
    return std::isnan(x) ? NAN_16 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// 10 bits of the mantissa are left; what lies below them is not looked at.
inline float from_tf32(uint32_t bits) {
    return same_bits<float>(bits & 0xffffe000);
}

inline uint32_t to_tf32(float x) {  // to nearest, ties away from zero
    const uint32_t bits = same_bits<uint32_t>(x);
    return std::isfinite(x) ? (bits + 0x1000) & 0xffffe000 : bits;
}

}  // namespace ptx
